"""The choice of the execution provider."""

import logging
from collections.abc import Callable

from dpd_runtime.engines.engine import BF16, FP32, PRECISIONS, Provider
from dpd_runtime.engines.execution_providers import FLAVOURS, NAMES, available_providers
from dpd_runtime.errors import CheckError, InputError, MissingExtraError, ProviderError
from dpd_runtime.installation import install_command

_log = logging.getLogger(__name__)
PROVIDERS = ("auto", "cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx")


def choose_provider(
    requested: str,
    attempt: Callable[[Provider], object],
    device: int | None = None,
    precision: str = FP32,
    *,
    listed: Callable[[], tuple[str, ...]] = available_providers,
) -> Provider:
    """Resolve `--provider`, `--device` and `--precision`.

    Args:
        attempt: uses a provider as far as it must work. It can fail, because a wheel may list a provider without its
            driver and libraries, or because it gives other images than PyTorch.
        device: number of the GPU; None for the first, for openvino for the CPU.
        precision: one of PRECISIONS; bf16 with openvino only.
        listed: the providers that the installed packages bring, `Host.available_providers` of where graphs will run.

    Raises:
        InputError: an unknown provider, a device for the CPU, a negative one, or a precision that it does not have.
        ProviderError: a provider that does not work here.
        CheckError: the requested provider, or for `auto` the CPU, gives other images than PyTorch.
    """
    if requested not in PROVIDERS:
        raise InputError(f"provider {requested!r} is unknown: use one of {', '.join(PROVIDERS)}")
    if device is not None and (device < 0 or requested == "cpu"):
        raise InputError(f"--device {device}: give the number of a GPU, from 0, and no --provider cpu")
    if precision not in PRECISIONS or (precision == BF16 and requested != "openvino"):
        raise InputError(f"--precision {precision}: give {FP32}, or {BF16} with --provider openvino")
    if requested == "auto":
        return _automatic(attempt, device, listed())
    chosen = Provider(requested, "requested", device, precision)
    if requested in ("cpu", "cuda") and requested not in (available := listed()):
        raise ProviderError(
            f"provider {requested}: the installed onnxruntime has {', '.join(available)}; "
            f"run pip uninstall onnxruntime, then {install_command('gpu')}"
        )
    attempt(chosen)
    return chosen


def _automatic(attempt: Callable[[Provider], object], device: int | None, listed: tuple[str, ...]) -> Provider:
    """The first that works: those of TensorRT, CUDA, the CPU. The reason says why the others do not."""
    reasons: list[str] = []
    for name in (*FLAVOURS, "cuda"):
        if name not in listed:
            reasons += ["no GPU provider is installed"] if name == "cuda" and not reasons else []
            continue
        try:
            attempt(Provider(name, "", device))
        except MissingExtraError:  # onnxruntime-gpu lists TensorRT's provider without its libraries
            continue
        except CheckError as error:
            _log.warning("%s; trying the next provider", error)
            reasons.append(str(error))
        except ProviderError as error:
            reasons.append(str(error))
        else:
            return Provider(name, "; ".join([*reasons, f"onnxruntime loaded {NAMES[name]}"]), device)
    if device is not None:
        raise ProviderError(f"--device {device}: no GPU can be used here ({'; '.join(reasons)}); leave out --device")
    chosen = Provider("cpu", "; ".join(reasons))
    attempt(chosen)
    return chosen

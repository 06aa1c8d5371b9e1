"""The choice of the execution provider."""

from collections.abc import Callable

from dpd_runtime.bundle.engine_fit import FLAVOURS, NoEngineError
from dpd_runtime.engines.engine import Provider
from dpd_runtime.engines.onnxruntime import available_providers
from dpd_runtime.errors import ProviderError

PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx")


def choose_provider(requested: str, attempt: Callable[[Provider], object]) -> Provider:
    """Resolve `--provider`.

    Args:
        attempt: opens a session. It can fail, because a wheel may list a provider without its driver and libraries.

    Raises:
        ProviderError: an unknown provider, or one that does not work here.
    """
    if requested not in PROVIDERS:
        raise ProviderError(f"provider {requested!r} is unknown: use one of {', '.join(PROVIDERS)}")
    if requested in FLAVOURS:
        try:
            attempt(Provider(requested, "requested"))
        except ProviderError as error:
            raise ProviderError(f"provider {requested}: {error}; use --provider cuda or cpu") from error
        return Provider(requested, "requested")
    available = available_providers()
    if requested == "auto":
        return _automatic(available, attempt)
    if requested not in available:
        raise ProviderError(
            f"provider {requested}: the installed onnxruntime has {', '.join(available)}; "
            'run pip uninstall onnxruntime, then pip install "dpd-distill[gpu]"'
        )
    return Provider(requested, "requested")


def _automatic(available: tuple[str, ...], attempt: Callable[[Provider], object]) -> Provider:
    """The first that works: the bundle's engines, CUDA, the CPU. The reason says why the others do not."""
    reasons = []
    for name in (*FLAVOURS, "cuda"):
        if name == "cuda" and name not in available:
            reasons.append("the installed onnxruntime has no CUDAExecutionProvider")
            continue
        try:
            attempt(Provider(name, ""))
        except NoEngineError:
            continue
        except ProviderError as error:
            reasons.append(str(error))
        else:
            return Provider(
                name,
                "; ".join(
                    [*reasons, "onnxruntime loaded CUDAExecutionProvider" if name == "cuda" else "its engines loaded"]
                ),
            )
    return Provider("cpu", "; ".join(reasons))

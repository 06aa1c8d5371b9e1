"""Which execution provider runs the networks."""

from collections.abc import Callable

from dpd_runtime.engines.engine import Provider
from dpd_runtime.errors import ProviderError

PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx")


def choose_provider(requested: str, attempt: Callable[[Provider], object]) -> Provider:
    """Resolve `--provider`.

    Args:
        attempt: opens a session; a wheel that lists a provider need not have its driver and libraries.

    Raises:
        ProviderError: an unknown provider, or one which this version or machine does not have.
    """
    from dpd_runtime.bundle.engine_fit import FLAVOURS
    from dpd_runtime.engines.onnxruntime import available_providers

    if requested not in PROVIDERS:
        raise ProviderError(f"provider {requested!r} is unknown: use one of {', '.join(PROVIDERS)}")
    if requested in FLAVOURS:
        try:
            attempt(Provider(requested, "asked for"))
        except ProviderError as error:
            raise ProviderError(f"provider {requested}: {error}; use --provider cuda or cpu") from error
        return Provider(requested, "asked for")
    available = available_providers()
    if requested == "auto":
        return _automatic(available, attempt)
    if requested not in available:
        raise ProviderError(
            f"provider {requested}: this onnxruntime offers {', '.join(available)}; "
            'pip uninstall onnxruntime, then pip install "dpd-distill[gpu]"'
        )
    return Provider(requested, "asked for")


def _automatic(available: tuple[str, ...], attempt: Callable[[Provider], object]) -> Provider:
    """The first that works of the bundle's engines, CUDA and the CPU; the reason tells what did not."""
    from dpd_runtime.bundle.engine_fit import FLAVOURS, NoEngineError

    reasons = []
    for name in (*FLAVOURS, "cuda"):
        if name == "cuda" and name not in available:
            reasons.append("this onnxruntime has no CUDAExecutionProvider")
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

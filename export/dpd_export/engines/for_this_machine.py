"""Build engines of a bundle for this machine's GPU, into the cache from which the runtime loads them.

Only `tensorrt` needs this. ONNX Runtime's provider of it builds networks whose types it may change; these are strongly
typed. The plugin of TensorRT for RTX compiles strongly typed networks itself. No GPU has run either.
"""

from dpd_export.engines.flavours import check_capabilities, flavour_of, import_flavour
from dpd_export.engines.new_bundle import Build, built, check_precision
from dpd_export.engines.profiles import check_parts
from dpd_runtime.annotations import Progress
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.profiles import profile_of
from dpd_runtime.engines.context_model import context_model
from dpd_runtime.engines.engine import Provider
from dpd_runtime.engines.execution_providers import NAMES
from dpd_runtime.engines.site_cache import keep_model, kept_model, working_folder
from dpd_runtime.errors import InputError, ProviderError


def build_for_this_machine(bundle: Bundle, provider: Provider, progress: Progress) -> None:
    """Build the engines of all graphs that every `dpd generate` calls, unless the cache has them.

    They are in this process's working folder then; `dpd_runtime.generation.gate.compile_here` tries and keeps them.

    Raises:
        InputError: another GPU than the first, or a graph that the builder refuses.
        BundleError: as `Bundle.check_graph`.
        MissingExtraError: TensorRT is not installed.
        ProviderError: there is no GPU, or no trusted key signed the bundle.
    """
    if not bundle.trusted:  # the parser and the builder run in this process
        raise ProviderError(
            f"provider {provider.name}: engines are built here only of a bundle that a trusted key signed, and this "
            f"one is {bundle.signature.describe()}; use --provider cpu, or have it signed"
        )
    if provider.device:
        raise InputError(
            f"--device {provider.device}: {provider.name} builds on the first GPU; choose it by CUDA_VISIBLE_DEVICES"
        )
    kind = flavour_of(provider.name)
    check_precision(bundle.manifest.precision)
    trt = import_flavour(kind)
    here = check_capabilities(kind, trt, ())
    folder, parts = working_folder(bundle.engine_cache(bundle.site(provider))), check_parts(None, bundle.files)
    for done, part in enumerate(parts):
        progress(done, len(parts))
        name = f"{part}/model.onnx"
        graph = bundle.files[name]
        if kept_model(folder, graph) is None:
            bundle.check_graph(name)
            plan, record = built(Build(part, profile_of(part, bundle.manifest), here), kind, trt, bundle)
            keep_model(folder, graph, context_model(record, bytes(plan.content), NAMES[provider.name]))
    progress(len(parts), len(parts))

"""The JSON beside an engine: what it was built from, by what, and for what."""

import hashlib
from collections.abc import Mapping

from dpd_export.engines.builder import Plan
from dpd_export.engines.flavours import Flavour, cuda_major
from dpd_export.engines.network import sources_of
from dpd_runtime.bundle.engine_fit import this_os
from dpd_runtime.engines.record import EngineRecord


def record_of(
    plan: Plan,
    files: Mapping[str, bytes],
    graph: str,
    flavour: Flavour,
    version: str,
    capabilities: tuple[int, ...],
    precision: str,
) -> EngineRecord:
    """Args: files: the content which the engine was built from. precision: the bundle's."""
    return EngineRecord(
        flavour=flavour.name,
        builder_version=version,
        compute_capabilities=capabilities,
        os=this_os(),
        cuda=cuda_major(flavour),
        graph=graph,
        sources={path: hashlib.sha256(files[path]).hexdigest() for path in sources_of(files, graph)},
        precision=precision,
        arithmetic=plan.arithmetic,
        tf32=plan.tf32,
        layers=plan.layers,
        inputs=plan.inputs,
        outputs=plan.outputs,
        sha256=plan.sha256,
        bytes=plan.bytes,
    )

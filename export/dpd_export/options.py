"""What an export is asked for, and its sampler with what the user changed."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from dpd_export.pruning import Pruning
from dpd_runtime.bundle.manifest import parse_sampler
from dpd_runtime.errors import BundleError, InputError
from dpd_runtime.sampling.sampler import BlockGuidance, Sampler
from dpd_runtime.sampling.solvers import SOLVERS

OF_SAMPLER = {field.name: field.type for field in fields(Sampler) if field.name != "guidance"}
OF_GUIDANCE = {field.name: field.type for field in fields(BlockGuidance) if field.name != "from_block"}


def changed_sampler(sampler: Sampler, text: str, from_block: int = 0) -> Sampler:
    """`sampler` with settings such as "steps=20,guidance_scale=2"; those of guidance from block `from_block` on.

    Raises:
        InputError: an unknown setting, or a value that is none for it.
    """
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        kind: Any = (OF_SAMPLER | OF_GUIDANCE).get(name)
        if kind is None:
            known = ", ".join(sorted(OF_SAMPLER | OF_GUIDANCE))
            raise InputError(f"--sampler {part}: write NAME=VALUE with commas between them; names are {known}")
        try:
            found[name] = kind(value)
        except ValueError:
            raise InputError(f"--sampler {part}: {value!r} is no {kind.__name__}") from None
    of_guidance = {name: value for name, value in found.items() if name in OF_GUIDANCE}
    blocks = sorted({0, from_block, *(g.from_block for g in sampler.guidance)})
    guidance = [replace(sampler.guidance_for(block), from_block=block) for block in blocks]
    guidance = [replace(g, **of_guidance) if g.from_block >= from_block else g for g in guidance]
    rest = {name: value for name, value in found.items() if name in OF_SAMPLER}
    made = replace(sampler, **rest, guidance=tuple(guidance))
    if made.solver not in SOLVERS:
        raise InputError(f"--sampler solver={made.solver}: there are {', '.join(SOLVERS)}")
    try:
        return parse_sampler(asdict(made))
    except BundleError as error:
        raise InputError(f"--sampler {text}: {str(error).partition(': ')[2].partition(';')[0]}") from None


@dataclass(frozen=True, kw_only=True)
class Options:
    """As `export_run` has them."""

    precision: str
    name: str | None
    data_licence: str
    base_licence: str | None
    sampler: Sampler | None
    vae_encoder: bool
    dynamic_size: bool
    allow_real_prototypes: bool
    allow_worse: bool
    prune: Pruning | None
    largest_file: int

    def of_the_card(self) -> dict[str, object]:
        """Those which the command in the model card repeats, beside what the manifest knows."""
        names = ("base_licence", "vae_encoder", "dynamic_size", "allow_real_prototypes", "allow_worse", "prune")
        return {name: getattr(self, name) for name in names}

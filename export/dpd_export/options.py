"""What the user asks of an export: precision, pruning, sampler, licences; and whether the run fits, without PyTorch."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dpd_runtime.errors import BundleError, InputError
from dpd_runtime.files import check_writable
from dpd_runtime.manifest import parse_sampler
from dpd_runtime.sampler import PRIVATE_KINDS, BlockGuidance, Sampler, decoding_sampler, suited_sampler
from dpd_runtime.sealing import check_target
from dpd_runtime.solvers import SOLVERS
from dpd_runtime.text import LONGEST_NAME, LONGEST_TEXT, is_readable
from dpd_train.doors import open_named
from dpd_train.run import Run

INT8 = "int8"
PRECISIONS = {
    "fp32": "Weights and arithmetic are float32",
    "fp16": "Graphs are in half precision with islands of float32 (norms, softmax), inputs and outputs float32",
    "fp16-weights": "Weights are float16, arithmetic float32",
    INT8: "The UNet's convolutions and feed-forward layers are in 8 bits; other weights float16, arithmetic float32",
}
LARGEST_FILE = 2_000_000_000  # bytes of weights in one graph file; protobuf ends at 2 GiB

OF_SAMPLER = {field.name: field.type for field in fields(Sampler) if field.name != "guidance"}
OF_GUIDANCE = {field.name: field.type for field in fields(BlockGuidance) if field.name != "from_block"}


def changed_sampler(sampler: Sampler, text: str, from_block: int = 0) -> Sampler:
    """Apply settings such as "steps=20,guidance_scale=2" to `sampler`.

    Args:
        from_block: first block whose guidance changes; blocks before it keep theirs.

    Raises:
        InputError: an unknown setting, or a value that the setting cannot take.
    """
    settings: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        kind: Any = (OF_SAMPLER | OF_GUIDANCE).get(name)
        if kind is None:
            known = ", ".join(sorted(OF_SAMPLER | OF_GUIDANCE))
            raise InputError(f"--sampler {part}: write NAME=VALUE with commas between them; names are {known}")
        try:
            settings[name] = kind(value)
        except ValueError:
            raise InputError(f"--sampler {part}: {value!r} is no {kind.__name__}") from None
    of_guidance = {name: value for name, value in settings.items() if name in OF_GUIDANCE}
    blocks = sorted({0, from_block, *(g.from_block for g in sampler.guidance)})
    guidance = [replace(sampler.guidance_for(block), from_block=block) for block in blocks]
    guidance = [replace(g, **of_guidance) if g.from_block >= from_block else g for g in guidance]
    rest = {name: value for name, value in settings.items() if name in OF_SAMPLER}
    made = replace(sampler, **rest, guidance=tuple(guidance))
    if made.solver not in SOLVERS:
        raise InputError(f"--sampler solver={made.solver}: there are {', '.join(SOLVERS)}")
    try:
        return parse_sampler(made.to_dict())
    except BundleError as error:
        raise InputError(f"--sampler {text}: {str(error).partition(': ')[2].partition(';')[0]}") from None


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `dpd export` that decide what is in the bundle.

    Args:
        precision: one of PRECISIONS.
        name: of the bundle; None for the run directory's name.
        base_licence: None for the shipped base's own, and "unstated" for other bases.
        sampler: default sampler of the bundle; None for the one that suits the run's prototypes.
        sampler_changes: settings applied to that sampler, as `changed_sampler` reads them.
        vae_encoder: include the VAE's encoder, which generation does not need.
        dynamic_size: let UNet and VAE take any height and width.
        allow_weak_prototypes: export prototypes of a private kind.
        allow_worse: write an int8 bundle even if the teacher labels too many of its images differently.
        prune: `METHOD:ARGUMENT`, a method of the door `dpd.pruning` that makes the UNet smaller; None leaves it whole.
        codes_only: leave out whatever samples or judges images; the bundle then decodes its matched codes.
        largest_file: bytes of weights in a graph's own file; larger weights lie in a file beside it.

    Raises:
        InputError: an unknown precision, an invalid `prune`, `allow_worse` without int8, a text that no manifest may
            hold, or an option that has no effect with `codes_only`.
    """

    precision: str = "fp16"
    name: str | None = None
    data_licence: str = "unstated"
    base_licence: str | None = None
    sampler: Sampler | None = None
    sampler_changes: str = ""
    vae_encoder: bool = False
    dynamic_size: bool = False
    allow_weak_prototypes: bool = False
    allow_worse: bool = False
    prune: str | None = None
    codes_only: bool = False
    largest_file: int = LARGEST_FILE

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
        if self.allow_worse and self.precision != INT8:
            raise InputError(f"--allow-worse has no effect with --precision {self.precision}: it is for int8")
        if self.prune is not None:
            open_named("dpd.pruning", self.prune, "--prune")
        if self.codes_only:
            self._check_codes_only()
        texts = {"--name": self.name, "--data-licence": self.data_licence, "--base-licence": self.base_licence}
        for option, text in texts.items():
            longest = LONGEST_NAME if option == "--name" else LONGEST_TEXT
            if text is not None and not is_readable(text, longest):
                raise InputError(f"{option} {text[:40]!r}: give at most {longest} letters, all of which can be seen")

    def _check_codes_only(self) -> None:
        given = {
            "--precision int8": self.precision == INT8,
            "--prune": self.prune is not None,
            "--sampler": self.sampler is not None or self.sampler_changes != "",
            "--vae-encoder": self.vae_encoder,
            "--dynamic-size": self.dynamic_size,
        }
        for option, is_given in given.items():
            if is_given:
                raise InputError(
                    f"{option} cannot be used with --codes-only: such a bundle holds only codes of one size and their "
                    "decoder; leave out one of the two"
                )

    def of_the_card(self) -> dict[str, object]:
        """Options that the command in the model card repeats, besides those that the
        manifest holds and `prune`."""
        names = ("base_licence", "vae_encoder", "dynamic_size", "allow_weak_prototypes", "allow_worse", "codes_only")
        return {name: getattr(self, name) for name in names}


def check_export(run: Run, out: Path, options: ExportOptions, *, overwrite: bool = False) -> Sampler:
    """Check all that needs no network, in less than a second.

    Returns:
        the default sampler of the bundle.

    Raises:
        InputError: something else at `out`, prototypes of a private kind, a sampler's setting, or a
            codes-only bundle of a run without matched codes.
    """
    if run.bands and not options.codes_only:
        raise InputError(
            f"{run.path}: its images have {len(run.bands)} bands, and no denoiser knows these; export its codes: give "
            "--codes-only"
        )
    if options.codes_only:
        _check_codes(run)
    _check_prototypes(run, options)
    check_target(out, overwrite)
    check_writable(out)
    suited = decoding_sampler() if options.codes_only else suited_sampler(run.table)
    sampler = options.sampler or suited
    if options.sampler_changes:
        sampler = changed_sampler(sampler, options.sampler_changes)
    return sampler


def _check_prototypes(run: Run, options: ExportOptions) -> None:
    """Refuse prototypes of a private kind unless the options allow them.

    Raises:
        InputError: they are, and it is not allowed.
    """
    kind = run.table["prototype_kind"]
    if kind in PRIVATE_KINDS and not options.allow_weak_prototypes:
        raise InputError(
            f"{run.path}: its prototypes ({kind}) are {PRIVATE_KINDS[kind]}, and the audit fails them; train with "
            "--prototypes matched or pooled, or pass --allow-weak-prototypes if such images may leave"
        )


def _check_codes(run: Run) -> None:
    """Check that every class has matched codes, which are images once they are decoded.

    Raises:
        InputError: other prototypes, or a class without any.
    """
    kind = run.table["prototype_kind"]
    if kind != "matched":
        raise InputError(
            f"--codes-only: the prototypes of {run.path} are of kind {kind}, and only matched codes are images by "
            "themselves; train with --prototypes matched, or export without --codes-only"
        )
    empty = [entry["name"] for entry in run.table["classes"] if not entry["prototype_counts"]]
    if empty:
        raise InputError(
            f"--codes-only: class {empty[0]} of {run.path} has no codes; train with more of its images, or export "
            "without --codes-only"
        )

"""Options that several commands have, in a configuration file and in the help too."""

import functools
import inspect
import logging
import os
import re
import textwrap
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from dpd_cli.terminal import log_to_console
from dpd_runtime.errors import InputError
from dpd_runtime.files import naming
from dpd_runtime.settings import choices, studied
from dpd_runtime.text import option

if TYPE_CHECKING:
    import torch

    from dpd_runtime.archive import Key as EncryptionKey
    from dpd_runtime.bundle import Bundle
    from dpd_train.reading import Reading


# -- Options: made from the fields of a config, or shared by several commands.


PASSPHRASE_VARIABLE = "DPD_PASSPHRASE"
Number = TypeVar("Number", int, float)
SET, REQUIRE = "settings", "require"  # the parameters of --set and --require
Values = dict[type, dict[str, Any]]
"""The given values by config and field; None for a field that was not given."""


def named(values: Iterable[str]) -> str:
    """Write accepted values as `--help` shows them: `a|b|c`."""
    return "|".join(values)


def under(panel: str, help: str, *names: str, metavar: str | None = None, min: int | None = None) -> Any:
    """Make an option under a heading of `--help`. `names` replace the name that follows from the parameter. Where the
    metavar lists the values, `a|b|c`, shells complete them.
    """
    values = re.sub(r",\.\.\.$|\[.*\]", "", metavar or "").split("|")
    completed = values if len(values) > 1 and all(re.fullmatch(r"[\w.+-]+", value) for value in values) else None
    return typer.Option(
        *names,
        help=help,
        metavar=metavar,
        min=min,
        rich_help_panel=panel,
        autocompletion=None if completed is None else lambda incomplete: _begun(incomplete, completed),
    )


def _begun(incomplete: str, values: Sequence[str]) -> list[str]:
    """The values that complete what was typed, of a list its last part."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{value}" for value in values if value.startswith(last)]


def named_after(place: Path, ending: str) -> Path:
    """Where a result goes that nobody gave a place: beside what it is made of, and named after it.

    `scenes/` and `-run` give `scenes-run`, and so does `scenes.csv`.
    """
    place = place.absolute()
    name = place.stem if place.is_file() else place.name
    if not name:
        raise InputError(f"{place}: nothing lies beside it; say where the result goes, with --out")
    found = place.with_name(f"{name}{ending}")
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


BundleOrEmbedded = Annotated[
    Path | None,
    typer.Argument(metavar="BUNDLE", help="A .dpd file or bundle folder. Default: the embedded EuroSAT bundle."),
]
Key = Annotated[
    Path | None,
    under(
        "Security",
        "File of what opens an encrypted bundle: the 32 bytes of dpd keygen --encryption, a passphrase on one line, or "
        "an identity of age. "
        f"Default: the passphrase in the variable {PASSPHRASE_VARIABLE}.",
    ),
]
TrustedKey = Annotated[
    list[Path] | None,
    under(
        "Security",
        "Public key to trust; repeat for several. Default: the keys in ~/.config/dpd/trusted.",
        metavar="<path>",
    ),
]
Require = Annotated[
    list[str] | None,
    under(
        "Security",
        "Fail with exit code 3 unless the bundle has all of these, separated by commas: signature, by a trusted key; "
        "audit, which says PASS or WARN and is signed; encrypted; dp:EPSILON or dp:EPSILON:DELTA, a signed claim of "
        "differential privacy of one image with at most these (delta: 1e-5).",
        metavar="signature,audit,encrypted,dp:EPSILON",
    ),
]
AllowOlder = Annotated[
    bool,
    under(
        "Security",
        "Accept a bundle that has expired or is older than the newest one seen at this site.",
        "--allow-older",
    ),
]
Provider = Annotated[
    str,
    under(
        "Running",
        "What runs the networks; auto takes the first that works.",
        metavar="auto|cpu|openvino|cuda|tensorrt|tensorrt-rtx",
    ),
]
DataPlace = Annotated[
    Path | None,
    typer.Argument(
        metavar="DATA",
        help="Folder with one folder of images per class, also inside train/, val/ and test/; or a .csv or .parquet "
        "list.",
    ),
]
Precision = Annotated[
    str, under("Running", "Arithmetic; bf16 is faster and needs --provider openvino.", metavar="fp32|bf16")
]
Device = Annotated[
    str,
    under(
        "Running",
        "Where it runs: auto takes a CUDA GPU if PyTorch finds one; cuda:1 is the second GPU; mps is untested.",
        metavar="auto|cpu|cuda[:N]|mps",
    ),
]
RuntimeDevice = Annotated[
    str,
    under(
        "Running",
        "Where it runs: auto takes a GPU if one works; cuda is the first GPU, cuda:1 the second. A number alone is a "
        "GPU of the provider.",
        "--device",
        metavar="auto|cpu|cuda[:N]|N",
    ),
]
Threads = Annotated[int | None, under("Running", "PyTorch threads. Default: all cores.", min=1)]
MaxMinutes = Annotated[float | None, under("Running", "Stop at a checkpoint after this many minutes.")]
Tracker = Annotated[str | None, under("Output", "Log figures to tensorboard, wandb, ... Default: none.")]
Overwrite = Annotated[bool, under("Output", "Replace a bundle or a set that exists at --out.", "--overwrite")]
Json = Annotated[bool, under("Output", "Print one JSON object.", "--json")]


def options_of(*configs: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add an option for every field of `configs` to a command, or a name of `--set`.

    The command gets their values as `given`. A value that was not given is None, so that a preset can fill it.

    Args:
        configs: dataclasses; their fields that are `setting`s become options, or names of `--set` where only a study
            turns them. An option of several configs is one, with the help of the first.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "given"]
        by_set = {name: config for config in reversed(configs) for name in studied(config)}
        made = {
            field.name: _parameter(config, field)
            for config in reversed(configs)
            for field in _settings(config)
            if field.name not in by_set
        }
        further = [_set_parameter(by_set)] if by_set else []

        @functools.wraps(command)
        def run(**values: Any) -> None:
            options = {name: values.pop(name) for name in made} | dict.fromkeys(by_set)
            options |= _set_values(by_set, (values.pop(SET, None) if by_set else None) or ())
            given = {
                config: {field.name: _value(config, field.name, options[field.name]) for field in _settings(config)}
                for config in configs
            }
            command(**values, given=given)

        run.__signature__ = inspect.Signature([*own, *made.values(), *further])  # type: ignore[attr-defined]
        run.settable = {  # type: ignore[attr-defined]  # name → help, for config files, messages and documents
            field.name: field.metadata["help"] + _default(field)
            for config in configs
            for field in _settings(config)
            if field.name in by_set
        }
        return run

    return decorate


def _set_parameter(by_set: Mapping[str, type]) -> inspect.Parameter:
    """Make the option `--set` of the fields that have none of their own."""
    help = f"Set a value that only a study changes; repeat it for several. Names: {', '.join(by_set)}."
    made = typer.Option("--set", help=help, metavar="NAME=VALUE", rich_help_panel="Running")
    return inspect.Parameter(
        SET, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[list[str] | None, made]
    )


def _set_values(by_set: Mapping[str, type], given: Iterable[str]) -> dict[str, Any]:
    """The values of `--set NAME=VALUE`, by field; of a field that was set twice the last one.

    Raises:
        InputError: no such name, or a value of another kind.
    """
    values = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in by_set:
            raise InputError(f"--set {text}: {name!r} is unknown; give NAME=VALUE with {', '.join(by_set)}")
        if not equals:
            raise InputError(f"--set {text}: has no value; give {name}=VALUE")
        kind = _kinds(by_set[name])[name]
        try:
            values[name] = kind(value) if kind in (int, float) else value
        except ValueError:
            number = "a whole number" if kind is int else "a number"
            raise InputError(f"--set {text}: {value!r} is not {number}") from None
    return values


def _settings(config: type) -> list["Field[Any]"]:
    return [field for field in fields(config) if "panel" in field.metadata]


def given_values(given: Values, config: type, data: Path | None = None) -> dict[str, Any]:
    """The values of a config's fields that were given.

    Args:
        data: scenes whose data card says more of them, if there is one.

    Raises:
        InputError: a damaged data card, or an option that says something else.
    """
    from dpd_train.data_card import read_card

    card = None if data is None else read_card(data)
    values = given[config] if card is None else card.with_options(given[config])
    return {name: value for name, value in values.items() if value is not None}


def _parameter(config: type, field: "Field[Any]") -> inspect.Parameter:
    """Make the option of a field, as Typer reads it from a signature."""
    kind = _kinds(config)[field.name]
    values = choices(config).get(field.name)
    listed = get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis
    metavar = field.metadata["metavar"] or (named(values) + ",..." * listed if values else None)
    made = under(field.metadata["panel"], field.metadata["help"] + _default(field), metavar=metavar)
    annotation = str if values or listed else kind
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation | None, made]
    )


@functools.cache
def _kinds(config: type) -> dict[str, Any]:
    """Return the type of each field without its None."""
    kinds = get_type_hints(config)
    for name, hint in kinds.items():
        if get_origin(hint) in (Union, types.UnionType):
            kinds[name] = next(part for part in get_args(hint) if part is not type(None))
    return kinds


def _default(field: "Field[Any]") -> str:
    """State the field's own default; an empty text for None and False."""
    if field.default in (None, ()) or field.default is False:
        return ""
    if field.default is True:
        return f" Default: {option(field.name)}."
    if isinstance(field.default, float):
        return f" Default: {field.default:g}."
    return f" Default: {','.join(field.default) if isinstance(field.default, tuple) else field.default}."


def _value(config: type, name: str, value: Any) -> Any:
    """Split `a, b` if the field is a tuple of any length."""
    kind = _kinds(config)[name]
    if not isinstance(value, str) or get_origin(kind) is not tuple:
        return value
    element = get_args(kind)[0]
    return split_numbers(value, option(name), element) if element in (int, float) else split_names(value)


def split_names(text: str) -> tuple[str, ...]:
    """Split `a, b` into ("a", "b"). An empty text gives an empty tuple.

    No name begins with a digit: in `convnet,groups:RGB=4,3,2` the last two belong to the name before them.
    """
    return tuple(part.strip() for part in re.split(r",(?!\s*\d)", text) if part.strip())


def split_numbers(text: str, name: str, kind: type[Number]) -> tuple[Number, ...]:
    """Split `10,50` into (10, 50).

    Raises:
        InputError: a part is not a number of this kind; the message names the option.
    """
    from dpd_runtime.errors import InputError

    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = "whole numbers" if kind is int else "numbers"
        raise InputError(f"{name} {text}: give {numbers} with commas between them, such as 10,50") from None


def extras_of(reading: "Reading", *data: Path | None) -> tuple[str, ...]:
    """The extras that images of these places and bands need: of --bands or --stretch, and of Parquet lists."""
    tables = any(place is not None and place.suffix.lower() == ".parquet" for place in data)
    return (*(() if reading.plain else ("geo",)), *(("parquet",) if tables else ()))


def require_torch(*extras: str) -> None:
    """Check extras by name and `train`, and silence the advice that its libraries print.

    Raises:
        MissingExtraError: packages are not installed; the message names all, and all extras that bring them.
    """
    from dpd_runtime.extras import require_extras

    require_extras("train", *extras)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


def begin_with_torch(device: str, threads: int | None, level: int = logging.INFO) -> "torch.device":
    """Load PyTorch for a training: log to the console, take so many threads, and choose the device.

    Raises:
        InputError, ProviderError: as `dpd_train.compute.use_device`.
    """
    import torch

    from dpd_train.compute import use_device

    log_to_console(level)
    if threads:
        torch.set_num_threads(threads)
    return use_device(device)


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What `--require` asks of a bundle. privacy: the largest (ε, δ)."""

    signature: bool = False
    audit: bool = False
    encrypted: bool = False
    privacy: tuple[float, float] | None = None


def demands_of(require: Iterable[str]) -> Demands:
    """Read `--require`. All that is asked for counts; of several guarantees the strongest.

    Raises:
        InputError: an unknown word, or an epsilon that is none.
    """
    from dpd_runtime.sealing import parse_privacy

    found: dict[str, Any] = {}
    for word in (part.strip() for text in require for part in text.split(",")):
        kind, colon, value = word.partition(":")
        if kind == "dp" and colon:
            asked = parse_privacy(value)
            found["privacy"] = tuple(map(min, asked, found.get("privacy", asked)))
        elif word in ("signature", "audit", "encrypted"):
            found[word] = True
        else:
            raise InputError(
                f"--require {word!r} is unknown: give signature, audit, encrypted, dp:EPSILON or dp:EPSILON:DELTA"
            )
    return Demands(**found)


def open_bundle(
    bundle: Path | None,
    key: Path | None,
    trusted_key: list[Path] | None,
    require: Iterable[str] | None,
    *,
    allow_older: bool = False,
) -> "Bundle":
    """Open a bundle, the embedded one for None, and check what `--require` demands."""
    from dpd_runtime import sealing
    from dpd_runtime.bundle import embedded_bundle, load_bundle
    from dpd_runtime.trust import read_public_key

    path, demands = bundle or embedded_bundle(), demands_of(require or ())
    if demands.encrypted:
        sealing.require_encrypted(path)
    trusted = tuple(read_public_key(file) for file in trusted_key) if trusted_key else None
    opened = load_bundle(path, key_of(path, key), trusted, allow_older=allow_older)
    if demands.signature:
        sealing.require_signature(opened)
    if demands.audit:
        sealing.require_audit(opened)
    if demands.privacy is not None:
        sealing.require_privacy(opened, demands.privacy)
    return opened


def open_teacher(
    teacher: Path | None, key: Path | None, trusted_key: list[Path] | None, require: list[str] | None
) -> "Bundle | None":
    """Open the bundle of `--teacher`; None if none is given."""
    if teacher is not None:
        return open_bundle(teacher, key, trusted_key, require)
    if key or trusted_key or require:
        raise InputError("--key, --trusted-key and --require are for a --teacher; give one, or leave them out")
    return None


def runtime_device(device: str, provider: str = "auto") -> tuple[str, int | None]:
    """The provider and the number of the GPU that `--device` asks for; None for the first GPU, or for none.

    A number alone, as records have it, is that of a GPU of the provider, whatever that is.

    Raises:
        InputError: an unknown device, or one that the provider does not use.
    """
    if device == "auto":
        return provider, None
    if device == "cpu":
        if provider not in ("auto", "cpu", "openvino"):
            raise InputError(f"--device cpu: provider {provider} needs a GPU; leave one of them out")
        return ("cpu" if provider == "auto" else provider), None
    if device.startswith("cuda") and provider == "cpu":
        raise InputError(f"--device {device}: --provider cpu uses no GPU; leave one of them out")
    if device == "mps":
        raise InputError("--device mps: no provider of the runtime uses it; give auto or cpu")
    if re.fullmatch(r"\d{1,4}", device):
        return provider, int(device)
    cuda = re.fullmatch(r"cuda(?::(\d{1,4}))?", device)
    if cuda is None:
        raise InputError(f"--device {device!r} is unknown: use auto, cpu, cuda or cuda:N")
    if provider == "openvino":
        raise InputError(f"--device {device}: openvino runs no CUDA GPU; give the number of one of its own, as in 0")
    return provider, int(cuda[1] or 0)


def given_key(key: Path | None) -> "EncryptionKey | None":
    """Return the key or passphrase in a file that is to encrypt, otherwise the passphrase from the environment.

    Raises:
        InputError: a file that holds no key.
    """
    from dpd_runtime.trust import read_key

    return read_key(key) if key else os.environ.get(PASSPHRASE_VARIABLE) or None


def key_of(path: Path, key: Path | None) -> "EncryptionKey | None":
    """Return the key for `path`: a key, a passphrase or an identity of age, as its header says.

    Without a file it is the environment's passphrase; None for a bundle that is not encrypted, or not there.

    Raises:
        InputError: a file that holds no such key, or one for a bundle that is not encrypted.
        DecryptionError: a damaged header.
    """
    from dpd_runtime.age import read_identity
    from dpd_runtime.archive import asks_passphrase, not_encrypted, sealing_of
    from dpd_runtime.trust import read_encryption_key, read_passphrase

    sealing = sealing_of(path)
    if sealing is None:
        if key is not None and path.exists():
            raise not_encrypted(path)
        return None
    if key is None:
        return os.environ.get(PASSPHRASE_VARIABLE) or None
    if sealing == "age":
        return read_identity(key)
    return read_passphrase(key) if asks_passphrase(path) else read_encryption_key(key)


# -- `--help`: plain text under headings.


OPTION = "--config"
CONFIG_HELP = "Read options from a TOML file, or from a record that dpd wrote. The command line wins."
DEBUG = "--debug"
DEBUG_HELP = (DEBUG, "Show the traceback of an error.")
PANELS = (
    "Data",
    "Images",
    "Sampling",
    "Model",
    "Prototypes",
    "Bundle",
    "Engines",
    "Privacy",
    "Output",
    "Running",
    "Several machines",
    "Security",
)
"""Headings of options in `--help`, in this order; "Options" holds the rest."""


UNDERSTOOD = {
    "-o": "--out",
    "--output": "--out",
    "--learning-rate": "--peak-rate",
    "--report-to": "--tracker",
}
"""Names of other programs → ours."""
OF_SAMPLING = {"--num-inference-steps": "--steps"}
"""The same where images are sampled: other commands have steps of a training."""


class Verb(TyperCommand):
    """A command whose help is plain text under headings. No name of an option is cut, at any width.

    The error of a full disk that names no file, as of libraries that write by themselves, names the command's --out.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command line. Names that other programs use stand for ours where the command has
        these; what stands behind an option that takes a value is that value.
        """
        own = {name for parameter in self.params for name in parameter.opts}
        meant = UNDERSTOOD | (OF_SAMPLING if "--guidance-scale" in own else {})
        valued = {name for p in self.params if not getattr(p, "is_flag", False) for name in p.opts}
        words = [
            word if before in valued else _own_word(word, own, meant)
            for before, word in zip(["", *args], args, strict=False)
        ]
        return super().parse_args(ctx, words)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        out = ctx.params.get("out")
        with naming(out) if isinstance(out, Path) else nullcontext():
            return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """List the required options, `[OPTIONS]` and the arguments."""
        arguments = [p for p in self.params if p.param_type_name == "argument"]
        needed = [f"{p.opts[0]} {p.name.upper()}" for p in self.params if p not in arguments and p.required]
        named = [_names(p, ctx) if p.required else f"[{_names(p, ctx)}]" for p in arguments]
        return [*needed, "[OPTIONS]", *named]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description, then the examples line by line."""
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options of each panel."""
        rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("Arguments", *PANELS, "Options")}
        for parameter in self.get_params(ctx):
            if not getattr(parameter, "hidden", False):
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                heading = getattr(parameter, "rich_help_panel", None) or kind
                rows[heading].append((_names(parameter, ctx), _help(parameter)))
        own = [(f"{OPTION} FILE", CONFIG_HELP), DEBUG_HELP]
        rows["Options"][-1:-1] = own  # before --help
        _write_rows(formatter, rows)


def _own_word(word: str, own: Collection[str], meant: Mapping[str, str]) -> str:
    name, equals, value = word.partition("=")
    ours = meant.get(name)
    return word if ours not in own or name in own else f"{ours}{equals}{value}"


class Verbs(TyperGroup):
    """The list of commands under headings, each with its first sentence."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description."""
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands of each panel, then the options."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            if command := self.get_command(ctx, name):
                first = (command.help or "").split("\n\n")[0]
                rows.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append((name, first))
        rows["Options"] = [(_names(parameter, ctx), _help(parameter)) for parameter in self.get_params(ctx)]
        rows["Options"].insert(-1, DEBUG_HELP)
        _write_rows(formatter, rows)


def _write_text(text: str, formatter: Any) -> None:
    text, _, examples = inspect.cleandoc(text).partition("\n\nExamples:\n")
    formatter.write_paragraph()
    formatter.write_text(text)
    if examples:
        with formatter.section(_bold("Examples")):
            for line in examples.splitlines():
                formatter.write(f"  {line.strip()}\n")


def _write_rows(formatter: Any, rows: dict[str, list[tuple[str, str]]]) -> None:
    """Write names and their texts, side by side; the text of a long name is below it. No word is broken."""
    wide = min(28, max(len(names) for entries in rows.values() for names, _ in entries))
    for heading, entries in rows.items():
        if not entries:
            continue
        with formatter.section(_bold(heading)):
            for names, text in entries:
                lines = textwrap.wrap(text, formatter.width - wide - 4, break_on_hyphens=False, break_long_words=False)
                first = lines.pop(0) if len(names) <= wide and lines else ""
                formatter.write(f"  {names:<{wide}}  {first}".rstrip() + "\n")
                for line in lines:
                    formatter.write(f"{'':{wide + 4}}{line}\n")


def _bold(heading: str) -> str:
    return heading if os.environ.get("NO_COLOR") else typer.style(heading, bold=True)


def _names(parameter: Any, ctx: Any) -> str:
    """Return `--long METAVAR`, for an argument its metavar."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return str(parameter.get_help_record(ctx)[0]).replace(" / ", ", ")


def _help(parameter: Any) -> str:
    """Return the option's text, with its default unless the text states it."""
    words = " ".join((parameter.help or "").split())
    if parameter.required and parameter.param_type_name == "option":
        return f"{words} Required."
    if parameter.default in (None, "") or parameter.default is False or "Default:" in words or parameter.required:
        return words
    return f"{words} Default: {parameter.default}."

"""`--config FILE` of every command: options as keys of a TOML file, or of a record. The command line wins."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpd_cli.gone import GONE
from dpd_cli.options import OPTION, REQUIRE, SET
from dpd_runtime.errors import InputError
from dpd_runtime.files import MAX_JSON_BYTES, loads, open_regular
from dpd_runtime.settings import WITHHELD
from dpd_runtime.text import joined, option


def take_config(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """Split `--config FILE` from the other arguments.

    Raises:
        InputError: the option has no file, or is there twice.
    """
    kept: list[str] = []
    files: list[str] = []
    waiting = False
    for argument in arguments:
        if waiting:
            files.append(argument)
            waiting = False
        elif argument == OPTION:
            waiting = True
        elif argument.startswith(OPTION + "="):
            files.append(argument.removeprefix(OPTION + "="))
        else:
            kept.append(argument)
    if waiting or len(files) > 1:
        raise InputError(f"{OPTION} takes one file, once: TOML or a record of dpd")
    return kept, Path(files[0]) if files else None


def read_config(
    path: Path,
    command: str,
    commands: Mapping[str, Any],
    arguments: Sequence[str] = (),
    offered: Callable[[], Sequence[str]] = tuple,
) -> dict[str, Any]:
    """Read the values for a command, by parameter name, from a TOML file or from a record. Those of `--set` are a list
    of NAME=VALUE.

    Args:
        commands: all commands by name, as Typer makes them.
        arguments: what was typed, which may give what a record has not kept.
        offered: gives the commands of other packages, which may have tables too.

    Raises:
        InputError: there is no such file, it is neither TOML nor a record of this command, or it is too large.
    """
    try:
        with open_regular(path) as file:
            raw = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise InputError(f"{OPTION} {path}: {error.strerror}; give a readable TOML file, or a record of dpd") from error
    if len(raw) > MAX_JSON_BYTES:
        raise InputError(f"{OPTION} {path}: has more than {MAX_JSON_BYTES} bytes; give a TOML file or a record of dpd")
    if raw.lstrip().startswith(b"{"):
        return _of_record(path, raw, command, commands[command], arguments)
    return _of_toml(path, raw, command, commands, offered)


def settable(command: Any) -> Mapping[str, str]:
    """The names that a command's `--set` takes, each with its help."""
    found: Mapping[str, str] = getattr(command.callback, "settable", {})
    return found


# -- TOML: keys may be written with - or _, and a table with the command's name holds values for this command only.


def _of_toml(
    path: Path, raw: bytes, command: str, commands: Mapping[str, Any], offered: Callable[[], Sequence[str]]
) -> dict[str, Any]:
    """Raises:
    InputError: it is not TOML, a table is not a command's, or a key is not an option of the command.
    """
    try:
        content = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{OPTION} {path}: not TOML ({error}); give a TOML file or a record of dpd") from error
    tables = {key for key, value in content.items() if isinstance(value, dict)}
    strange = sorted(tables - set(commands))
    if strange and (strange := sorted({*strange} - {*offered()})):
        raise InputError(f"{OPTION} {path}: [{strange[0]}] is no command of dpd; see dpd --help")
    own = content.pop(command, {})
    if not isinstance(own, dict):
        raise InputError(f"{OPTION} {path}: {command} is not a table; write [{command}] above its options")
    general = {key: value for key, value in content.items() if not isinstance(value, dict)}
    merged = general | own
    if REQUIRE in general and REQUIRE in own:  # a demand is no value that another takes the place of
        merged[REQUIRE] = [*_listed(general[REQUIRE]), *_listed(own[REQUIRE])]
    options = {spelling.lstrip("-"): p for p in commands[command].params for spelling in (*p.opts, p.name or "")}
    by_set = settable(commands[command])
    sets = [f"{key.replace('-', '_')}={merged.pop(key)}" for key in list(merged) if key.replace("-", "_") in by_set]
    unknown = sorted(key for key in merged if key.replace("_", "-") not in options)
    gone = GONE.get(command, {})
    if went := [name for key in unknown if (name := option(key.replace("-", "_"))) in gone]:
        raise InputError(f"{OPTION} {path}: dpd {command} has no {went[0]} any more: {gone[went[0]]}")
    if unknown:
        raise InputError(f"{OPTION} {path}: dpd {command} has no option {', '.join(unknown)}; see dpd {command} --help")
    chosen = [(options[key.replace("_", "-")], value) for key, value in merged.items()]
    values = {asked.name: _typed(asked, value) for asked, value in chosen}
    return values | ({SET: [*sets, *values.get(SET, [])]} if sets else {})


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _typed(asked: Any, value: Any) -> Any:
    """A value as the command line would have it: where an option is given once, a list has commas between."""
    once = asked.nargs == 1 and not getattr(asked, "multiple", False)
    if not once or not isinstance(value, list):
        return value if once else _listed(value)
    return joined(value) if asked.name == "classes" else ",".join(map(str, value))  # class names may hold commas


# -- Records: each keeps the options of the command that wrote it under `config`, and repeats that command.


IMAGES = ("val_per_class", "split", "groups", "bands", "stretch")
GENERATED = ("ipc", "seed", "classes", "steps", "solver", "candidates", "guidance_scale", "provider", "device")
FILLED = {
    "generate": (*GENERATED, "precision", "format", "image_format", "soft_labels"),
    "audit": ("images", "seed", "extractor", *IMAGES),
    "select": ("method", "ipc", "seed", "extractor", "resolution", *IMAGES),
}
"""The options that a record fills, by command. It may come from anybody: no option says where something lies, whom to
trust or which other machines work."""


def filled_options(command: str) -> tuple[str, ...]:
    """The options of a command that its record fills; none for commands without records.

    Those of `dpd train` and `dpd evaluate` are the fields of their configs, but for `--allow-outside` and `--jobs`.
    """
    if command not in ("train", "evaluate"):
        return FILLED.get(command, ())
    from dataclasses import fields

    from dpd_eval.options import EvaluateConfig
    from dpd_train.config import TrainConfig

    known = fields(TrainConfig if command == "train" else EvaluateConfig)
    return tuple(field.name for field in known if field.name not in ("allow_outside", "jobs"))


def _of_record(path: Path, raw: bytes, command: str, asked_of: Any, arguments: Sequence[str]) -> dict[str, Any]:
    """Raises:
    InputError: it is not JSON, keeps no options, repeats another command, or has not kept a value that is needed.
    """
    try:
        content = loads(raw)
    except ValueError as error:
        raise InputError(f"{OPTION} {path}: is not JSON ({error}); give a record of dpd or a TOML file") from None
    config, filled = content.get("config"), filled_options(command)
    if not isinstance(config, dict):
        raise InputError(f"{OPTION} {path}: keeps no options; give them instead")
    if not filled:
        raise InputError(f"{OPTION} {path}: no record repeats dpd {command}; give a TOML file")
    options = {p.opts[0].lstrip("-").replace("-", "_"): p for p in asked_of.params if p.param_type_name == "option"}
    if command == "train":
        config = _of_run(path, content, config)
    values: dict[str, Any] = {}
    for name, value in config.items():
        if value is None or (value is False and name not in filled):
            continue
        if name in settable(asked_of):
            if isinstance(value, bool | dict | list):
                raise InputError(
                    f"{OPTION} {path}: {value!r} is no value of --set {name}, so the record was changed; give the "
                    "options instead"
                )
            values.setdefault(SET, []).append(f"{name}={value}")
            continue
        if name not in options and (way_out := GONE.get(command, {}).get(option(name))):
            raise InputError(f"{OPTION} {path}: dpd {command} has no {option(name)} any more: {way_out}")
        if name not in options:
            raise InputError(
                f"{OPTION} {path}: dpd {command} has no option {option(name)}; a record repeats the command that wrote "
                "it"
            )
        asked = options[name]
        spellings = (*asked.opts, *asked.secondary_opts)
        if value == WITHHELD or name not in filled:
            if not any(word.split("=")[0] in spellings for word in arguments):
                raise InputError(f"{OPTION} {path}: {asked.opts[0]} was given and no record fills it; give it again")
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict | list) or isinstance(part, bool) is not asked.is_flag:
                raise InputError(
                    f"{OPTION} {path}: {value!r} is no value of {asked.opts[0]}, so the record was changed; give the "
                    "options instead"
                )
        values[asked.name] = _typed(asked, value)
    return values


def _of_run(path: Path, content: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The options of a run, without those that have no effect on it, as `dpd train` refuses them.

    Raises:
        InputError: a run together with other sites, or values that no run has.
    """
    from dpd_train.config import OWN, renamed, repeating_options
    from dpd_train.run import found_by_name, names_folders

    if content.get("federated"):
        raise InputError(f"{OPTION} {path}: this run was made together with other sites; give the options instead")
    try:
        repeated = repeating_options(config)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{OPTION} {path}: {error}, so the record was changed; give the options instead") from None
    watchers = repeated.get("watchers", OWN)
    local = names_folders(watchers) and not found_by_name(watchers, content.get("watchers"))
    unknown = {name: value for name, value in renamed(config).items() if name not in filled_options("train")}
    return unknown | repeated | ({"watchers": WITHHELD} if local else {})

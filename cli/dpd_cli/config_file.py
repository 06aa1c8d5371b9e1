"""`--config FILE.toml` of every command: options as keys. The command line wins."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

OPTION = "--config"


def take_config(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """Split `--config FILE` from the other arguments.

    Raises:
        InputError: the option has no file, or is there twice.
    """
    from dpd_runtime.errors import InputError

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
        raise InputError(f"{OPTION} takes one TOML file, once")
    return kept, Path(files[0]) if files else None


def read_config(path: Path, command: str, parameters: Sequence[Any], commands: Collection[str]) -> dict[str, Any]:
    """Read the values for a command, by parameter name.

    Keys may be written with - or _. A table with the command's name holds values for this command only. A list stands
    for its values separated by commas where the option is given once.

    Args:
        parameters: the command's, as click describes them. commands: names of all commands.

    Raises:
        InputError: there is no such file, it is not TOML, a table is not a command's, or a key is not an option of the
            command.
    """
    import tomllib

    from dpd_runtime.errors import InputError

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{OPTION} {path}: {error.strerror}; give a readable TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{OPTION} {path}: not TOML ({error})") from error
    tables = {key for key, value in content.items() if isinstance(value, dict)}
    if strange := sorted(tables - set(commands)):
        raise InputError(f"{OPTION} {path}: [{strange[0]}] is no command of dpd; see dpd --help")
    own = content.pop(command, {})
    if not isinstance(own, dict):
        raise InputError(f"{OPTION} {path}: {command} is not a table; write [{command}] above its options")
    merged = {key: value for key, value in content.items() if not isinstance(value, dict)} | own
    options = {spelling.lstrip("-"): p for p in parameters for spelling in (*p.opts, p.name or "")}
    unknown = sorted(key for key in merged if key.replace("_", "-") not in options)
    if unknown:
        raise InputError(f"{OPTION} {path}: dpd {command} has no option {', '.join(unknown)}; see dpd {command} --help")
    return dict(_value(options[key.replace("_", "-")], value) for key, value in merged.items())


def _value(parameter: Any, value: Any) -> tuple[str, Any]:
    """The name of a parameter, and its value as the command line would have it."""
    from dpd_runtime.command_line import joined

    once = parameter.nargs == 1 and not getattr(parameter, "multiple", False)
    return parameter.name, joined(value) if once and isinstance(value, list) else value

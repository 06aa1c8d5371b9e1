"""The `dpd` command. Commands import their rooms when they run, so that help and `dpd generate` stay light."""

import errno
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Annotated, NoReturn

import typer

from dpd_cli import terminal
from dpd_cli.commands.bundles import (
    decrypt_command,
    encrypt_command,
    info_command,
    keygen_command,
    sign_command,
    verify_command,
)
from dpd_cli.commands.doctor import bench_command, doctor_command
from dpd_cli.commands.generate import generate_command
from dpd_cli.commands.predict import predict_command
from dpd_cli.gone import GONE
from dpd_cli.options import DEBUG, OPTION, REQUIRE, SET, Verb, Verbs
from dpd_cli.terminal import INTERRUPTED
from dpd_runtime.calls import stop_calls
from dpd_runtime.errors import DpdError, InputError
from dpd_runtime.files import FULL, disk_fault

LONGEST_ERROR = 4_000
RESUMABLE = "interrupted; run the same command again to continue"
ANEW = "interrupted; nothing was written; the same command begins anew"
KEEP_NOTHING = ("fit", "predict")
"""Commands that write at their end alone."""

READ_BY_ALL = (
    "Every command takes --config FILE: TOML with its options as keys, or a record that dpd wrote. The command line "
    "wins. -o and --output, --num-inference-steps, --learning-rate and --report-to are understood."
)
BEHIND_DOORS = ("private", "swimdiff", "federate")
NOT_LISTED = (
    "Not listed above: dpd private (differential privacy), dpd swimdiff (encoders without labels), dpd federate (one "
    "tuning of several sites) and commands of other packages; dpd NAME --help describes each."
)

app = typer.Typer(
    name="dpd",
    cls=Verbs,
    help="Distil labelled scenes into a bundle, and generate a training set from it without PyTorch and without the "
    "scenes.",
    epilog=READ_BY_ALL if find_spec("dpd_train") is None else f"{READ_BY_ALL} {NOT_LISTED}",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS = {
    "The first hour": "check distill info generate evaluate fit predict",
    "Make a bundle": "data train export engines audit pretrain demo",
    "Sign and encrypt": "keygen sign encrypt decrypt",
    "Use a bundle": "verify bench doctor",
    "Compare": "select report",
}
"""The headings of `dpd --help`, with their commands in order."""
CALLED = {
    "--model": ("--base", "--student", "--students", "--extractor"),
    "--epochs": ("--steps", "--recipe"),
    "--lr": ("--peak-rate",),
    "--batch-size": ("--batch",),
    "--num-images": ("--ipc", "--images"),
    "--images-per-class": ("--ipc",),
    "--num-classes": ("--classes",),
    "--size": ("--resolution",),
    "--image-size": ("--resolution",),
    "--gpu": ("--device",),
    "--workers": ("--threads", "--jobs"),
    "--num-workers": ("--threads", "--jobs"),
    "--scheduler": ("--solver", "--sampler"),
    "--scale": ("--guidance-scale",),
    "--force": ("--overwrite",),
    "--output-dir": ("--out",),
    "--data": ("--train",),
}
"""What other programs call an option → ours, of which a message names the first that the command has."""
FOR_SITES: dict[str, Callable[..., None]] = {
    "keygen": keygen_command,
    "sign": sign_command,
    "encrypt": encrypt_command,
    "decrypt": decrypt_command,
    "generate": generate_command,
    "info": info_command,
    "verify": verify_command,
    "bench": bench_command,
    "doctor": doctor_command,
    "predict": predict_command,
}
"""What needs the runtime alone."""


def _commands() -> dict[str, Callable[..., None]]:
    """Those of a site, and those of a research machine where their rooms are installed."""
    if find_spec("dpd_cli.research") is None:
        return FOR_SITES
    from dpd_cli.research import COMMANDS as FOR_RESEARCH

    return FOR_SITES | FOR_RESEARCH


KNOWN = _commands()
COMMANDS = {panel: [name for name in names.split() if name in KNOWN] for panel, names in PANELS.items()}
for panel, names in COMMANDS.items():
    for name in names:
        app.command(name, cls=Verb, rich_help_panel=panel)(KNOWN[name])


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("dpd-distill"))
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. An error becomes one line and an exit code."""
    terminal.install()
    terminal.prepare_streams()
    os.environ["PYTHONSAFEPATH"] = "1"  # processes that we start import nothing from the working folder either
    try:
        code = _run(sys.argv[1:] or ["--help"])
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end_interrupted()
    except Exception as error:
        _explain(error)
    else:
        if code == INTERRUPTED:
            _end_interrupted()
        sys.exit(code if isinstance(code, int) else 0)


def _run(arguments: list[str]) -> object:
    if DEBUG in arguments:
        os.environ["DPD_DEBUG"] = "1"
        arguments = [argument for argument in arguments if argument != DEBUG]
    if "_DPD_COMPLETE" in os.environ:  # a shell asks what could come next
        for offered in offered_commands():
            add_command(offered)
    if not any(argument.startswith(OPTION) for argument in arguments):
        _check_command(arguments)
        return app(arguments, standalone_mode=False)
    from dpd_cli.config import read_config, take_config

    arguments, path = take_config(arguments)
    _check_command(arguments)
    commands = {str(command.name): command for command in typer.main.get_group(app).commands.values()}
    name = next((argument for argument in arguments if argument in commands), None)
    if path is None or name is None:
        return app(arguments, standalone_mode=False)
    values = read_config(path, name, commands, arguments, offered_commands)
    behind = arguments.index(name) + 1  # demands add up; of two values of --set the last counts, which was typed
    for parameter, option in ((SET, "--set"), (REQUIRE, "--require")):
        arguments[behind:behind] = [word for text in values.pop(parameter, ()) for word in (option, str(text))]
    return app(arguments, standalone_mode=False, default_map={name: values})


def _check_command(arguments: list[str]) -> None:
    """Add the command that another package offers where the first argument is one of these; suggest one where it is
    neither a command nor an option.
    """
    if not arguments or arguments[0].startswith("-") or arguments[0] in KNOWN:
        return
    word, known = arguments[0], [name for names in COMMANDS.values() for name in names]
    offered = offered_commands()
    if word in offered:
        add_command(word)
        return
    known += offered
    elsewhere = any(word in names.split() for names in (*PANELS.values(), " ".join(BEHIND_DOORS)))
    if elsewhere and find_spec("dpd_train") is None:
        raise InputError(
            f"dpd {word} is not in this installation, which is a site's: it has {', '.join(known)}; install the whole "
            "of dpd where the images are"
        )
    raise InputError(f"no such command {word!r}{_meant(word, known)}; see dpd --help")


def offered_commands() -> tuple[str, ...]:
    """The commands that other packages offer; none at a site."""
    if find_spec("dpd_train") is None:
        return ()
    from dpd_train.doors import offered_names

    return offered_names("dpd.commands")


def add_command(name: str) -> None:
    """Add the command of another package to `app`."""
    from dpd_train.doors import open_door

    app.command(name, cls=Verb)(open_door("dpd.commands", name))


def _meant(word: str, known: list[str]) -> str:
    """Suggest the known words that begin with `word`, else the most similar one; dashes make no two words similar."""
    bare = {name.lstrip("-"): name for name in known}
    plain = word.lstrip("-")
    begun = [bare[name] for name in bare if name.startswith(plain) and len(plain) > 1]
    suggestions = begun[:3] or [bare[name] for name in get_close_matches(plain, bare, n=1)]
    return f"; did you mean {' or '.join(suggestions)}?" if suggestions else ""


def _explain(error: Exception) -> NoReturn:
    if isinstance(error, DpdError):
        _fail(str(error), error.exit_code)
    if hasattr(error, "format_message"):  # typer's own: an unknown option, a value of the wrong type
        context = getattr(error, "ctx", None)
        hint = f"; see {context.command_path} --help" if context else ""
        if context and hasattr(error, "possibilities"):  # an unknown option
            option = str(getattr(error, "option_name", ""))
            name = option.lstrip("-").replace("-", "_")
            if name in getattr(context.command.callback, "settable", ()):
                _fail(f"{context.command_path} has no {option}: give --set {name}=VALUE", 2)
            if option in (gone := GONE.get(context.info_name or "", {})):
                _fail(f"{context.command_path} has no {option} any more: {gone[option]}", 2)
            known = [opt for p in context.command.get_params(context) for opt in p.opts if opt != "--help"]
            asked = next((own for own in CALLED.get(option, ()) if own in known), option)
            meant = f"; did you mean {asked}?" if asked != option else _meant(option, known)
            _fail(f"no such option {option}{meant}{hint}", 2)
        _fail(f"{error.format_message().rstrip('.')}{hint}", 2)
    if type(error).__name__ == "Abort":
        _end_interrupted()
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        _fail(
            f"dpd {_command()} needs more memory than this process may use ({error or type(error).__name__}); close "
            "other programs, raise the limit (ulimit -v, the container's), make smaller batches or use a machine with "
            "more",
            5,
        )
    if isinstance(error, BrokenPipeError) and error.filename == terminal.RESULTS:
        sys.exit(1)  # nobody reads any more, and nobody would read why
    fault = disk_fault(error) or (error if isinstance(error, OSError) else None)
    if fault is not None:
        _fail(_of_the_system(fault), 5)
    _fail(f"internal error: {type(error).__name__}: {error}; please report it with the output of --debug", 1)


def _of_the_system(error: OSError) -> str:
    """What the system refused, and the way out."""
    where, reason = error.filename or "output", error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: {FULL} ({reason}); free space there, or choose another place; what was finished is kept"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}: {reason}; get the permission, or choose another place"
    if "temporary directory" in reason:  # Python's own sentence, which lists where it looked
        return f"{reason}; set TMPDIR to a folder that can be written"
    return f"{where}: {reason}"


def _command() -> str:
    """The command that was asked for; empty where there is none."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), "")


def _end_interrupted() -> NoReturn:
    """End at once, even if a network is within one operator that takes hours: Python would wait for its thread."""
    try:
        _fail(ANEW if _command() in KEEP_NOTHING else RESUMABLE, INTERRUPTED)
    finally:
        if not stop_calls(seconds=0.5):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)


def _fail(sentence: str, code: int) -> NoReturn:
    if os.environ.get("DPD_DEBUG"):
        import traceback

        traceback.print_exc()
    line = " ".join(sentence.split())
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)  # a bundle's author chose its names
    if len(shown) > LONGEST_ERROR:
        shown = f"{shown[: LONGEST_ERROR // 2]} … {shown[-LONGEST_ERROR // 2 :]}"
    print(f"dpd: {shown}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()

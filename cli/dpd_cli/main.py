"""`dpd`: one file a verb. Rooms are imported inside the commands, so that help and `dpd generate` stay light."""

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from dpd_cli.demo import demo_command
from dpd_cli.evaluate import evaluate_command
from dpd_cli.export import export_command
from dpd_cli.generate import generate_command
from dpd_cli.info import info_command
from dpd_cli.pretrain import pretrain_command
from dpd_cli.train import train_command

app = typer.Typer(
    name="dpd",
    help="Distil a scene set into a bundle; regenerate a training set from it without PyTorch and without the data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate_command)
app.command("train")(train_command)
app.command("export")(export_command)
app.command("evaluate")(evaluate_command)
app.command("info")(info_command)
app.command("demo")(demo_command)
app.command("pretrain")(pretrain_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("dpd-distill"))
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a trace with an error.")] = False,
) -> None:
    if debug:
        os.environ["DPD_DEBUG"] = "1"


def main() -> None:
    """Run the command line; every DpdError becomes one line and its exit code."""
    from dpd_runtime.errors import DpdError

    try:
        app()
    except DpdError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", 130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        _fail(f"internal error: {type(error).__name__}: {error}; please report it with the output of --debug", 1)


def _fail(sentence: str, code: int) -> None:
    if os.environ.get("DPD_DEBUG"):
        import traceback

        traceback.print_exc()
    print(f"dpd: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()

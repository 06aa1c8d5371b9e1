"""The commands that need more than the runtime: where scenes are, and where sets are judged."""

from collections.abc import Callable

from dpd_cli.commands.audit import audit_command
from dpd_cli.commands.check import check_command
from dpd_cli.commands.data import data_command
from dpd_cli.commands.demo import demo_command
from dpd_cli.commands.distill import distill_command
from dpd_cli.commands.engines import engines_command
from dpd_cli.commands.evaluate import evaluate_command
from dpd_cli.commands.export import export_command
from dpd_cli.commands.fit import fit_command
from dpd_cli.commands.pretrain import pretrain_command
from dpd_cli.commands.report import report_command
from dpd_cli.commands.select import select_command
from dpd_cli.commands.train import train_command

COMMANDS: dict[str, Callable[..., None]] = {
    "check": check_command,
    "distill": distill_command,
    "train": train_command,
    "export": export_command,
    "engines": engines_command,
    "audit": audit_command,
    "fit": fit_command,
    "evaluate": evaluate_command,
    "select": select_command,
    "report": report_command,
    "demo": demo_command,
    "data": data_command,
    "pretrain": pretrain_command,
}

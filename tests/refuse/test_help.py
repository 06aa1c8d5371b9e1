"""What --help shows: every name of an option whole, every word, and what an option accepts, as the code has it."""

import ast
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dpd_cli.config import settable
from dpd_cli.main import add_command, app, main, offered_commands
from dpd_cli.options import PANELS
from dpd_eval.options import EvaluateConfig
from dpd_neighbours.swimdiff.command import FIELDS
from dpd_runtime.settings import choices, studied
from dpd_train.config import PRESETS, TRAININGS, TrainConfig

for offered in offered_commands():
    add_command(offered)
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="a site has no PyTorch")


def shown(*arguments: str, columns: int = 80) -> str:
    environment = {"COLUMNS": str(columns), "TERM": "dumb", "NO_COLOR": "1"}
    done = CliRunner().invoke(app, [*arguments, "--help"], env=environment, terminal_width=columns)
    assert done.exit_code == 0
    return done.output


def parameter(command: str, option: str) -> Any:
    return next(found for found in COMMANDS[command].params if option in found.opts)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_every_option_is_shown_whole_and_once(name: str, columns: int) -> None:
    text = shown(name, columns=columns)
    assert "…" not in text
    headed = re.findall(r"^  (-\S+?(?:, -\S+)*)(?: |$)", text, re.MULTILINE)
    names = [option for row in headed for option in row.split(", ")]
    wanted = [option for found in COMMANDS[name].params for option in (*found.opts, *found.secondary_opts)]
    options = sorted(option for option in wanted if option.startswith("-"))
    assert sorted(names) == sorted([*options, "--config", "--debug", "--help", "-h"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_word_is_shown_and_no_line_is_too_long(name: str) -> None:
    text = shown(name)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    words = re.sub(r"\s+", " ", text)
    for found in COMMANDS[name].params:
        assert found.help, f"{found.opts[0]} has no help"
        assert re.sub(r"\s+", " ", found.help).strip() in words
        assert found.help.endswith("."), f"{found.opts[0]}: {found.help}"
        assert found.help.count("Default:") <= 1
        assert getattr(found, "rich_help_panel", None) in (None, *PANELS)


def test_every_command_is_listed_with_its_first_sentence() -> None:
    text = re.sub(r"\s+", " ", shown())
    for name, command in COMMANDS.items():
        first = command.help.split("\n\n")[0]
        assert first.endswith(".")
        assert f"{name} {first}" in re.sub(r"\s+", " ", text)


def test_dpd_alone_shows_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["dpd"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 0
    printed = capsys.readouterr()
    assert "Make a bundle" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(("command", "config"), [("train", TrainConfig), ("evaluate", EvaluateConfig)])
def test_options_are_the_fields_of_the_config(command: str, config: type) -> None:
    for name, field in config.__dataclass_fields__.items():
        if name in studied(config):
            assert settable(COMMANDS[command])[name].startswith(field.metadata["help"])
            continue
        found = parameter(command, "--" + name.replace("_", "-"))
        assert found.name == name
        assert found.default is None, "a value that was not given must not look like one that was"
        assert found.help.startswith(field.metadata["help"])
        assert found.rich_help_panel == field.metadata["panel"]
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        if default not in (None, True, False):
            assert f"Default: {default:g}." in found.help if isinstance(default, float) else f"Default: {default}."
        if name in choices(config):
            assert listed(found) == set(choices(config)[name])


def listed(found: Any) -> set[str]:
    """The values that help names."""
    return set(found.metavar.removesuffix(",...").replace("[:N]", "").split("|"))


WITH_DEVICE = ("train", "pretrain", "evaluate", "audit", "fit", "generate", "verify", "predict", "engines", "swimdiff")


def accepted() -> Iterable[tuple[str, str, Iterable[str]]]:
    """Command, option, and what the code behind it accepts."""
    from dpd_eval.selection import METHODS
    from dpd_eval.students import STUDENTS
    from dpd_export.builder import FLAVOURS, PARTS
    from dpd_export.options import PRECISIONS
    from dpd_neighbours.students import BACKBONES
    from dpd_runtime.formats import ENCODINGS, FORMATS
    from dpd_runtime.networks import PROVIDERS
    from dpd_runtime.solvers import SOLVERS
    from dpd_train.config import DEVICES, STAGES

    yield from ((name, "--provider", PROVIDERS) for name in ("generate", "verify", "bench"))
    yield from ((name, "--device", DEVICES) for name in ("train", "pretrain", "evaluate", "audit", "fit", "swimdiff"))
    yield "train", "--preset", PRESETS
    yield "generate", "--format", FORMATS
    yield "generate", "--image-format", ENCODINGS
    yield "generate", "--solver", SOLVERS
    yield "export", "--precision", PRECISIONS
    yield from ((name, "--flavour", FLAVOURS) for name in ("export", "engines"))
    yield "engines", "--parts", PARTS
    yield "select", "--method", METHODS
    yield "pretrain", "--stage", (*STAGES, "all")
    yield "evaluate", "--students", (*STUDENTS, *(f"dsdnet:{name}" for name in BACKBONES))


@needs_torch
def test_help_names_what_is_accepted_and_nothing_else() -> None:
    for command, option, values in accepted():
        found = parameter(command, option)
        if found.metavar is not None:
            assert listed(found) == set(values), f"dpd {command} {option}"
            continue
        sentence = re.search(r": ((?:[\w:-]+, )+[\w:-]+ or )hf:ID_OR_PATH", found.help)
        assert sentence is not None, found.help
        assert set(re.split(r", | or ", sentence[1])) - {""} == set(values), f"dpd {command} {option}"


def test_the_check_of_values_can_fail() -> None:
    assert listed(parameter("generate", "--provider")) != {"auto", "cpu", "cuda"}


@needs_torch
def test_help_states_the_defaults_of_trainings() -> None:
    from dpd_neighbours.swimdiff.config import SwimDiff
    from dpd_train.pretrain import PretrainConfig

    for name in TRAININGS:
        steps = getattr(PretrainConfig(), name).steps
        assert f"Default: {steps}." in settable(COMMANDS["pretrain"])[f"{name}_steps"]
    assert f"With --bands: {TrainConfig().vae_steps}." in settable(COMMANDS["pretrain"])["autoencoder_steps"]
    defaults = SwimDiff()
    for name, field in FIELDS.items():
        assert f"Default: {getattr(defaults, field):g}." in parameter("swimdiff", "--" + name.replace("_", "-")).help


REPOSITORY = re.compile(
    r"\b(?:docs|tests|benchmarks|recipes|examples|airgap|neighbours)/[\w/-]+(?:\.\w+)*|\b(?:CONTRIBUTING|SECURITY|CHANGELOG)\.md\b"
    r"|\b(?:constraints|requirements)[\w-]*\.(?:toml|txt|lock)\b"
)
"""Files of a checkout, which a wheel has not."""


def said(path: Path) -> Iterator[str]:
    """The texts of a module that people can be shown: all but comments and docstrings of what is no command."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = set()
    for node in ast.walk(tree):
        found = getattr(node, "body", None)
        body = found if isinstance(found, list) else []  # a lambda's is one expression
        for before, after in zip([None, *body], body, strict=False):
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                shown_as_help = isinstance(node, ast.FunctionDef) and node.name.endswith("_command") and before is None
                hidden |= set() if shown_as_help else {id(after.value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in hidden:
            yield node.value


def test_no_text_names_a_file_that_a_wheel_has_not() -> None:
    """Help texts and messages are read where only the wheel is."""
    names = ("cli", "distill", "eval", "export", "neighbours", "private", "runtime", "train")
    rooms = [f"dpd_{name}" for name in names]
    places = [Path(str(find_spec(room).origin)).parent for room in rooms]  # type: ignore[union-attr]
    texts = [(path.name, text) for place in places for path in place.rglob("*.py") for text in said(path)]
    assert len(texts) > 5000
    assert [(name, text[:80]) for name, text in texts if REPOSITORY.search(text)] == []


def test_the_search_for_such_files_finds_one(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        '"""airgap/a.py."""\nX = 1\n"""airgap/b.py."""\n'
        'def sign_command():\n    """See airgap/c.py."""\n    """airgap/d.py"""\n    raise E(f"{X}: airgap/e.py")\n'
        'def f():\n    """airgap/g.py."""\n'
    )
    assert [REPOSITORY.findall(text) for text in said(tmp_path / "a.py") if text != ""] == [
        ["airgap/c.py"],
        ["airgap/e.py"],
    ]

"""The pages hold together: links and anchors exist, quoted commands use options that exist."""

import ast
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

from dpd_cli.main import add_command, app, offered_commands
from dpd_runtime.errors import MissingExtraError

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
if not README.is_file() or not (ROOT / "docs").is_dir():
    pytest.skip("the documents are not here", allow_module_level=True)

DOCS = sorted((ROOT / "docs").rglob("*.md"))
AT_THE_ROOT = ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY", "THIRD_PARTY_NOTICES")
PAGES = [*(ROOT / f"{name}.md" for name in AT_THE_ROOT), *DOCS, *sorted((ROOT / "recipes").rglob("README.md"))]
MOST_BYTES_OF_A_PICTURE = 300_000
RELEASE = "16c548f"
"""The commit of 0.2.0, at which the studies stand whole."""
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`(dpd [^`]+)`")
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
for offered in offered_commands():
    add_command(offered)
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
EVERYWHERE = {"--help", "-h", "--config", "--debug"}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    return BLOCK.sub("", text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub, and the site, give to a page's headings."""
    found: dict[str, int] = {}
    names = set()
    for heading in HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        names.add(slug if slug not in found else f"{slug}-{found[slug]}")
        found[slug] = found.get(slug, 0) + 1
    return names


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for link in LINK.findall(prose(text)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists():
            broken.append(f"{link}: there is no such file")
        elif target.is_dir():
            broken.append(f"{link}: is a folder, which the site cannot show; name a file in it")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8") if path else text):
            broken.append(f"{link}: there is no such heading")
    return broken


def quoted_commands(text: str) -> Iterator[list[str]]:
    """The arguments behind each `dpd` in code blocks (a backslash joins lines) and in code spans."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *(" ".join(span.split()) for span in SPAN.findall(prose(text)))]:
        for part in re.split(r"&&|;|\(|\)| · ", re.sub(r"(^|\s)#.*", "", line)):
            tokens = shlex.split(part) if part.count("'") % 2 == 0 and part.count('"') % 2 == 0 else part.split()
            for start in ("dpd", "dpd_cli"):
                if start in tokens and "pip" not in tokens:
                    yield tokens[tokens.index(start) + 1 :]


def unknown_words(arguments: list[str]) -> list[str]:
    """What a quoted command has and `dpd` has not: the command itself, or its options."""
    if not arguments or arguments[0] in ("--version", "--debug", "COMMAND", "…") or arguments[0] == "--help":
        return []
    if not re.fullmatch(r"[a-z]+", arguments[0]):
        return []  # a diagram, or output
    if arguments[0] not in COMMANDS:
        return [f"dpd {arguments[0]}"]
    known = {
        spelling for option in COMMANDS[arguments[0]].params for spelling in (*option.opts, *option.secondary_opts)
    }
    used = [argument.partition("=")[0] for argument in arguments[1:] if re.match(r"--?[a-z]", argument)]
    return [f"dpd {arguments[0]} {option}" for option in used if option not in known | EVERYWHERE]


def written_page(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_page() -> str:
    return str(written_page("options_page").options_page())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_and_anchor_exists(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_every_test_that_a_page_names_is_there_once() -> None:
    """So that its name alone is enough to find it."""
    files = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    named = {found for page in PAGES for found in re.findall(r"\btest_\w+\.py", page.read_text(encoding="utf-8"))}
    assert "test_docs.py" in named
    assert {found: files[found] for found in named if files[found] != 1} == {}


def test_the_tests_that_pages_name_exist() -> None:
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = {found for page in PAGES for found in re.findall(r"`(test_\w+)(…)?`", page.read_text(encoding="utf-8"))}
    assert len(named) > 5
    for name, more in sorted(named):
        assert any(one.startswith(name) if more else one == name for one in there), name


def test_a_broken_link_is_found() -> None:
    text = (
        "# One\n[a](no_such_page.md) [b](docs/index.md#no-such-heading) [c](#two) [d](#one) ![e](docs/images/none.png)"
    )
    assert [line.partition(":")[0] for line in broken_links(README, text)] == [
        "no_such_page.md",
        "docs/index.md#no-such-heading",
        "#two",
        "docs/images/none.png",
    ]


def unlisted(page: str, results: set[str]) -> dict[str, set[str]]:
    """Result files that the page of results does not name, and names on it that are no result file."""
    named = set(re.findall(r"(?<![\w:./])(\w+\.json)`", page)) - {"bundle.json", "NAME.json"}
    return {"not named": results - named, "not there": named - results}


def missing_in_history(page: str) -> list[str]:
    """Each `COMMIT:NAME.json` and `COMMIT:PAGE.md` that its commit lacks; 0.2.0 is RELEASE."""
    missing, trees = [], {}
    for commit, file in sorted(set(re.findall(r"`([\w.]+):(\w+\.(?:json|md))`", page))):
        if file in ("NAME.json", "PAGE.md"):
            continue
        if commit not in trees:
            listing = ["git", "ls-tree", "-r", "--name-only", RELEASE if commit == "0.2.0" else commit]
            trees[commit] = set(subprocess.run(listing, cwd=ROOT, capture_output=True, text=True).stdout.split())
        folder = "benchmarks/results" if file.endswith(".json") else "docs/results"
        missing += [f"{commit}:{file}"] * (f"{folder}/{file}" not in trees[commit])
    return missing


def test_every_result_is_listed() -> None:
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    results = {path.name for path in (ROOT / "recipes/results").glob("*.json")}
    assert results
    assert unlisted(page, results) == {"not named": set(), "not there": set()}
    other = "`eurosat_1.json`, `0.2.0:old.json`"
    assert unlisted(other, {"kept.json"}) == {"not named": {"kept.json"}, "not there": {"eurosat_1.json"}}


def test_results_of_the_release_stand_in_history() -> None:
    known = ["git", "cat-file", "-e", f"{RELEASE}^{{commit}}"]
    if not shutil.which("git") or subprocess.run(known, cwd=ROOT, capture_output=True).returncode:
        pytest.skip(f"no git, or no history that reaches the release 0.2.0 ({RELEASE})")
    assert RELEASE in (ROOT / "docs/results.md").read_text(encoding="utf-8")
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert pages.count("`0.2.0:") > 50
    assert missing_in_history(pages) == []
    assert missing_in_history("`0.2.0:idle.json`, `0.2.0:none.json`") == ["0.2.0:none.json"]


def test_pictures_are_small() -> None:
    assert {
        name(p): p.stat().st_size for p in (ROOT / "docs").rglob("*.png") if p.stat().st_size > MOST_BYTES_OF_A_PICTURE
    } == {}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_quoted_commands_use_options_that_exist(page: Path) -> None:
    quoted = quoted_commands(page.read_text(encoding="utf-8"))
    assert [word for arguments in quoted for word in unknown_words(arguments)] == []


def test_commands_are_quoted_and_a_wrong_option_is_found() -> None:
    assert sum(1 for _ in quoted_commands(README.read_text(encoding="utf-8"))) >= 10
    block = "```sh\nx && dpd generate --ipc 1 \\\n  --no-such 2  # --comment\n```\n"
    text = f"{block}`dpd nothing x`, `dpd train DATA --stepz=3`\n"
    found = [word for arguments in quoted_commands(text) for word in unknown_words(arguments)]
    assert found == ["dpd generate --no-such", "dpd nothing", "dpd train --stepz"]


PROGRAMS = {
    "accelerate",
    "cd",
    "dpd",
    "export",
    "git",
    "hf",
    "make",
    "pip",
    "python",
    "python3",
    "sha256sum",
    "torchrun",
}
PROGRAMS |= {"ulimit", "umask"}


def other_words(text: str) -> list[str]:
    """Lines of shell blocks that begin with no program, as where a command was folded without a backslash."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    first = [re.sub(r"^\(?([a-z]+=\"[^\"]*\"|[A-Z_]+=\S+ )*", "", line).split(" ")[0] for line in lines]
    return [word for word in first if word and not word.startswith("#") and word not in PROGRAMS]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_blocks_are_commands(page: Path) -> None:
    assert other_words(page.read_text(encoding="utf-8")) == []


def test_a_command_that_was_folded_without_a_backslash_is_found() -> None:
    assert other_words("```sh\npip download a==1\nb==2 dpd data fetch  # on the other\nmachine\n```\n") == [
        "b==2",
        "machine",
    ]


def test_the_options_page_has_every_command_and_option() -> None:
    page = options_page()
    for command, made in COMMANDS.items():
        section = page.partition(f"## dpd {command}\n")[2].partition("\n## ")[0]
        for option in made.params:
            if option.param_type_name == "option" and not option.hidden:
                assert f"`{option.opts[0]}`" in section, f"dpd {command} {option.opts[0]}"
    assert "`--no-such`" not in page


def test_the_python_page_asks_for_every_public_name() -> None:
    """Those of the packages, each with a docstring, without which it would be left out; and what the guide imports."""
    for package in ("torch", "onnxruntime", "msgspec"):
        pytest.importorskip(package)
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    asked = dict(re.findall(r"^::: (\S+)$(?:\n    options: \{members: \[(.*)\]\})?", page, re.MULTILINE))
    packages = {"dpd_distill", "dpd_runtime", "dpd_eval", "dpd_export"}
    guide = (ROOT / "docs" / "guides" / "use-from-python.md").read_text(encoding="utf-8")
    imported = dict(re.findall(r"^from (dpd_[\w.]+) import ([\w, ]+?)(?:  #.*|;.*)?$", guide, re.MULTILINE))
    assert len(imported) > 6
    assert asked.keys() == packages | imported.keys()
    for package in packages:
        public = importlib.import_module(package).__all__
        assert {*asked[package].split(", ")} in ({""}, {*public})
        assert [one for one in public if not getattr(importlib.import_module(package), one).__doc__] == []
    for module in asked.keys() - packages:
        assert {*imported[module].split(", ")} <= {*asked[module].split(", ")} <= names_in(module)


def test_the_site_has_every_page_and_what_they_link_to(tmp_path: Path) -> None:
    pytest.importorskip("msgspec")
    shown = written_page("pages")
    shown.write_pages(tmp_path)
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(listed) > 30
    assert [page for page in listed if not (tmp_path / page).is_file()] == []
    assert {page.relative_to(ROOT / "docs").as_posix() for page in DOCS} - {*listed} == set()
    assert (tmp_path / "examples" / "first_hour.ipynb").is_file()
    assert "(readme.md)" in (tmp_path / "index.md").read_text(encoding="utf-8")
    assert "## dpd generate" in (tmp_path / "reference" / "options.md").read_text(encoding="utf-8")


def test_the_records_page_explains_every_field() -> None:
    pytest.importorskip("msgspec")
    module = written_page("records_page")
    page = module.records_page()
    written = [row for row in page.splitlines() if row.startswith("| `")]
    assert len(written) > 150
    assert [row for row in written if row.endswith("|  |")] == []
    assert (
        "| `confusion` | list of list of integer ≥ 0 | test images of all pairs, counted by [true, predicted]. |"
        in page
    )
    for _, types in module.RECORDS.values():
        for kind in types[1:]:
            assert f"](#{kind.__name__.lower()})" in page, f"nothing links to {kind.__name__}"


def missing_names(text: str) -> list[str]:
    """Names that Python in code blocks imports from our packages and that do not exist."""
    missing = []
    for module, names in re.findall(
        r"^from (dpd_[\w.]+) import ([\w, ]+)$", "\n".join(BLOCK.findall(text)), re.MULTILINE
    ):
        missing += [f"{module}.{name}" for name in names.split(", ") if name not in names_in(module)]
    return missing


def names_in(module: str) -> set[str]:
    """What can be imported from a module: as its source says, where a package that it needs is not installed."""
    try:
        found = importlib.import_module(module)
        return {*vars(found), *dir(found)}
    except MissingExtraError:
        source = importlib.util.find_spec(module)
        assert source is not None
        assert source.origin is not None
        tree = ast.parse(Path(source.origin).read_text(encoding="utf-8"))
        return {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_in_the_pages_imports_names_that_exist(page: Path) -> None:
    for package in ("torch", "onnxruntime"):
        pytest.importorskip(package)
    assert missing_names(page.read_text(encoding="utf-8")) == []


def test_a_name_that_does_not_exist_is_found() -> None:
    assert missing_names("```python\nfrom dpd_runtime import load_bundle, nothing\n```\n") == ["dpd_runtime.nothing"]


def test_pages_named_in_the_code_exist() -> None:
    folders = (
        "dpd_runtime",
        "dpd_train",
        "dpd_eval",
        "dpd_distill",
        "dpd_private",
        "export",
        "cli",
        "airgap",
        "recipes",
        "examples",
        "tests",
    )
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = {page for path in sources for page in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8"))}
    assert len(named) > 5
    assert [page for page in sorted(named) if not (ROOT / page).is_file()] == []

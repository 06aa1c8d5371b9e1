"""The Python API: what it names, what it says of missing packages, and how its values show themselves."""

import inspect
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import dpd_distill as dpd
from dpd_distill.plan import full_plan
from dpd_eval.verdict import Audit, Outcome
from dpd_runtime.bundle import load_bundle
from dpd_runtime.dataset import DistilledSet
from dpd_runtime.errors import DataError, InputError, MissingExtraError
from dpd_runtime.extras import PACKAGES, require_extras
from dpd_runtime.html import html_table
from dpd_runtime.sealing import encrypt_bundle
from dpd_train.data_card import write_card
from tests.tiny import drawn_scenes
from tests.unit.runtime.test_bundle import as_zip, bundle_files

NAMES = {"audit", "distill", "evaluate", "export", "fit", "generate", "open_scenes", "predict", "train", "write_set"}


class Texts(HTMLParser):
    """The text of each cell and division; no tag of a stranger."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(html: str) -> Texts:
    page = Texts()
    page.feed(html)
    page.close()
    return page


def test_it_names_its_calls_and_describes_each() -> None:
    assert set(dir(dpd)) == NAMES | {"__doc__"}
    for name in NAMES:
        call = getattr(dpd, name)
        assert len((inspect.getdoc(call) or "").splitlines()) > 3, name
        assert all(p.annotation is not inspect.Parameter.empty for p in inspect.signature(call).parameters.values())
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        dpd.trian  # noqa: B018


def test_its_import_loads_nothing_heavy() -> None:
    code = "import sys, dpd_distill; print(sorted({'numpy', 'torch', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_all_missing_extras_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "export", ("onnx_of_nobody",))
    monkeypatch.setitem(PACKAGES, "dp", ("nothing_at_all",))
    with pytest.raises(MissingExtraError, match=r"onnx_of_nobody.*nothing_at_all.*\[export,dp\]"):
        require_extras("export", "cpu", "dp")


def test_scenes_take_the_words_of_the_command_line_and_show_themselves(tmp_path: Path) -> None:
    folder = drawn_scenes(tmp_path / "scenes", per_class=4)
    scenes = dpd.open_scenes(str(folder), val_per_class=2, split="names")
    assert set(scenes.counts("train").values()) == {2}
    page = read(scenes._repr_html_())
    assert page.texts[:3] == [str(folder), "class", "all"]
    assert page.texts[3:5] == [scenes.classes[0], "4"]
    assert page.texts[-1] == "--val-per-class 2, --split names"
    write_card(folder, {"val_per_class": 1, "split": "content"})
    with pytest.raises(InputError, match=r"--split content: .* says") as caught:
        dpd.open_scenes(write_card(drawn_scenes(tmp_path / "b", 4), {"split": "names"}).parent, split="content")
    assert "leave the option out" in str(caught.value)
    with pytest.raises(InputError, match=r"--val-per-class 2: .*dpd\.toml says val_per_class = 1"):
        dpd.open_scenes(folder, val_per_class=2)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        dpd.open_scenes(tmp_path / "nowhere")


def test_a_place_takes_the_options_of_its_call_and_opened_scenes_refuse_others(tmp_path: Path) -> None:
    folder = drawn_scenes(tmp_path / "scenes", per_class=6)
    with pytest.raises(InputError, match="nobase': no such folder; give nano"):
        dpd.train(folder, tmp_path / "run", val_per_class=2, base=str(tmp_path / "nobase"))  # after the scenes' options
    scenes = dpd.open_scenes(folder, val_per_class=2)
    with pytest.raises(InputError, match=r"--val-per-class 3: .* was opened with 2; leave it out"):
        dpd.distill(scenes, tmp_path / "site.dpd", val_per_class=3)
    named = dpd.open_scenes(folder, split="names")
    with pytest.raises(InputError, match=r"--split content: .* was opened with names; leave it out"):
        dpd.distill(named, tmp_path / "site.dpd", split="content")
    with pytest.raises(InputError, match=r"val_per_class: .* was opened, and says it itself"):
        dpd.audit(folder, train=scenes, val_per_class=2)
    with pytest.raises(InputError, match="--dp is no option of this distillation: leave it out"):
        dpd.distill(scenes, tmp_path / "site.dpd", dp=1)
    table = tmp_path / "list.csv"
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    table.write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    with pytest.raises(InputError, match="is a list; give the folder of a set"):
        dpd.audit(dpd.open_scenes(table), train=scenes)


def test_a_stranger_s_words_are_text() -> None:
    page = read(html_table("<b>", ["a & b"], [("<script>alert(1)</script>", '"')], ["<i>"]))
    assert page.texts == ["<b>", "a & b", "<script>alert(1)</script>", '"', "<i>"]
    assert set(page.tags) == {"div", "b", "table", "tr", "th", "td"}


def test_a_plan_an_audit_and_a_set_show_themselves(tmp_path: Path) -> None:
    assert read(full_plan(1, 1)._repr_html_()).texts[0] == "Plan: 0 minutes"
    test = Outcome("near copies", 0.25, None, 0.5, "PASS", "")
    said = read(Audit(verdict="PASS", summary=("Found: nothing.",), tests=(test,), controls=())._repr_html_())
    assert said.texts == [
        *("Audit: PASS", "test", "value", "limit", "verdict", "near copies", "0.250", "0.500", "PASS"),
        "Found: nothing.",
    ]
    unfinished = DistilledSet(tmp_path, 10, 2, 10, None)
    assert "img" not in read(unfinished._repr_html_()).tags
    (tmp_path / "contact_sheet.png").write_bytes(b"picture")
    assert read(DistilledSet(tmp_path, 10, 2, 10, "abc")._repr_html_()).tags[-1] == "img"


def test_an_audit_that_could_not_be_written_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpd_eval.audit.audit", lambda *_, **__: pytest.fail("it was audited"))
    plain = as_zip(tmp_path, bundle_files())
    encrypt_bundle(plain, tmp_path / "tiny.dpde", "words of the site")
    opened = load_bundle(tmp_path / "tiny.dpde", "words of the site")
    with pytest.raises(InputError, match="is encrypted, but its changed copy would not be; run dpd decrypt first"):
        dpd.audit(opened, train=tmp_path, out=tmp_path / "audited.dpd")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        dpd.audit(plain, train=tmp_path, out=tmp_path / "file" / "audited.dpd")

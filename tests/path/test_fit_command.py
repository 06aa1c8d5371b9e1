"""`dpd fit` and `dpd predict` together, as at a site: a classifier from a set and some own images labels a folder."""

import csv
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("onnx")
from tests.commands import Done
from tests.commands import dpd as run_dpd
from tests.unit.eval.test_fit import RECIPE, write_set
from tests.unit.train.test_published import resnet, saved


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    write_set(folder / "set", 8)
    write_set(folder / "own", 10, side=40, seed=1)
    write_set(folder / "new", 6, side=30, seed=2)
    write_set(folder / "others", 3, names=("A", "C"))
    write_set(folder / "single", 3, names=("A",))
    (folder / "short.toml").write_text(RECIPE)
    return folder


def run(folder: Path, environment: dict[str, str], *arguments: str) -> Done:
    return run_dpd(arguments, environment | {"XDG_CACHE_HOME": str(folder / "cache")}, folder)


@pytest.fixture(scope="module")
def fitted(folder: Path, process_environment: dict[str, str]) -> Done:
    arguments = ("--own", "own", "--recipe", "short.toml", "--threads", "1", "--out", "model")
    return run(folder, process_environment, "fit", "set", *arguments)


def test_it_says_how_good_it_is_and_what_comes_next(fitted: Done) -> None:
    assert fitted.returncode == 0, fitted.stderr
    said = fitted.stdout.splitlines()
    assert said[0] == "trained on  16 images of the set and 18 own ones, 2 classes"
    assert said[1] == "accuracy    100.0 % of 2 own images that were held out (95 % interval 34.2 to 100.0)"
    assert said[-1] == "next        dpd predict model IMAGES/ --out labels.csv"


def test_the_classifier_labels_new_images_without_pytorch(
    folder: Path, fitted: Done, process_environment: dict[str, str]
) -> None:
    done = run(folder, process_environment, "predict", "model", "new", "--out", "new.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "agreement 100.0 % have the name of their folder"
    assert not done.heavy, "labelling imports no training framework"
    with (folder / "new.csv").open(newline="") as file:
        assert {(line["file"][0], line["class"]) for line in csv.DictReader(file)} == {("A", "A"), ("B", "B")}


def test_the_card_and_the_record_say_what_it_was_trained_on(folder: Path, fitted: Done) -> None:
    record, card = (
        json.loads((folder / "model" / "model.json").read_text()),
        (folder / "model" / "README.md").read_text(),
    )
    assert record["validation"] == {"images": 2, "oa": 1.0, "aa": 1.0, "low": 0.3424, "high": 1.0}
    assert record["training"]["own"]["images"] == 18
    assert record["training"]["parity"] < 1e-3
    assert "100.0 % of 2 images of the site that it was not trained on are named right" in card
    assert str(folder) not in card + json.dumps(record), "no local path"


def test_json(folder: Path, process_environment: dict[str, str]) -> None:
    done = run(
        folder, process_environment, "fit", "set", "--recipe", "short.toml", "--steps", "2", "--out", "j", "--json"
    )
    found = json.loads(done.stdout)
    assert found["images"] == {"set": 16}
    assert found["validation"] is None
    assert found["set_check"]["steps"] == 1, "a quarter of two, and at least one"
    assert found["classes"] == ["A", "B"]


def test_without_own_images_the_set_itself_is_measured(folder: Path, process_environment: dict[str, str]) -> None:
    arguments = ("fit", "set", "--recipe", "short.toml", "--threads", "1", "--out", "alone")
    done = run(folder, process_environment, *arguments)
    said = done.stdout.splitlines()
    assert re.fullmatch(
        r"accuracy    [\d.]+ % of 2 images that were held out from the set itself \(95 % interval [\d.]+ to [\d.]+\),",
        said[1],
    )
    assert said[2].endswith("of a second training with 10 steps on the others; the classifier has seen all")
    assert said[3].endswith("real images may differ: give some labelled images of this site with --own")
    card = (folder / "alone" / "README.md").read_text()
    assert "A second training with 10 steps on a part of the set names" in card
    again = run(folder, process_environment, *arguments, "--overwrite", "--json")
    assert json.loads(again.stdout)["set_check"]["images"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "nothing: no such folder"),
        (("single",), "single: holds one class only ('A')"),
        (("set", "--own", "others"), "--own others: its classes differ from those of set: missing B; additional C"),
        (("set", "--bands", "1"), "are for --own images; give some"),
        (("set", "--student", "alexnet"), "no student 'alexnet'"),
        (("set", "--require", "audit"), "--key, --trusted-key and --require are for a --teacher; give one"),
        (("set", "--unlabelled", "new"), "--unlabelled new: nobody says what they show; give --teacher BUNDLE, too"),
        (("set", "--student", "probe:swimdiff:enc"), "probe: is for dpd evaluate; give --backbone MODEL --steps 0"),
        (("set", "--out", "own"), "--out own exists; choose another --out"),
        (("set", "--out", "own", "--overwrite"), "own is not a classifier that dpd fit wrote"),
        (("set", "--out", "link", "--overwrite"), "--out link is a link; give the folder itself"),
        (("set", "--threads", "0"), "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_fitted(
    folder: Path, process_environment: dict[str, str], arguments: tuple[str, ...], words: str
) -> None:
    if not (folder / "link").is_symlink():
        (folder / "link").symlink_to("single")
    out = () if "--out" in arguments else ("--out", "never")
    done = run(folder, process_environment, "fit", *arguments, *out)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not (folder / "never").exists()


@pytest.mark.full
def test_a_backbone_is_warned_of_codes_that_no_published_network_watched(
    folder: Path, process_environment: dict[str, str]
) -> None:
    saved(folder / "eyes", resnet)
    said = []
    for number, watchers in enumerate(({}, {"watchers": []}, {"watchers": ["hf:eyes"]})):
        write_set(folder / f"made{number}", 8)
        (folder / f"made{number}" / "dataset.json").write_text(json.dumps(watchers))
        given = ("--backbone", "eyes", "--steps", "0", "--threads", "1", "--out", f"head{number}")
        done = run(folder, process_environment, "fit", f"made{number}", *given)
        assert done.returncode == 0, done.stderr
        said.append("no published network watched the codes of made1: a backbone learns little" in done.stderr)
    assert said == [False, True, False]


def test_a_backbone_of_convolutions_is_tuned_and_labels_new_images(
    folder: Path, process_environment: dict[str, str]
) -> None:
    """Trainings leave weights channels last, from which the exporter wrote operators that dpd predict refuses."""
    saved(folder / "net", resnet)
    given = ("--backbone", "net", "--steps", "2", "--threads", "1", "--out", "tuned")
    done = run(folder, process_environment, "fit", "set", *given)
    assert done.returncode == 0, done.stderr
    labelled = run(folder, process_environment, "predict", "tuned", "new", "--out", "tuned.csv")
    assert labelled.returncode == 0, labelled.stderr
    assert len((folder / "tuned.csv").read_text().splitlines()) == 13


def test_a_bundle_s_teacher_answers_for_the_set_and_for_images_without_labels(
    folder: Path, process_environment: dict[str, str], bundle: Path
) -> None:
    from dpd_runtime.bundle import load_bundle

    opened = load_bundle(bundle)
    write_set(folder / "made", 6, names=tuple(known.name for known in opened.classes))
    saved(folder / "body", resnet)
    given = ("fit", "made", "--teacher", str(bundle), "--unlabelled", "new", "--threads", "1", "--steps", "2")
    for out, more in (("taught", ("--json",)), ("tuned-by", ("--backbone", "body"))):
        done = run(folder, process_environment, *given, *more, "--out", out)
        assert done.returncode == 0, done.stderr
        assert "was not audited: nobody tested whether its teacher tells who was in its training" in done.stderr
        if "--json" in more:
            facts = json.loads(done.stdout)
            assert facts["images"] == {"set": 6 * len(opened.classes), "unlabelled": 12}
            assert facts["teacher"]["bundle_hash"] == opened.hash
        else:
            said = f"taught by   the classifier of bundle {opened.manifest.name}, {opened.hash[:12]}…"
            assert said in done.stdout.splitlines()
        assert opened.hash in (folder / out / "README.md").read_text()

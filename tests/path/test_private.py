"""`dpd private` on drawn scenes: what it refuses, kills, what its bundle says, and what it does not hang on."""

import json
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("dp_accounting")
from dpd_distill.distillation import BEGUN
from dpd_private.distillation import Opened, _entry, _handed_over
from dpd_private.ledger import cost_of, entry_of, ledger_folder, read_ledger
from dpd_private.request import STORED, PrivateRequest, read_request
from dpd_runtime import load_bundle
from dpd_runtime.errors import DataError, InputError
from dpd_train.scenes import open_scenes, read_scenes
from tests.commands import Done
from tests.commands import dpd as run_dpd
from tests.path.test_distill import dpd as run_either
from tests.tiny import drawn_scenes, tiny_base

EPSILON = "60"
FILES = [
    "MODEL_CARD.md",
    "classes.json",
    "golden.safetensors",
    "prototypes.safetensors",
    "scheduler/scheduler_config.json",
    "vae_decoder/config.json",
    "vae_decoder/model.onnx",
]

LOOSE = ("--epsilon", EPSILON, "--delta", "1e-3")
BASE = ("--base", "base")  # nano knows the classes of drawn scenes


def dpd(folder: Path, environment: dict[str, str], *arguments: str, kill: str = "never") -> Done:
    """Run `dpd private`, shortened unless it ends at the start anyway."""
    return run_either(folder, environment, *arguments, command="private", kill=kill)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private")
    tiny_base(folder)
    for name, per_class, seed in (("scenes", 12, 0), ("others", 12, 700), ("public", 4, 300)):
        drawn_scenes(folder / name, per_class=per_class, seed=seed)
    shutil.copytree(folder / "scenes", folder / "more")  # and a class that no base knows
    shutil.copytree(next((folder / "more").iterdir()), folder / "more" / "Clouds")
    shutil.copytree(folder / "base", folder / "known" / "pipeline")
    classes = {path.name.upper(): 12 for path in (folder / "scenes").iterdir()}
    (folder / "known" / "run.json").write_text(json.dumps({"data": {"classes": classes}}))
    shutil.copytree(folder / "base", folder / "tuned" / "pipeline")  # on other images, from such a base
    earlier = {"data": {"classes": {"others": 9}}, "base_pretraining": {"data": {"classes": classes}}}
    (folder / "tuned" / "run.json").write_text(json.dumps(earlier))
    return folder


def options(folder: Path) -> tuple[str, ...]:
    given = (
        "--base",
        str(folder / "base"),
        "--ipc",
        "3",
        "--threads",
        "1",
        "--public",
        "public",
    )
    return (*given, "--val-per-class", "2", *LOOSE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scenes", "--epsilon", "10", *BASE], "has 11 training images, and the noise would move its mean by"),
        (["scenes", "--epsilon", "10", *BASE], "it needs 114 images, or take a larger epsilon, or leave the class out"),
        (["scenes", "--epsilon", "0", *BASE], "--epsilon 0: give an epsilon above 0 and at most 100"),
        (
            ["scenes", "--epsilon", "10", "--delta", "0.5", *BASE],
            "--delta 0.5: give a number from 1e-09",
        ),
        (["scenes", "--epsilon", "10", "--minutes", "5"], "no such option --minutes"),
        (["scenes", "--epsilon", "10", "--codes-only"], "no such option --codes-only"),
        (["scenes", "--epsilon", "10", "--stretch", "2,98"], "a stretch that does not depend on the images"),
        (["scenes", "--epsilon", "10", "--bands", "all"], "is for red, green and blue, and --bands all carries other"),
        (["scenes", "--epsilon", "10", "--bands", "1,2,3"], "a stretch that does not depend on the images"),
        (["scenes", *LOOSE, "--public", "scenes", *BASE], "overlaps with DATA"),
        (
            ["scenes", *LOOSE, "--base", "known/pipeline"],
            "trained on images of 6 of the 6",
        ),
        (
            ["scenes", *LOOSE, "--base", "tuned/pipeline"],
            "trained on images of 6 of the 6",
        ),
        (["more", *LOOSE, "--base", "known/pipeline"], "trained on images of 6 of the 7"),
        (["scenes", "--epsilon", "10", "--split", "content"], "move several images where one is replaced"),
        (["scenes", "--epsilon", "10", "--groups", "s"], "--groups s has no effect with --split files"),
        (["scenes", "--epsilon", "10", "--most-epsilon", "9"], "--most-epsilon 9 is below --epsilon 10"),
        (["scenes", "--epsilon", "10", "--most-epsilon", "nan"], "--most-epsilon nan is below --epsilon 10"),
        (["scenes", "--public", "public"], "--epsilon is missing: give the epsilon of the guarantee for one image"),
        (["--epsilon", "10"], "DATA is missing"),
        (["--resume"], "new-run: holds no distillation; begin one with dpd private DATA --epsilon"),
        (["--resume", "--epsilon", "10"], "give only: dpd private --resume"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(
    arguments: list[str], words: str, folder: Path, process_environment: dict[str, str]
) -> None:
    done = dpd(folder, process_environment, *arguments, "--out", "new.dpd", kill="at the start")
    assert done.returncode == 2, done.stderr
    assert words in " ".join(done.stderr.split())
    assert not (folder / "new-run").exists()


def test_a_validation_part_that_data_bring_is_held_out(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2)):
        drawn_scenes(tmp_path / part, per_class=count)
    asked = PrivateRequest(data=str(tmp_path), out=str(tmp_path / "site.dpd"), epsilon=10.0)
    assert set(open_scenes(tmp_path, asked).counts("train").values()) == {4}
    with pytest.raises(DataError, match="holds val"):
        open_scenes(tmp_path, replace(asked, split="names")).counts("train")


def test_a_distillation_goes_on_with_the_command_that_began_it(
    tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """Also one that `dpd distill --dp` of 0.2.0 began, whose options had other names."""
    old = {"data": str(tmp_path / "scenes"), "out": str(tmp_path / "site.dpd"), "dp": 2.0, "dp_delta": 1e-6}
    (tmp_path / "site-run").mkdir()
    (tmp_path / "site-run" / "private.json").write_text(json.dumps(old))
    asked = read_request(tmp_path / "site-run")
    assert (asked.epsilon, asked.delta) == (2.0, 1e-6)
    asked.store()
    stored = json.loads((tmp_path / "site-run" / "private.json").read_text())
    assert (stored["dp"], stored["dp_delta"]) == (2.0, 1e-6)
    assert stored.keys().isdisjoint({"epsilon", "delta"})
    assert read_request(tmp_path / "site-run") == asked
    ways = {"distill": "--resume", "private": "scenes --epsilon 2 --base"}
    for command, words in ways.items():
        base = [str(tiny_base(tmp_path))] if command == "private" else []
        arguments = (*words.split(), *base, "--out", "site.dpd")
        done = run_either(tmp_path, process_environment, *arguments, command=command, kill="at the start")
        assert done.returncode == 2
        assert "continue it with: dpd private --resume --out" in done.stderr, done.stderr
    (tmp_path / "site-run" / "private.json").rename(tmp_path / "site-run" / "plan.json")
    done = dpd(tmp_path, process_environment, "--resume", "--out", "site.dpd", kill="at the start")
    assert done.returncode == 2
    assert "site-run: was begun by dpd distill; continue it with: dpd distill --resume --out site.dpd" in done.stderr
    assert BEGUN[STORED] == "private"


@pytest.mark.parametrize("most", [None, 15.0])
def test_two_copies_of_a_folder_are_two_releases(
    most: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have one identity, and both looked into the ledger before either had released anything."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    data = tmp_path / "scenes"
    drawn_scenes(data, per_class=4)
    scenes = read_scenes(data, part="train", resolution=16)
    copies = [
        PrivateRequest(data=str(data), out=str(tmp_path / name / "site.dpd"), epsilon=10.0, most_epsilon=most)
        for name in ("a", "b")
    ]
    copies[1] = replace(copies[1], identity=copies[0].identity)
    for copy in copies:
        copy.folder.mkdir(parents=True)
    entries, together = [_entry(copy, Opened(copy).private) for copy in copies], Barrier(2)

    def released(number: int) -> bool:
        together.wait()
        try:
            _handed_over(copies[number], entries[number], scenes)
        except InputError as error:
            return "--most-epsilon 15: with 1 earlier release of 24 images" not in str(error)
        return True

    with ThreadPoolExecutor(2) as threads:  # a lock of the kernel keeps open files apart, not processes
        assert sorted(threads.map(released, (0, 1))) == [most is None, True]
    known = read_ledger(ledger_folder())
    assert len(known) == len({entry.identity for entry in known}) == (2 if most is None else 1)
    if most is None:
        assert cost_of(entry_of("next", 1.0, scenes.hashes), known, 1e-5).earlier == 2


def ledger(folder: Path) -> list[Path]:
    return [*(folder / "state" / "dpd" / "releases").glob("*.json")]


@pytest.fixture(scope="module")
def made(folder: Path, process_environment: dict[str, str]) -> Done:
    """site.dpd: killed once before the release and once after it; the private images are away at the end."""
    process_environment = process_environment | {"XDG_STATE_HOME": str(folder / "state")}
    begun = dpd(folder, process_environment, "scenes", "--out", "site.dpd", *options(folder), kill="public watchers:3")
    assert begun.returncode == -9, begun.stderr
    assert not (folder / "site-run" / "release.safetensors").exists()
    assert not list(ledger(folder)), "nothing was released yet"
    killed = dpd(folder, process_environment, "--resume", "--out", "site.dpd", kill="decoder:1")
    assert killed.returncode == -9, killed.stderr
    released = (folder / "site-run" / "release.safetensors").read_bytes()
    (folder / "public").rename(folder / "compared")
    drawn_scenes(folder / "public", per_class=4, seed=301)
    changed = dpd(folder, process_environment, "--resume", "--out", "site.dpd")
    assert changed.returncode == 2, changed.stderr
    assert "--public has changed since the release" in changed.stderr
    shutil.rmtree(folder / "public")
    (folder / "compared").rename(folder / "public")
    (folder / "scenes").rename(folder / "away")
    try:
        done = dpd(folder, process_environment, "--resume", "--out", "site.dpd")
    finally:
        (folder / "away").rename(folder / "scenes")
    assert done.returncode == 0, done.stderr
    assert (folder / "site-run" / "release.safetensors").read_bytes() == released, "one release, whatever happens"
    return done


def test_the_bundle_says_what_is_guaranteed_and_nothing_of_the_images(made: Done, folder: Path) -> None:
    bundle = load_bundle(folder / "site.dpd")
    claim = bundle.manifest.privacy
    assert claim is not None
    assert (claim.epsilon, claim.delta, set(claim.noise_multipliers)) == (60, 1e-3, {"class_sums_and_second_moment"})
    assert sorted(bundle.files) == FILES
    assert bundle.manifest.data == {"images": 60}
    assert (bundle.manifest.training, bundle.manifest.audit) == ({}, "unaudited")
    assert [len(scene.prototypes) for scene in bundle.classes] == [3] * 6
    card = bytes(bundle.files["MODEL_CARD.md"]).decode()
    assert "codes of public images, and the decoder" in card
    for word in ("matched codes", "accuracy", "seconds", "fingerprint |", "teacher", "wall time"):
        assert word not in card.replace("no fingerprint and no accuracy", "")
    assert "| 0 | Fields | 10 | 3 |" in card
    assert "epsilon 60, delta 0.001, of one image" in made.stdout
    assert "for both together; nothing else may leave" in made.stdout
    assert "dpd generate site.dpd --require signature,dp:60:0.001 --ipc 3 --out distilled" in made.stdout
    assert not list((folder / "site-run").rglob("*.png"))


@pytest.mark.full
def test_the_ledger_knows_what_several_releases_cost_together(
    made: Done, folder: Path, process_environment: dict[str, str]
) -> None:
    """One release of 72 images so far, although it was killed twice; the next one is not like the first."""
    environment = process_environment | {"XDG_STATE_HOME": str(folder / "state")}
    (entry,) = ledger(folder)
    assert len(json.loads(entry.read_text())["images"]) == 72
    most = ("--most-epsilon", "100")
    refused = dpd(folder, environment, "scenes", "--out", "second.dpd", *options(folder), *most)
    assert refused.returncode == 2, refused.stderr
    words = "--most-epsilon 100: with 1 earlier release of 72 images of DATA this one would cost epsilon 105.66"
    assert words in " ".join(refused.stderr.split()), refused.stderr
    assert not (folder / "second-run").exists()
    told = dpd(folder, environment, "scenes", "--out", "second.dpd", *options(folder), kill="public watchers:3")
    assert "ledger        1 earlier release of 72 images of DATA: with this one epsilon 105.66" in told.stderr
    assert ledger(folder) == [entry]
    shutil.copytree(folder / "site-run", folder / "kept")
    for name in ("release.safetensors", "chosen.safetensors", "decoder.safetensors", "result.json"):
        (folder / "site-run" / name).unlink()  # as in a copy of the folder from before the release
    again = dpd(folder, environment, "--resume", "--out", "site.dpd", kill="release:1")
    assert "ledger        1 earlier release of 72 images of DATA: with this one epsilon 105.66" in again.stderr
    assert len(ledger(folder)) == 2
    shutil.rmtree(folder / "site-run")
    (folder / "kept").rename(folder / "site-run")
    blocked = environment | {"XDG_STATE_HOME": str(next((folder / "scenes").rglob("*.*")))}
    done = dpd(folder, blocked, "scenes", "--out", "third.dpd", *options(folder))
    assert done.returncode == 5, done.stderr
    assert "the ledger of releases cannot be written" in done.stderr
    assert not (folder / "third-run").exists()


@pytest.mark.parametrize("encoded", [False, True], ids=["the same file", "another encoding, turned"])
def test_a_private_image_among_the_public_ones_is_found(
    encoded: bool, folder: Path, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    for name in ("scenes", "public"):
        shutil.copytree(folder / name, tmp_path / name)
    image = next(path for path in sorted(tmp_path.glob("scenes/*/*")) if path.suffix != ".txt")
    if encoded:
        turned = Image.open(image).convert("RGB").transpose(Image.Transpose.ROTATE_90)
        turned.save(tmp_path / "public" / image.parent.name / "again.jpg", quality=95)
    else:
        shutil.copy(image, tmp_path / "public" / image.parent.name / f"again{image.suffix}")
    done = dpd(tmp_path, process_environment, "scenes", "--out", "site.dpd", *options(folder), kill="matching:1")
    assert done.returncode == 2, done.stderr
    assert "--public" in done.stderr
    assert "shows something that private images show, or nearly; nothing was released" in done.stderr
    assert not (tmp_path / "site-run" / "release.safetensors").exists()


def test_with_one_release_other_images_give_the_same_bytes(
    made: Done, folder: Path, process_environment: dict[str, str]
) -> None:
    """The private images enter through the release alone: everything else of the run and the bundle is the same."""
    place = folder / "elsewhere"
    place.mkdir()
    shutil.copytree(folder / "public", place / "public")
    shutil.copytree(folder / "others", place / "scenes")
    kill = f"released:{folder / 'site-run' / 'release.safetensors'}"
    done = dpd(place, process_environment, "scenes", "--out", "site.dpd", *options(folder), kill=kill)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / "site.dpd") as first, zipfile.ZipFile(place / "site.dpd") as second:
        assert first.namelist() == second.namelist()
        assert [name for name in first.namelist() if first.read(name) != second.read(name)] == []
    runs = [folder / "site-run", place / "site-run"]
    names = sorted(path.relative_to(runs[0]) for path in runs[0].rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(runs[1]) for path in runs[1].rglob("*") if path.is_file())
    differ = {str(name) for name in names if (runs[0] / name).read_bytes() != (runs[1] / name).read_bytes()}
    assert differ <= {"private.json", "result.json", "matching.safetensors"}, "paths, and when the kill came"
    for name in ("model.onnx", "model.json", "README.md"):
        assert (folder / "site-classifier" / name).read_bytes() == (place / "site-classifier" / name).read_bytes()


def test_the_released_classifier_labels_images(
    made: Done, folder: Path, process_environment: dict[str, str], tmp_path: Path
) -> None:
    """The noise of epsilon 60 on twelve images a class is small: it names most of the private images right."""
    model = folder / "site-classifier"
    done = cli(folder, process_environment, "predict", str(model), "scenes", "--out", str(tmp_path / "a.csv"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agreement"] > 0.6
    record = json.loads((model / "model.json").read_text())
    assert (record["training"]["privacy"]["epsilon"], record["training"]["images"]) == (60, 60)
    card = (model / "README.md").read_text()
    assert "(60, 0.001)-differential privacy" in card
    assert "dpd fit" not in card


def cli(folder: Path, environment: dict[str, str], *arguments: str) -> Done:
    return run_dpd(arguments, environment | {"XDG_CACHE_HOME": str(folder / "cache")}, folder)


def test_a_site_requires_the_guarantee(made: Done, folder: Path, process_environment: dict[str, str]) -> None:
    asked = ("generate", "site.dpd", "--ipc", "3", "--provider", "cpu")
    claimed = cli(folder, process_environment, *asked, "--require", "dp:60:1e-3", "--out", "none")
    assert claimed.returncode == 3
    assert "site.dpd: a trusted signature is required; this bundle is unsigned" in claimed.stderr
    shutil.copy(folder / "site.dpd", folder / "signed.dpd")
    for words in (("keygen", "lab"), ("sign", "signed.dpd", "--key", "lab.key")):
        assert cli(folder, process_environment, *words).returncode == 0
    trusting = ("--trusted-key", "lab.pub")
    asked = ("generate", "signed.dpd", "--ipc", "3", "--provider", "cpu", *trusting)
    good = cli(folder, process_environment, *asked, "--require", "dp:60:1e-3", "--out", "set")
    assert good.returncode == 0, good.stderr
    assert "(60, 0.001)-differential privacy" in (folder / "set" / "README.md").read_text(encoding="utf-8")
    for wanted in ("60", "1:1e-3"):
        refused = cli(folder, process_environment, *asked, "--require", f"dp:{wanted}", "--out", "none")
        assert refused.returncode == 3, refused.stderr
        assert "differential privacy is required; this bundle claims (60, 0.001)" in refused.stderr
    assert not (folder / "none").exists()
    assert "privacy     claimed: (60, 0.001)-" in cli(folder, process_environment, "info", "site.dpd").stdout
    verified = cli(folder, process_environment, "verify", "signed.dpd", "--require", "dp:60:1e-3", "--json", *trusting)
    assert json.loads(verified.stdout)["privacy"]["delta"] == 1e-3
    audited = cli(folder, process_environment, "audit", "site.dpd", "--train", "scenes", "--out", "audited.dpd")
    assert audited.returncode == 2, audited.stderr
    assert "which a verdict from its training images would end" in audited.stderr

"""Captioners as a whole: names, what is kept and where, what a second or killed start does again."""

import json
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from dpd_runtime.errors import DiskError, InputError
from dpd_train.attributes import VOCABULARY, describe_many
from dpd_train.captioners import StoredPhrases, check_captioner, describe_scenes, image_hash
from tests.unit.train.captioner_models import drawn, tiny_clip

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from dpd_train.captioners import describe_scenes
from dpd_train.scene_set import SceneSet

def kill(done, total):
    print(done, total, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

scenes = SceneSet(("A", "B"), np.load(sys.argv[3]), np.arange(80) % 2, (), ())
describe_scenes(sys.argv[1], scenes, cache=Path(sys.argv[2]), progress=kill)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("models") / "clip")


def lines(cache: Path) -> list[str]:
    (file,) = (cache / "captions").iterdir()
    return file.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["", "blip", "clip", "clip:", "vlm:", "attributes:x", "CLIP:x"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(InputError, match="there are attributes, clip:ID and vlm:ID"):
        check_captioner(name)


def test_attributes_are_what_is_measured(tmp_path: Path) -> None:
    scenes = drawn(300)
    found = describe_scenes("attributes", scenes, cache=tmp_path)
    assert found == describe_many(scenes.images)
    assert {phrase for phrases in found for phrase in phrases} <= set(VOCABULARY)


def test_second_start_describes_nothing_again(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        calls.append((done, total))

    first = describe_scenes("attributes", drawn(300), cache=tmp_path, progress=note)
    assert calls == [(256, 300), (300, 300)]
    before = lines(tmp_path)
    calls.clear()
    assert describe_scenes("attributes", drawn(300), cache=tmp_path, progress=note) == first
    assert calls == []
    assert lines(tmp_path) == before
    more = drawn(301)  # other noise altogether: nothing of it is known
    describe_scenes("attributes", more, cache=tmp_path, progress=note)
    assert len(lines(tmp_path)) == 601


def test_copies_are_described_once_and_order_is_kept(tmp_path: Path) -> None:
    scenes = drawn(6)
    order = np.array([3, 3, 0, 5, 3, 0])
    found = describe_scenes("attributes", replace(scenes, images=scenes.images[order]), cache=tmp_path)
    assert len(lines(tmp_path)) == 3
    assert found == [describe_many(scenes.images)[i] for i in order]


@pytest.mark.full
def test_killed_run_goes_on_behind_the_last_image(
    clip: Path, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    np.save(tmp_path / "images.npy", drawn(80).images)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, f"clip:{clip}", str(tmp_path / "cut"), str(tmp_path / "images.npy")],
        env=process_environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout == "32 80\n"
    before = lines(tmp_path / "cut")
    assert len(before) == 32
    (file,) = (tmp_path / "cut" / "captions").iterdir()
    with file.open("a") as handle:
        handle.write(before[0][:20])  # what a kill in the middle of a write leaves

    calls: list[tuple[int, int]] = []
    found = describe_scenes(
        f"clip:{clip}", drawn(80), cache=tmp_path / "cut", progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(32, 48), (48, 48)]
    after = lines(tmp_path / "cut")
    assert after[:32] == before
    assert after[32] == before[0][:20]
    assert len({json.loads(line)["image"] for line in before + after[33:]}) == len(before + after[33:]) == 80
    whole = describe_scenes(f"clip:{clip}", drawn(80), cache=tmp_path / "whole")
    assert found == whole
    assert lines(tmp_path / "whole") == before + after[33:]
    assert len(set(found)) > 5  # of random words


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    (tmp_path / "captions").mkdir(mode=0o755)
    describe_scenes("attributes", drawn(2), cache=tmp_path)
    assert stat.S_IMODE((tmp_path / "captions").stat().st_mode) == 0o700
    (file,) = (tmp_path / "captions").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    describe_scenes("attributes", drawn(2), cache=tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new" / "captions").stat().st_mode) == 0o700


def test_damaged_lines_are_described_again(tmp_path: Path) -> None:
    scenes = drawn(6)
    first = describe_scenes("attributes", scenes, cache=tmp_path)
    (file,) = (tmp_path / "captions").iterdir()
    good = lines(tmp_path)
    entry = json.loads(good[1])
    damaged = [
        "not json",
        json.dumps(entry["phrases"]),
        json.dumps({"image": entry["image"], "phrases": [1]}),
        "\0",
        "",
    ]
    file.write_text("\n".join([*damaged, *good[3:]]) + "\n")
    assert describe_scenes("attributes", scenes, cache=tmp_path) == first
    assert lines(tmp_path) == [*damaged, *good[3:], *good[:3]]


def test_a_model_is_known_by_its_content_not_its_place(clip: Path, tmp_path: Path) -> None:
    scenes, cache = drawn(4), tmp_path / "cache"
    calls: list[int] = []

    def describe(folder: Path) -> int:
        calls.clear()
        describe_scenes(f"clip:{folder}", scenes, cache=cache, progress=lambda done, total: calls.append(done))
        return sum(calls)

    assert describe(clip) == 4
    moved = shutil.copytree(clip, tmp_path / "moved")
    (moved / "README.md").write_text("other words")
    assert describe(moved) == 0
    weights = load_file(moved / "model.safetensors")
    save_file(
        {k: v * 2 if k == "logit_scale" else v for k, v in weights.items()},
        moved / "model.safetensors",
        {"format": "pt"},
    )
    assert describe(moved) == 4
    assert describe(clip) == 0
    assert len(list((cache / "captions").iterdir())) == 2


def test_stored_under_everything_that_decides_the_words(tmp_path: Path) -> None:
    variants = [("vlm", "m", "w"), ("clip", "m", "w"), ("vlm", "n", "w"), ("vlm", "m", "x"), ("vlm", "mw", "")]
    assert len({StoredPhrases(tmp_path, *variant).path for variant in variants}) == len(variants)
    image = drawn(1).images[0]
    assert image_hash(image) != image_hash(np.ascontiguousarray(image.reshape(64, 16, 3)))
    assert image_hash(image) != image_hash(image ^ (np.arange(image.size).reshape(image.shape) == 7))
    assert image_hash(image[:, ::-1][:, ::-1]) == image_hash(image)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that even root cannot write")
def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(DiskError, match=r"/proc/dpd/captions: captions cannot be stored .*--cache-dir"):
        describe_scenes("attributes", drawn(2), cache=Path("/proc/dpd"))


def test_a_cache_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"captions/attributes-\w+\.jsonl: cannot be read \(Not a directory\)"):
        describe_scenes("attributes", drawn(2), cache=tmp_path / "file")

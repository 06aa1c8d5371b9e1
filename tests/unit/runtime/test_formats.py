"""Every format has the same set hash and is read by the library that it is meant for."""

import json
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from dpd_runtime import Output
from dpd_runtime.dataset import set_hash
from dpd_runtime.errors import InputError
from dpd_runtime.formats import ENCODINGS, FORMATS, ROW_GROUP, Contents, Sample
from dpd_runtime.images import read_pixels
from tests.drawn import CLASSES, SIDE, drawn, files, need, pixels_of, write

LOSSLESS = ("png", "tiff")
ALL = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"]
ALL += ["Pasture", "PermanentCrop", "Residential", "River", "SeaLake"]
ROWS = [(ALL.index(name), index) for name in sorted(CLASSES) for index in range(3)]  # of a set with --ipc 3


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def check_pixels(found: Any, label: int, index: int, encoding: str) -> None:
    found, drawn_ones = np.asarray(found), pixels_of(label, index)
    assert found.shape == (SIDE, SIDE, 3)
    if encoding in LOSSLESS:
        np.testing.assert_array_equal(found, drawn_ones)
    else:
        error = np.square(found.astype(float) - drawn_ones).mean()
        assert 0 < error < 255**2 / 10**3.5, "35 dB for smooth waves"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("image_format", [None, *ENCODINGS])
def test_the_set_hash_and_the_order_are_those_of_the_pixels(
    name: str, image_format: str | None, tmp_path: Path
) -> None:
    need(name)
    if name == "npz" and image_format:
        return
    result = write(tmp_path, Output(name, image_format))
    assert result.set_hash == set_hash((ALL[label], index, pixels_of(label, index)) for label, index in ROWS)
    assert (result.images, result.classes, result.computed) == (6, 2, 6)
    assert [(r["label"], r["index"]) for r in records(tmp_path)] == ROWS
    assert [(r["class"], r["prompt"]) for r in records(tmp_path)][4] == ("SeaLake", "SeaLake, 1")
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    assert (dataset["set_hash"], dataset["state"], dataset["format"]) == (result.set_hash, "complete", name)
    assert dataset.get("image_format") == (None if name == "npz" else image_format or "png")
    assert dataset.get("quality") == (95 if image_format in ("jpeg", "webp") else None)
    hidden = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert hidden == []
    assert not (tmp_path / "state.jsonl").exists()
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == (set(CLASSES) if name == "imagefolder" else set())


@pytest.mark.parametrize("image_format", ENCODINGS)
def test_image_folders_hold_files_of_the_format_asked_for(image_format: str, tmp_path: Path) -> None:
    write(tmp_path, Output(image_format=image_format))
    for record, (label, index) in zip(records(tmp_path), ROWS, strict=True):
        with PillowImage.open(tmp_path / record["file_name"]) as image:
            assert image.format == image_format.upper()
            check_pixels(image, label, index, image_format)
    images = [path for path in tmp_path.rglob("*.*") if path.parent != tmp_path]
    assert {p.relative_to(tmp_path).as_posix() for p in images} == {r["file_name"] for r in records(tmp_path)}


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_images_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    need(name)
    for folder in ("a", "b"):
        write(tmp_path / folder, Output(name))
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("image_format", ENCODINGS)
def test_webdataset_reads_the_shards(image_format: str, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the reader webdataset is not installed")
    write(tmp_path, Output("webdataset", image_format, soft_labels=True))
    shard = str(tmp_path / "shard-000000.tar")
    suffix = ENCODINGS[image_format].suffix.removeprefix(".")
    samples = list(webdataset.WebDataset(shard, shardshuffle=False).decode("rgb8"))
    assert [(s["cls"], s["json"]["index"]) for s in samples] == ROWS
    assert [s["json"] for s in samples] == [
        {key: value for key, value in r.items() if key != "file_sha256"} for r in records(tmp_path)
    ]
    for sample, (label, index) in zip(samples, ROWS, strict=True):
        check_pixels(sample[suffix], label, index, image_format)
        assert sample["soft_labels.npy"].shape == (10,)
        assert sample["soft_labels.npy"].sum() == pytest.approx(1, abs=1e-5)


def test_datasets_reads_the_shards_too(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the reader datasets is not installed")
    write(tmp_path / "set", Output("webdataset"))
    shards = [str(path) for path in (tmp_path / "set").glob("*.tar")]
    table = datasets.load_dataset("webdataset", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["cls"] for row in table] == [label for label, _ in ROWS]
    check_pixels(table[3]["png"], *ROWS[3], "png")


def test_the_members_of_a_shard_belong_to_nobody(tmp_path: Path) -> None:
    write(tmp_path, Output("webdataset"))
    with tarfile.open(tmp_path / "shard-000000.tar") as shard:
        members = shard.getmembers()
    assert [m.name for m in members[:4]] == [
        "00001_00000.png",
        "00001_00000.cls",
        "00001_00000.json",
        "00001_00001.png",
    ]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}


@pytest.mark.parametrize("image_format", ENCODINGS)
def test_datasets_reads_the_parquet_file(image_format: str, tmp_path: Path) -> None:
    need("parquet")
    datasets = pytest.importorskip("datasets", reason="the reader datasets is not installed")
    write(tmp_path / "set", Output("parquet", image_format, soft_labels=True))
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "set" / "set.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert table.features["image"] == datasets.Image()
    assert table.features["label"].names == ALL
    assert [(row["label"], row["index"]) for row in table] == ROWS
    keys = ["prototype", "prompt", "candidate", "margin", "seed"]
    assert [[row[key] for key in keys] for row in table] == [
        [r[key] for key in keys] for r in records(tmp_path / "set")
    ]
    for row, (label, index) in zip(table, ROWS, strict=True):
        check_pixels(row["image"], label, index, image_format)
        assert len(row["soft_labels"]) == 10
        assert sum(row["soft_labels"]) == pytest.approx(1, abs=1e-5)


def test_datasets_reads_the_image_folder_with_its_metadata(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the reader datasets is not installed")
    write(tmp_path / "set", Output())
    table = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [(row["label"], row["index"]) for row in table] == ROWS
    for row, (label, index) in zip(table, ROWS, strict=True):
        check_pixels(row["image"], label, index, "png")


def test_numpy_reads_the_arrays_without_pickle(tmp_path: Path) -> None:
    write(tmp_path, Output("npz", soft_labels=True))
    with np.load(tmp_path / "set.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    assert sorted(found) == ["class_names", "images", "index", "labels", "soft_labels"]
    assert found["class_names"].tolist() == ALL
    assert list(zip(found["labels"].tolist(), found["index"].tolist(), strict=True)) == ROWS
    np.testing.assert_array_equal(found["images"], np.stack([pixels_of(*row) for row in ROWS]))
    assert found["soft_labels"].shape == (6, 10)
    assert found["soft_labels"].dtype == np.float32


def samples(count: int) -> Iterator[Sample]:
    noise = np.random.default_rng(0)
    for i in range(count):
        record = {"label": 0, "index": i, "prototype": -1, "prompt": "", "candidate": 0, "margin": 0.0, "seed": 0}
        record["file_name"] = f"00000_{i:05d}.png"
        yield Sample(record, noise.integers(0, 256, (32, 32, 3), dtype=np.uint8), None)


@pytest.mark.parametrize("name", ["webdataset", "parquet", "npz"])
def test_packing_holds_few_images_at_a_time(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    need(name)
    monkeypatch.setattr("dpd_runtime.formats.SHARD", ROW_GROUP)  # tarfile keeps one shard's names
    held = []

    def watched(count: int) -> Iterator[Sample]:
        for number, sample in enumerate(samples(count)):
            if number % 20 == 0:
                held.append(tracemalloc.get_traced_memory()[0] + arrow_bytes())
            yield sample

    def arrow_bytes() -> int:
        if name != "parquet":
            return 0
        import pyarrow

        return int(pyarrow.total_allocated_bytes())

    peaks = []
    for count in (2 * ROW_GROUP, 2 * ROW_GROUP, 6 * ROW_GROUP):  # the first one also pays for imports
        held.clear()
        tracemalloc.start()
        contents = Contents(count, ("a",), (32, 32), ENCODINGS["png"], False)
        FORMATS[name].pack(watched(count), tmp_path, contents)
        tracemalloc.stop()
        peaks.append(max(held))
    one_image = 32 * 32 * 3
    assert peaks[2] < peaks[1] + 40 * one_image, "400 images more in memory would be ten times as much"


def test_row_groups_of_large_images_are_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred images of the largest size would take gigabytes."""
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("dpd_runtime.formats.MOST_BYTES", 7 * 32 * 32 * 3 + 1)
    contents = Contents(20, ("a",), (32, 32), ENCODINGS["png"], False)
    FORMATS["parquet"].pack(samples(20), tmp_path, contents)
    found = parquet.ParquetFile(tmp_path / "set.parquet").metadata
    assert [found.row_group(number).num_rows for number in range(found.num_row_groups)] == [7, 7, 6]


def test_shards_are_filled_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpd_runtime.formats.SHARD", 4)
    contents = Contents(10, ("a",), (32, 32), ENCODINGS["png"], False)
    names = FORMATS["webdataset"].pack(samples(10), tmp_path, contents)
    assert names == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    found = []
    for name in names:
        with tarfile.open(tmp_path / name) as shard:
            images = [member for member in shard.getmembers() if member.name.endswith(".png")]
            found.append([member.name for member in images])
            for member in images:
                content = shard.extractfile(member)
                assert content is not None
                assert PillowImage.open(BytesIO(content.read())).size == (32, 32)
    assert [len(part) for part in found] == [4, 4, 2]
    assert [name for part in found for name in part] == [f"00000_{i:05d}.png" for i in range(10)]
    assert FORMATS["webdataset"].pack(samples(8), tmp_path, contents) == names[:2], "no empty shard at the end"


@pytest.mark.parametrize("image_format", ENCODINGS)
def test_a_damaged_image_never_stops_a_resume(image_format: str, tmp_path: Path) -> None:
    content = ENCODINGS[image_format].encode(pixels_of(1, 0))
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content[: rng.integers(0, len(content) + 1)])
        for place in rng.integers(0, max(1, len(damaged)), 2):
            if damaged:
                damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / "a").write_bytes(damaged)
        found = read_pixels(tmp_path / "a")
        assert found is None or (found.dtype == np.uint8 and found.shape[-1] == 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("zip",), "format 'zip' is unknown: use one of imagefolder, webdataset, parquet, npz"),
        (("imagefolder", "gif"), "image-format 'gif' is unknown: use one of png, jpeg, webp, tiff"),
        (("npz", "png"), "--image-format png has no effect with --format npz"),
    ],
)
def test_outputs_which_make_no_sense(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Output(*arguments)


def test_the_default_is_what_it_was_before_there_was_a_choice(tmp_path: Path) -> None:
    """An ImageFolder of PNG has the header of older sets, which can still be extended."""
    write(tmp_path, Output())
    made_with = json.loads((tmp_path / "dataset.json").read_text())["made_with"]
    assert sorted(made_with) == ["bundle", "classes", "machine", "provider", "sampler", "seed"]
    assert records(tmp_path)[0]["file_name"] == "Forest/Forest_00000.png"
    grown = drawn(12)
    from dpd_runtime import write_set

    assert write_set(grown, tmp_path, output=Output()).images == 24
    assert grown.blocks_computed == 4

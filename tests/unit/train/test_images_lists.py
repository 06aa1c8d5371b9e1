"""CSV and Parquet lists: against the folder tree of the same files, and rows that must be refused."""

import csv
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpd_runtime.errors import DataError
from dpd_train.reading import HeldOut
from dpd_train.scene_set import fingerprint
from dpd_train.scenes import open_scenes, read_scenes
from tests.painted import greys, paint, reasons, tree

Write = Callable[[Path, Sequence[str], Sequence[Sequence[object]]], Path]


def write_csv(folder: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "list.csv"


def write_parquet(folder: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    if find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    table = pa.Table.from_arrays([pa.array(column) for column in columns], names=list(header))
    pq.write_table(table, folder / "list.parquet")
    return folder / "list.parquet"


both = pytest.mark.parametrize("write", [write_csv, write_parquet])


def rows_of(root: Path, *more: object) -> list[list[object]]:
    return [[str(path.relative_to(root)), path.parent.name, *more] for path in root.rglob("*.png")]


@both
def test_paths_outside_its_folder_are_read_where_that_is_allowed(tmp_path: Path, write: Write) -> None:
    root = tree(tmp_path / "scenes", count=12)
    (tmp_path / "elsewhere").mkdir()
    absolute = [[str(path.absolute()), path.parent.name] for path in root.rglob("*.png")]
    upwards = [[f"../{root.name}/{path}", label] for path, label in rows_of(root)]
    walked = read_scenes(root, part="all")
    for rows in (absolute, upwards):
        place = write(tmp_path / "elsewhere", ["path", "label"], rows)
        with pytest.raises(DataError, match="leaves the list's folder; pass --allow-outside"):
            read_scenes(place, part="all")
        opened = open_scenes(place, HeldOut(allow_outside=True))
        listed = opened.part("all")
        assert listed.hashes == walked.hashes
        assert listed.outside == (), "they are meant"
        assert opened.side == open_scenes(root).side


@both
@pytest.mark.parametrize("part", ["train", "val", "all"])
def test_a_list_of_a_tree_reads_as_the_tree(tmp_path: Path, write: Write, part: str) -> None:
    root = tree(tmp_path, count=12)
    rows = rows_of(root)
    np.random.default_rng(3).shuffle(rows)  # order in the list means nothing
    three = HeldOut(val_per_class=3, split="names")
    listed = read_scenes(write(root, ["path", "label"], rows), part=part, held_out=three)  # type: ignore[arg-type]
    walked = read_scenes(root, part=part, held_out=three)  # type: ignore[arg-type]
    np.testing.assert_array_equal(listed.images, walked.images)
    assert (listed.classes, listed.hashes, listed.paths) == (walked.classes, walked.hashes, walked.paths)
    assert listed.labels.tolist() == walked.labels.tolist()
    assert fingerprint(listed) == fingerprint(walked)


@both
def test_a_split_column_makes_parts(tmp_path: Path, write: Write) -> None:
    rows = [
        [f"pool/{label}_{part}_{index}.png", label, part]
        for label in ("Alpha", "Beta")
        for part in ("train", "val", "test")
        for index in range(2)
    ]
    for row in rows:
        label, part, index = Path(str(row[0])).stem.split("_")
        shade = 100 * (label == "Beta") + 10 * ["train", "val", "test"].index(part) + int(index)
        paint(tmp_path / str(row[0]), shade)
    path = write(tmp_path, ["path", "label", "split"], rows)
    assert open_scenes(path).parts == ("train", "val", "test")
    assert greys(read_scenes(path, part="train")) == [0, 1, 100, 101]
    assert greys(read_scenes(path, part="val")) == [10, 11, 110, 111]
    assert greys(read_scenes(path, part="test")) == [20, 21, 120, 121]
    assert len(read_scenes(path, part="all").labels) == 12
    with pytest.raises(DataError, match=r"list\.\w+: holds split val, so --val-per-class, --split and --groups"):
        read_scenes(path, part="train", held_out=HeldOut(val_per_class=1, split="names"))


@both
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, write: Write) -> None:
    tree(tmp_path, classes=("Alpha", "Beta", "Gamma"))
    rows = [[*row, "test" if row[1] == "Gamma" else "train"] for row in rows_of(tmp_path)]
    path = write(tmp_path, ["path", "label", "split"], rows)
    with pytest.raises(DataError, match=r"split test: holds one class only \('Gamma'\)"):
        read_scenes(path, part="test")
    rows += [["Alpha/Alpha_9.png", "Alpha", "test"]]
    path = write(tmp_path, ["path", "label", "split"], rows)
    with pytest.raises(
        DataError, match=r"split test: its classes .* lacks Beta; has in addition Gamma; make the labels"
    ):
        read_scenes(path, part="test")
    with pytest.raises(DataError, match=r"has no split val with labels|usable"):
        read_scenes(path, part="val", held_out=HeldOut(val_per_class=0, split="names"))
    only_test = [[*row[:2], "test"] for row in rows[:-1]]
    with pytest.raises(DataError, match=r"has split test but no split train with labels; add it"):
        read_scenes(write(tmp_path, ["path", "label", "split"], only_test), part="train")


def test_whole_numbers_are_labels_and_other_columns_are_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, classes=("a", "b"))
    rows = [[name, 10 if label == "a" else 2, 0.5] for name, label in rows_of(tmp_path)]
    for write in (write_csv, write_parquet):
        scenes = read_scenes(write(tmp_path, ["path", "label", "cloud"], rows), part="all")
        assert scenes.classes == ("10", "2")  # sorted as strings
        assert greys(scenes) == [0, 1, 2, 3, 100, 101, 102, 103]


def test_spreadsheets_habits_are_understood(tmp_path: Path) -> None:
    tree(tmp_path)
    lines = ["\ufeffpath, label", *(f'"{name}" , {label} ' for name, label in rows_of(tmp_path)), "", ""]
    text = "\r\n".join(lines).replace('" ,', '",')
    (tmp_path / "list.CSV").write_bytes(text.encode())
    assert read_scenes(tmp_path / "list.CSV", part="all").classes == ("Alpha", "Beta")


def test_listed_files_that_cannot_be_used_are_rejected_with_the_reason(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "Alpha" / "empty.png").write_bytes(b"")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    bad = ["Alpha", "Alpha/empty.png", "lost.png", "Alpha/nowhere.png", "Alpha\\Alpha_0.png", "x" * 300, "a\0b"]
    rows = [[f"{name}/{name}_{index}.png", name] for name in ("Alpha", "Beta") for index in range(4)]
    scenes = read_scenes(write_csv(tmp_path, ["path", "label"], [*rows, *([name, "Beta"] for name in bad)]), part="all")
    assert len(scenes.labels) == 8
    null = "stat: embedded null character in path" if sys.version_info >= (3, 13) else "embedded null byte"
    assert reasons(scenes) == {
        "Alpha": "not a regular file",
        "Alpha/empty.png": "empty file",
        "lost.png": "broken link",
        "Alpha/nowhere.png": "no such file",
        "Alpha\\Alpha_0.png": "no such file",
        "x" * 300: "damaged or unsupported: File name too long",
        "a\\x00b": f"damaged or unsupported: {null}",
    }


@both
@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (("path", "label"), ("/etc/passwd.png", "Alpha"), r"row \d+: path '/etc/passwd.png' leaves the list's folder"),
        (
            ("path", "label"),
            ("../other/a.png", "Alpha"),
            r"leaves the list's folder; pass --allow-outside if the list is yours",
        ),
        (("path", "label"), ("Alpha/../../a.png", "Alpha"), r"leaves the list's folder"),
        (
            ("path", "label"),
            ("./Alpha//Alpha_0.png", "Alpha"),
            r"row \d+: Alpha/Alpha_0\.png is already in row \d+",
        ),
        (("path", "label"), ("", "Alpha"), r"row \d+: has no path"),
        (("path", "label"), ("Alpha/new.png", " "), r"row \d+: label ' ' is not a class name"),
        (("path", "label"), ("Alpha/new.png", "nan"), r"row \d+: label 'nan' is what an empty cell becomes; fill in"),
        (("path", "label"), ("Alpha/new.png", " <NA>"), r"row \d+: label '<NA>' is what an empty cell becomes"),
        (("path", "label"), ("Alpha/new.png", "['Alpha', 'Road']"), r"label .* is a list of labels; give one"),
        (("path", "label"), ("Alpha/new.png", "a\x1b[31m"), r"label 'a\\x1b\[31m' is not a class name"),
        (("path", "label", "split"), ("Alpha/new.png", "Alpha", "hold"), r"split 'hold' is none of train, val, test"),
        (("path", "label", "label"), None, r"name the columns path, label and, .* once each"),
        (("file", "class"), None, r"name the columns path, label .* found file, class"),
    ],
)
def test_rows_that_mean_harm_or_nothing_are_refused(
    tmp_path: Path, write: Write, header: tuple[str, ...], row: tuple[str, ...] | None, message: str
) -> None:
    rows: list[Sequence[object]] = [[*line, "train"][: len(header)] for line in rows_of(tree(tmp_path))]
    path = write(tmp_path, header, [*rows, row] if row else rows)
    with pytest.raises(DataError, match=message) as caught:
        read_scenes(path, part="all")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"found nothing"),
        (b"path|label\nAlpha/Alpha_0.png|Alpha\n", r"with commas, semicolons or tabs between; found path\|label"),
        (b"path,label\n", r"lists no images"),
        (b"path,label\nAlpha/Alpha_0.png\n", r"row 2: has 1 fields, the first line 2"),
        (b"path,label\nAlpha/a,b.png,Alpha\n", r"row 2: has 3 fields, .* double quotes"),
        (b'path,label\n"Alpha/Alpha_0.png,Alpha\n', r"is no CSV file in UTF-8"),
        (b"path,label\nAlpha/\xe9.png,Alpha\n", r"is no CSV file in UTF-8"),
        (b"path,label\n" + b"x" * 200_000 + b",Alpha\n", r"is no CSV file in UTF-8 \(field larger"),
        (b"PAR1\0\0", r"found PAR1"),
    ],
)
def test_files_that_are_no_list_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_scenes(tmp_path / "list.csv", part="all")
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_damaged_parquet_never_crashes(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "list.parquet"
    if not path.exists():
        write_parquet(tree(tmp_path), ["path", "label"], rows_of(tmp_path))
        path.rename(tmp_path / "whole")
    content, rng = bytearray((tmp_path / "whole").read_bytes()), np.random.default_rng(seed)
    for place in rng.integers(0, len(content), rng.integers(1, 6)):
        content[place] = rng.integers(256)
    path.write_bytes(content[: rng.integers(len(content) // 2, len(content) + 1)])
    with suppress(DataError):
        scenes = read_scenes(path, part="all")
        assert len(scenes.labels) + len(scenes.rejected) == 8


def test_natural_side_of_a_list(tmp_path: Path) -> None:
    assert open_scenes(write_csv(tree(tmp_path), ["path", "label"], rows_of(tmp_path))).side == 8


@pytest.mark.parametrize("separator", [";", "\t"])
def test_lists_with_another_separator_are_read(separator: str, tmp_path: Path) -> None:
    path = write_csv(tree(tmp_path), ["path", "label"], rows_of(tmp_path))
    expected = read_scenes(path, part="all")
    other = tmp_path / "other.csv"
    other.write_text("\ufeff" + path.read_text().replace(",", separator), encoding="utf-8")
    found = read_scenes(other, part="all")
    assert found.paths == expected.paths
    assert found.classes == expected.classes
    np.testing.assert_array_equal(found.images, expected.images)


@both
def test_blanks_and_composed_letters_around_paths_and_labels(tmp_path: Path, write: Write) -> None:
    """The file that is written there is meant; else the one without blanks, or with letters composed in another way."""
    decomposed = "Fore\u0302t"
    for number, name in enumerate([f"{decomposed}/a.png", f"{decomposed}/b.png", " Mer.png", "Mer.png", "two.png"]):
        paint(tmp_path / name, 10 * number)
    rows = [["For\u00eat/a.png", "For\u00eat"], [f" {decomposed}/b.png", decomposed]]
    rows += [[" Mer.png", " Mer"], ["Mer.png", "Mer"], ["two.png  ", "Mer "]]
    scenes = read_scenes(write(tmp_path, ["path", "label"], rows), part="all")
    assert scenes.classes == ("For\u00eat", "Mer")
    assert sorted(greys(scenes)[:2]) == [0, 10]
    assert sorted(greys(scenes)[2:]) == [20, 30, 40]
    with pytest.raises(DataError, match=r"two\.png is already in row"):
        read_scenes(write(tmp_path, ["path", "label"], [*rows, ["\ttwo.png", "Mer"]]), part="all")


@both
def test_parts_of_a_list_have_their_usual_names(tmp_path: Path, write: Write) -> None:
    tree(tmp_path)
    parts = ("Training", "training", "dev", "Testing")
    rows = [[f"{name}/{name}_{index}.png", name, parts[index]] for name in ("Alpha", "Beta") for index in range(4)]
    path = write(tmp_path, ["path", "label", "split"], rows)
    found = {part: greys(read_scenes(path, part=part)) for part in ("train", "val", "test")}  # type: ignore[arg-type]
    assert found == {"train": [0, 1, 100, 101], "val": [2, 102], "test": [3, 103]}


@both
@pytest.mark.parametrize("names", [("1", "01"), ("2", "2.0"), ("0", "00")])
def test_one_number_in_two_ways_is_refused(tmp_path: Path, write: Write, names: tuple[str, str]) -> None:
    rows = [[path, names[label == "Alpha"]] for path, label in rows_of(tree(tmp_path))]
    with pytest.raises(DataError, match=r"labels '[\d.]+' and '[\d.]+' are one number; write it in one way"):
        read_scenes(write(tmp_path, ["path", "label"], rows), part="all")


@both
@pytest.mark.parametrize("empty", ["", " ", "nan"])
def test_an_empty_group_is_no_group(tmp_path: Path, write: Write, empty: str) -> None:
    rows = [[*row, "a" if number % 2 else "b"] for number, row in enumerate(rows_of(tree(tmp_path, count=6)))]
    path = write(tmp_path, ["path", "label", "tile"], rows)
    assert len(read_scenes(path, part="all", held_out=HeldOut(groups="tile")).labels) == 12
    rows[3][2] = empty
    with pytest.raises(DataError, match=r"row \d+: has no tile, by which --groups keeps images together; fill it in"):
        read_scenes(write(tmp_path, ["path", "label", "tile"], rows), part="all", held_out=HeldOut(groups="tile"))


def test_rows_without_content_are_no_rows(tmp_path: Path) -> None:
    path = write_csv(tree(tmp_path), ["path", "label"], [*rows_of(tmp_path), ["", ""], [" ", ""]])
    assert len(read_scenes(path, part="all").labels) == 8

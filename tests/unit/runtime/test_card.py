"""README.md of a set is YAML and Markdown whatever the bundle is called; classes.txt has the order of the labels."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpd_cli.main import app
from dpd_runtime import Output
from dpd_runtime.bundle import Bundle
from dpd_runtime.classes import check_class_name
from dpd_runtime.errors import BundleError
from dpd_runtime.formats import FORMATS
from dpd_runtime.generation import Generation, resolve_sampler, sampler_settings
from dpd_runtime.sampler import BlockGuidance, Sampler
from dpd_runtime.set_card import dataset_card
from tests.drawn import Drawn, need, opened, write

HOSTILE = '`` --- "x": &a [y](https://x.example) <script>x</script> ![z](/z) | \\ *b* www.x.example # $(reboot)'


def front_matter(card: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    start, content, _ = card.split("---\n", 2)
    assert start == ""
    loaded = yaml.safe_load(content)
    assert isinstance(loaded, dict)
    return loaded


def names_of(card: str) -> list[str]:
    for feature in front_matter(card)["dataset_info"]["features"]:
        if feature["name"] in ("label", "cls"):
            names = feature["dtype"]["class_label"]["names"]
            assert list(names) == [str(number) for number in range(len(names))]
            return list(names.values())
    raise AssertionError("no label in the front matter")


def drawn_from(bundle: Bundle, classes: tuple[str, ...] | None = None) -> Drawn:
    pytest.importorskip("onnxruntime")
    return Drawn(bundle, ipc=3, seed=7, classes=classes, provider="cpu", threads=1)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [2, 10])
def test_one_order_in_card_metadata_and_class_list(name: str, count: int, tmp_path: Path) -> None:
    need(name)
    classes = tuple(scene.name for scene in opened().classes)[-count:]
    write(tmp_path, Output(name), classes=classes)
    listed = (tmp_path / "classes.txt").read_text(encoding="utf-8").split("\n")[:-1]
    records = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert {listed[record["label"]] for record in records} == set(classes)
    assert all(listed[record["label"]] == record["class"] for record in records)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    if name != "npz":
        assert names_of(card) == listed
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    for fact in (dataset["set_hash"], dataset["bundle_hash"], "Apache-2.0", "EuroSAT (MIT)", "Seed: `7`"):
        assert fact in card
    counts = {row[1]: int(row[2]) for row in re.findall(r"^\| (\d+) \| `(\w+)` \| (\d+) \|$", card, re.MULTILINE)}
    assert counts == dataset["counts"]


@pytest.mark.parametrize("name", ["imagefolder", "webdataset", "parquet"])
def test_the_columns_of_the_card_are_those_of_the_metadata(name: str, tmp_path: Path) -> None:
    need(name)
    write(tmp_path, Output(name, "jpeg"))
    features = {f["name"]: f for f in front_matter((tmp_path / "README.md").read_text())["dataset_info"]["features"]}
    record = json.loads((tmp_path / "metadata.jsonl").read_text().splitlines()[0])
    if name == "imagefolder":
        assert set(features) == set(record) - {"file_name"} | {"image"}
    elif name == "webdataset":
        assert {part["name"] for part in features["json"]["struct"]} == set(record)
        assert set(features) == {"jpg", "cls", "json", "__key__", "__url__"}
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        assert list(features) == parquet.read_schema(tmp_path / "set.parquet").names


def test_texts_of_a_bundle_stay_texts() -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    names = ("! --- a", "[x](y)", "`b`", "&amp; {c} - !!int 'd' #", "🛰 café", "null", "1e3")
    for name in names:
        check_class_name(name)
    bundle = opened()
    scenes = tuple(replace(scene, name=name) for scene, name in zip(bundle.classes, names, strict=False))
    manifest = replace(bundle.manifest, name=HOSTILE, licences={HOSTILE: HOSTILE})
    card = dataset_card(drawn_from(replace(bundle, classes=scenes, manifest=manifest, path=Path("x"))), Output(), "0")
    assert names_of(card) == list(names)
    (command,) = re.findall(r"^dpd generate .*$", card, re.MULTILINE)
    assert shlex.split(command)[:3] == ["dpd", "generate", f"./{HOSTILE}.dpd"]
    page = markdown.render(card.split("---\n", 2)[2])
    assert not re.findall(r"<(?!/?(?:h1|h2|p|ul|li|code|pre|table|thead|tbody|tr|th|td)\b)", page), page
    rows = re.findall(r"<td>(\d)</td>\n<td><code>(.*?)</code></td>", page)
    assert [(int(n), text.replace("&quot;", '"').replace("&amp;", "&").replace("&#x27;", "'")) for n, text in rows] == [
        (number, name) for number, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("licences", "ipc", "licence", "size"),
    [
        ({"base": "Apache-2.0", "data": "apache-2.0"}, 3, "apache-2.0", "n<1K"),
        ({"base": "Apache-2.0", "data": "EuroSAT (MIT)"}, 99, "other", "n<1K"),
        ({"base": "ours", "data": "ours"}, 100, "other", "1K<n<10K"),
        ({"base": "MIT"}, 999, "other", "1K<n<10K"),
        ({}, 100_000, "other", "1M<n<10M"),
    ],
)
def test_the_hub_reads_licence_size_and_tags(licences: dict[str, str], ipc: int, licence: str, size: str) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    pytest.importorskip("onnxruntime")
    bundle = opened()
    manifest = replace(bundle.manifest, licences=licences)
    made = Generation(replace(bundle, manifest=manifest), ipc=ipc, provider="cpu")
    read = hub.DatasetCard(dataset_card(made, Output(), "0")).data
    assert (read.license, read.size_categories, read.task_categories) == (licence, [size], ["image-classification"])
    assert "dataset-distillation" in read.tags


def test_a_card_is_bounded() -> None:
    bundle = opened()
    scenes = tuple(replace(bundle.classes[0], name=f"{n:0200d}", label=n) for n in range(10_000))
    manifest = replace(bundle.manifest, licences={f"part {n}": "x" * 2_000 for n in range(100)})
    card = dataset_card(drawn_from(replace(bundle, classes=scenes, manifest=manifest)), Output(), "0")
    assert len(card) < 400_000
    assert front_matter(card)["dataset_info"]["features"][1] == {"name": "label", "dtype": "int64"}
    assert "And 9000 more, listed in classes.txt" in card


@pytest.mark.parametrize("name", ["README.md", "readme.MD", "classes.txt"])
def test_no_class_takes_the_name_of_a_file_beside_it(name: str) -> None:
    with pytest.raises(BundleError, match="cannot be a folder name"):
        check_class_name(name)


@pytest.mark.parametrize(
    "options",
    [
        ["--ipc", "1"],
        ["--ipc", "1", "--steps", "2", "--candidates", "1", "--seed", "3", "--format", "npz"],
        ["--ipc", "2", "--solver", "dpm++2m", "--steps", "3", "--guidance-scale", "1.0", "--image-format", "webp"],
    ],
)
def test_the_command_in_the_card_makes_the_set(options: list[str], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "set"
    app(["generate", *options, "--classes", "River,Forest", "--out", str(out)], standalone_mode=False)
    (command,) = re.findall(r"^dpd generate .*$", (out / "README.md").read_text(), re.MULTILINE)
    again = tmp_path / "again"
    app([*shlex.split(command)[1:], "--out", str(again)], standalone_mode=False)
    assert (again / "dataset.json").read_text() == (out / "dataset.json").read_text()
    assert (again / "README.md").read_text() == (out / "README.md").read_text()


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_the_description_in_croissant_finds_each_image_and_its_class(image_format: str, tmp_path: Path) -> None:
    write(tmp_path, Output("imagefolder", image_format))
    described = json.loads((tmp_path / "croissant.json").read_text())
    (files,) = described["distribution"]
    classes, images = described["recordSet"]
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob(files["includes"]))
    records = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert found == sorted(record["file_name"] for record in records)
    regex = re.compile(images["field"][1]["source"]["transform"]["regex"])
    for record in records:
        (name,) = regex.search(record["file_name"]).groups()  # type: ignore[union-attr]
        assert name == record["class"]
        assert regex.search(name).groups() == (name,)  # type: ignore[union-attr]
        assert {"classes/name": name, "classes/label": record["label"]} in classes["data"]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "imagefolder"])
def test_packed_sets_are_described_by_their_format_alone(name: str, tmp_path: Path) -> None:
    need(name)
    write(tmp_path, Output(name))
    assert not (tmp_path / "croissant.json").exists()


@pytest.mark.parametrize(
    "asked", [{}, {"steps": 7}, {"candidates": 3}, {"candidates": 1, "guidance_scale": 2.0}, {"solver": "ddim"}]
)
def test_the_command_of_a_set_asks_for_the_sampler_that_made_it(asked: dict[str, Any]) -> None:
    """From a bundle that decodes its prototypes, and from one that samples."""
    decoding = BlockGuidance(prototype_scale=1.0, prototype_until=1.0)
    later = BlockGuidance(from_block=5, guidance_scale=1.25)
    for own in (Sampler(guidance=(decoding, later)), Sampler(guidance=(replace(later, from_block=0),))):
        used = resolve_sampler(own, **asked)
        found = sampler_settings(own, used)
        assert resolve_sampler(own, **found) == used
        assert bool(found) == (used != own)

"""Which published networks are on a machine, and which of them watch unasked."""

import json
from pathlib import Path
from typing import Any

import pytest

from dpd_runtime.errors import InputError
from dpd_train.config import TrainConfig
from dpd_train.model_files import find_model, licence_of, networks_folder
from dpd_train.networks_here import (
    LARGEST,
    Judge,
    family,
    forbids_derivatives,
    judges,
    licence_remarks,
    networks_here,
    remarks,
    settled,
    suited,
)
from dpd_train.run import check_inputs
from tests.tiny import CONFIG, drawn_scenes

DEEP = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "num_channels": 13}


def network(folder: Path, architecture: str = "ResNetForImageClassification", size: int = 100, card: str = "") -> Path:
    """The files by which a network is found; no weights are read."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet", "architectures": [architecture]}))
    (folder / "preprocessor_config.json").touch()
    (folder / "model.safetensors").touch()
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(size)
    if card:
        (folder / "README.md").write_text(card)
    return folder


def card(licence: str) -> str:
    return f"---\ntags: [a]\nlicense: {licence}\n---\n# A network\nlicense: other\n"


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "networks"
    folder.mkdir()
    monkeypatch.setenv("DPD_NETWORKS", str(folder))
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def cached(hub: Path, source: str, **options: str) -> Path:
    """A repository as the hub's cache holds it."""
    place = hub / f"models--{source.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    return network(place / "snapshots" / ("0" * 40), **options)


def names_of(found: list[Judge]) -> list[str]:
    return [judge.name for judge in found]


def test_the_first_two_watch_and_the_next_judges(networks: Path, hub: Path) -> None:
    """The folder's come first, by name; then those of the hub's cache, by id."""
    for name in ("b", "a"):
        network(networks / name)
    cached(hub, "lab/c")
    found = networks_here()
    assert [(one.name, one.fault) for one in found] == [("a", None), ("b", None), ("lab/c", None)]
    watching = settled("auto", found)
    assert watching == "own,hf:a,hf:b"
    assert names_of(judges(watching, found)) == ["lab/c", "a", "b"]
    assert names_of(judges(watching, found[:2])) == ["a", "b"]
    assert names_of(judges(f"own,hf:{networks / 'a'}", found)) == ["b", "lab/c", str(networks / "a")]
    assert judges("own", found[1:]) == [Judge("b"), Judge("lab/c")]
    assert judges("own", ()) == []
    assert remarks(found) == [
        "hf:a and hf:b watch beside the run's own networks; --watchers own leaves published ones out",
        "hf:lab/c is on this machine and does not watch: 2 others do; --watchers own,hf:lab/c has it watch",
    ]
    assert settled("own", found) == "own"
    assert settled("own,hf:x", found) == "own,hf:x"


KINDS: list[tuple[dict[str, object], str]] = [
    ({"model_type": "mobilenet_v2"}, "mobilenet"),
    ({"model_type": "efficientnet"}, "efficientnet"),
    ({"model_type": "resnet"}, "resnet"),
    ({"architecture": "tf_efficientnet_lite0", "pretrained_cfg": {}}, "efficientnet"),
    ({"architecture": "mobilenetv2_100", "pretrained_cfg": {}}, "mobilenet"),
    ({"architecture": "resnet18", "pretrained_cfg": {}}, "resnet"),
    ({"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}, "vit"),
]


@pytest.mark.parametrize(("config", "kind"), KINDS)
def test_networks_of_one_kind_are_a_family_in_transformers_and_timm(config: dict[str, object], kind: str) -> None:
    assert family(config) == kind


def test_a_network_of_another_family_judges_before_a_relative(networks: Path, hub: Path) -> None:
    for name in ("a", "b", "c"):
        network(networks / name)
    (network(networks / "d") / "config.json").write_text(
        json.dumps({"model_type": "vit", "architectures": ["ViTForImageClassification"]})
    )
    found = networks_here()
    assert settled("auto", found) == "own,hf:a,hf:b"
    found_judges = judges("own,hf:a,hf:b", found)
    assert names_of(found_judges) == ["d", "c", "a", "b"]
    assert [judge.but.split(":")[0] for judge in found_judges] == [
        "",
        ", of the family of those that watched",
        ", although it watched, as no other here can judge",
        ", although it watched, as no other here can judge",
    ]


def test_of_a_repository_the_needed_files_suffice(networks: Path, hub: Path) -> None:
    """The hub's own list of its files, which a download leaves, has more of them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

    for name in ("lab/whole", "lab/part"):
        place = cached(hub, name)
        names = [*(path.name for path in place.iterdir()), "pytorch_model.onnx"]
        write_tree_cache(str(place.parents[1]), "0" * 40, {file: TreeCacheEntry(size=1, blob_id="0") for file in names})
        with pytest.raises(OSError, match="incomplete"):
            snapshot_download(name, local_files_only=True)
    (place / "model.safetensors").unlink()
    part, whole = networks_here()
    assert (whole.name, whole.fault, find_model(whole.name)[0].resolve()) == ("lab/whole", None, whole.folder)
    assert (part.name, part.fault) == ("lab/part", "model.safetensors is missing; complete it")
    assert names_of(judges("own", (part, whole))) == ["lab/whole"]
    with pytest.raises(InputError, match=r"part: model\.safetensors is missing; fetch it again: .*hf download lab"):
        find_model("lab/part")


def test_a_named_network_whose_licence_forbids_derivatives_is_told_of(networks: Path, hub: Path) -> None:
    network(networks / "bound", card=card("cc-by-nc-nd-4.0"))
    network(networks / "free", card=card("mit"))
    [line] = licence_remarks("own,hf:bound,hf:free")
    assert line.startswith("hf:bound watches, and its licence, cc-by-nc-nd-4.0, forbids derivatives: ask its owner")
    assert licence_remarks("own,hf:free") == licence_remarks("own") == []


def test_without_any_own_networks_watch_and_a_line_says_what_that_costs(networks: Path, hub: Path) -> None:
    assert networks_here() == ()
    assert settled("auto", ()) == "own"
    [line] = remarks(())
    assert "no published network watches" in line
    assert "dpd data fetch" in line


def test_what_does_not_watch_unasked_is_named_with_its_reason(networks: Path, hub: Path) -> None:
    network(networks / "large", size=LARGEST + 1)
    network(networks / "words", architecture="BertForMaskedLM")
    (network(networks / "pickled") / "model.safetensors").rename(networks / "pickled" / "pytorch_model.bin")
    network(networks / "bound", card=card("cc-by-nc-nd-4.0"))
    network(networks / "a,b")
    (network(networks / "unsized") / "preprocessor_config.json").unlink()
    (network(networks / "deep") / "config.json").write_text(json.dumps(DEEP))
    (network(networks / "nested") / "config.json").write_text("[" * 100_000)
    (network(networks / "gone") / "model.safetensors").unlink()
    (networks / "gone" / "model.safetensors").symlink_to(networks / "nowhere")
    (network(networks / "indexed") / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}')
    (networks / "empty").mkdir()
    (networks / ".draft").mkdir()
    (networks / "a file").touch()
    cached(hub, "lab/bert", architecture="BertForMaskedLM")  # has other uses, and is no news
    found = networks_here()
    assert suited(found) == ()
    reasons = {
        "large": "its weights are 60 MB, more than 60; --watchers own,hf:large has it watch",
        "words": "it is no image classifier; --watchers own,hf:words has it watch if it sees images",
        "empty": "it has no config.json that can be read",
        "nested": "it has no config.json that can be read",
        "pickled": "its weights are a pickle",
        "bound": "its licence, cc-by-nc-nd-4.0, forbids derivatives; --watchers own,hf:",
        "a,b": "its name has a comma",
        "unsized": "it has no preprocessor_config.json",
        "deep": "it takes images of 13 bands",
        "gone": "model.safetensors is missing; complete it",
        "indexed": "1 is missing; complete it",
    }
    assert {one.name for one in found} == reasons.keys()
    lines = remarks(found)
    for name, reason in reasons.items():
        begun = f"hf:{name} is on this machine and does not watch: "
        assert [line for line in lines if line.startswith(begun) and reason in line], (name, lines)


def test_one_network_counts_once(networks: Path, hub: Path) -> None:
    """A link to it is another name alone."""
    network(networks / "a")
    (networks / "b").symlink_to(networks / "a")
    assert [one.name for one in networks_here()] == ["a"]


def test_names_are_printed_without_what_moves_a_terminal(networks: Path, hub: Path) -> None:
    network(networks / "a\x1b[2J")
    assert "\x1b" not in "".join(remarks(networks_here()))


def test_a_folder_of_networks_that_is_a_file_is_named(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DPD_NETWORKS", str(tmp_path / "file"))
    assert remarks(networks_here())[-1].endswith("file is no folder, so no networks are found in it")


def test_a_folder_that_has_the_id_of_a_model_is_not_taken_for_it(
    networks: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(hub, "lab/c")
    network(networks / "a")
    for name in ("lab/c", "a"):
        network(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert [one.fault for one in networks_here()] == ["a folder of that name is here; work in another one"] * 2


HARMFUL: list[dict[str, Any]] = [
    *(
        {"model_args": {name: "a/b"}}
        for name in ("checkpoint_path", "pretrained_cfg_overlay", "cache_dir", "scriptable")
    ),
    {"model_args": {"act_layer": "../a"}},
    {"model_args": {"depths": ["a b"]}},
    {"model_args": ["checkpoint_path"]},
    *({"architecture": name} for name in ("hf-hub:a/b", "local-dir:/a", "../a", "", None)),
]


@pytest.mark.parametrize("other", HARMFUL)
def test_a_model_of_timm_names_no_file_and_no_hub(
    other: dict[str, Any], networks: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm opens pickles by checkpoint_path, and fetches by hf-hub:."""
    monkeypatch.setattr("dpd_train.model_files.find_spec", lambda name: "there")
    folder = network(networks / "eyes")
    harmless = {"architecture": "resnet18", "pretrained_cfg": {}, "model_args": {"depths": [1, 2], "num_classes": 3}}
    for config, refused in ((harmless, False), (harmless | other, True)):
        (folder / "config.json").write_text(json.dumps(config))
        assert (networks_here()[0].fault is not None) == refused
        if refused:
            with pytest.raises(InputError, match=r"eyes: (its architecture|model_args) "):
                find_model("eyes")


def test_a_model_of_timm_needs_timm(networks: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = network(networks / "eyes")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}}))
    for installed, fault in (
        (None, "it is a model of timm, which is not installed; pip install timm"),
        ("there", None),
    ):
        monkeypatch.setattr("dpd_train.model_files.find_spec", lambda name, found=installed: found)
        assert [one.fault for one in networks_here()] == [fault]


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        ("cc-by-nd-4.0", True),
        ("CC-BY-NC-ND-4.0", True),
        ("mit,cc-by-nd-4.0", True),
        ("apache-2.0", False),
        ("bsd-3-clause", False),
    ],
)
def test_licences_that_forbid_derivatives(licence: str, forbids: bool) -> None:
    assert forbids_derivatives(licence) == forbids


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (card("mit"), "mit"),
        (card('"mit"'), "mit"),
        ("# A network\nlicense: mit\n", None),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("---\nlicense:\n- mit\n- cc-by-nd-4.0\n---\n", "mit,cc-by-nd-4.0"),
        ("---\nlicense: [mit]\n---\n", "mit"),
        ("---\nlicense:\n  - mit\ntags:\n- a\n---\n", "mit"),
        ("---" + "\nlicense:\n-" * 5_000, None),
        ("---\nlicense: other\nlicense_name: own-nd-1\n---\n", "other,own-nd-1"),
        ("---" + "\n" * 65_000, None),
        ("", None),
    ],
)
def test_the_licence_is_that_of_the_card_s_first_lines(text: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert licence_of(tmp_path) == licence


def test_a_network_of_the_folder_has_a_name(networks: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network(networks / "a")
    assert find_model("a") == (networks / "a", "resnet")
    with pytest.raises(InputError, match=r"\.\./networks/a: no such folder"):
        find_model("../networks/a")
    monkeypatch.chdir(networks.parent)
    network(networks.parent / "a")
    with pytest.raises(InputError, match=r"a: is a folder here and a network in .*networks; give \./a or /"):
        find_model("a")
    assert find_model("./a")[0].samefile(networks.parent / "a")
    monkeypatch.chdir(networks)
    assert find_model("a")[0].samefile(networks / "a")


def test_two_networks_of_one_name_are_refused(networks: Path, tmp_path: Path) -> None:
    """A set names its watchers by the last part of their folders."""
    one, two = network(tmp_path / "one" / "eyes"), network(tmp_path / "two" / "eyes")
    scenes = drawn_scenes(tmp_path / "scenes")
    config = TrainConfig(**{**vars(CONFIG), "prototypes": "matched", "watchers": f"own,hf:{one},hf:{two}"})
    with pytest.raises(InputError, match="two networks are called hf:eyes"):
        check_inputs(scenes, tmp_path / "run", config)


def test_the_usual_folder_is_in_the_user_s_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DPD_NETWORKS")
    assert networks_folder() == tmp_path / "dpd" / "networks"
    monkeypatch.setenv("DPD_NETWORKS", "")
    assert networks_folder() is None

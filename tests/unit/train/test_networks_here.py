"""Which published networks are on a machine, and which of them watch unasked."""

import json
from pathlib import Path

import pytest

from dpd_runtime.errors import InputError
from dpd_train.base_files import find_model, licence_of, networks_folder
from dpd_train.config import TrainConfig
from dpd_train.networks_here import (
    LARGEST,
    forbids_derivatives,
    judge_of,
    networks_here,
    remarks,
    settled,
    suited,
)
from dpd_train.run import check_inputs
from tests.tiny import CONFIG, drawn_scenes


def network(folder: Path, architecture: str = "ResNetForImageClassification", size: int = 100, card: str = "") -> Path:
    """The files by which a network is found; no weights are read."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet", "architectures": [architecture]}))
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


def test_the_first_two_watch_and_the_next_judges(networks: Path, hub: Path) -> None:
    """The folder's come first, by name; then those of the hub's cache, by id."""
    for name in ("b", "a"):
        network(networks / name)
    cached(hub, "lab/c")
    found = networks_here()
    assert [(one.name, one.fault) for one in found] == [("a", None), ("b", None), ("lab/c", None)]
    watching = settled("auto", found)
    assert watching == f"own,hf:{networks / 'a'},hf:{networks / 'b'}"
    assert judge_of(watching, found) == "lab/c"
    assert judge_of(watching, found[:2]) == str(networks / "a")
    assert judge_of("own", found[1:]) == str(networks / "b")
    assert judge_of("own", ()) is None
    assert remarks(found) == ["hf:a and hf:b watch beside own networks; --watchers own leaves that out"]
    assert settled("own", found) == "own"
    assert settled("own,hf:x", found) == "own,hf:x"


def test_without_any_own_networks_watch_and_a_line_says_what_that_costs(networks: Path, hub: Path) -> None:
    assert networks_here() == ()
    assert settled("auto") == "own"
    [line] = remarks(())
    assert "no published network watches" in line
    assert "dpd data fetch" in line


def test_what_does_not_watch_unasked_is_named_with_its_reason(networks: Path, hub: Path) -> None:
    network(networks / "large", size=LARGEST + 1)
    network(networks / "words", architecture="BertForMaskedLM")
    (network(networks / "pickled") / "model.safetensors").rename(networks / "pickled" / "pytorch_model.bin")
    network(networks / "bound", card=card("cc-by-nc-nd-4.0"))
    (networks / "empty").mkdir()
    (networks / "a file").touch()
    cached(hub, "lab/bert", architecture="BertForMaskedLM")  # has other uses, and is no news
    found = networks_here()
    assert suited(found) == ()
    lines = remarks(found)
    assert len(lines) == 1 + len(found) == 6
    for name, reason in {
        "large": f"its weights are 60 MB, more than 60; --watchers own,hf:{networks / 'large'} has it watch",
        "words": "it is no image classifier",
        "empty": "it is no image classifier",
        "pickled": "its weights are a pickle",
        "bound": "its licence, cc-by-nc-nd-4.0, forbids derivatives; --watchers own,hf:",
    }.items():
        assert [line for line in lines if line.startswith(f"hf:{name} is on this machine") and reason in line], name


def test_a_model_of_timm_needs_timm(networks: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = network(networks / "eyes")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}}))
    for installed, fault in ((None, "is a model of timm, which is not installed; pip install timm"), ("there", None)):
        monkeypatch.setattr("dpd_train.base_files.find_spec", lambda name, found=installed: found)
        assert [one.fault for one in networks_here()] == [fault]


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [("cc-by-nd-4.0", True), ("CC-BY-NC-ND-4.0", True), ("apache-2.0", False), ("bsd-3-clause", False)],
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
        ("---\nlicense:\n- mit\n---\n", None),
        ("", None),
    ],
)
def test_the_licence_is_that_of_the_card_s_first_lines(text: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert licence_of(tmp_path) == licence


def test_a_network_of_the_folder_has_a_name(networks: Path, hub: Path) -> None:
    network(networks / "a")
    assert find_model("a") == (networks / "a", "resnet")
    with pytest.raises(InputError, match=r"\.\./networks/a: no such folder"):
        find_model("../networks/a")


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

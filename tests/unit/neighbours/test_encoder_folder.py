"""The folder of an encoder: what is written is read back, and whatever is wrong with it is said."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from dpd_neighbours.swimdiff.folder import CONFIG, RECORD, WEIGHTS, check_new, save_encoder, swimdiff
from dpd_runtime.errors import InputError
from dpd_train.networks import ResNet, ResNetConfig

SHAPE = ResNetConfig(num_classes=4, widths=(8, 12), blocks=(1, 1), dropout=0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_encoder(ResNet(SHAPE), tmp_path / "encoder", {"resolution": 32})
    return tmp_path / "encoder"


def test_what_is_written_is_read_back(folder: Path) -> None:
    encoder = swimdiff(str(folder))
    network = encoder.load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = ResNet(SHAPE)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])
    assert (encoder.side, encoder.name, network.training) == (32, "swimdiff:encoder", False)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == encoder.sha256


def test_another_encoder_that_took_its_place_is_not_loaded(folder: Path) -> None:
    """Who asked for the hash, as for a record or a cache, gets the weights that have it."""
    encoder = swimdiff(str(folder))
    save_encoder(ResNet(SHAPE), folder, {"resolution": 32})
    with pytest.raises(InputError, match=r"encoder: model\.safetensors is damaged"):
        encoder.load()
    assert swimdiff(str(folder)).sha256 != encoder.sha256
    swimdiff(str(folder)).load()


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, RECORD])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"encoder: {name} is missing; give a folder that dpd swimdiff"):
        swimdiff(str(folder))


def test_a_flipped_bit_and_a_cut_file_are_found(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    for damaged in (bytes(content), bytes(content[:-9]), b""):
        (folder / WEIGHTS).write_bytes(damaged)
        with pytest.raises(InputError, match=r"model.safetensors is damaged.*train it again: dpd swimdiff"):
            swimdiff(str(folder)).load()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (CONFIG, json.dumps({**SHAPE.to_dict(), "stem_stride": 64}), "config.json is damaged"),
        (RECORD, "{", "features.json cannot be read"),
        (RECORD, json.dumps({"method": "other"}), "features.json is not the record of an encoder"),
    ],
)
def test_other_damage_is_said_in_one_line(folder: Path, name: str, content: str, words: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        swimdiff(str(folder)).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps({"num_classes": 4}),
        *(
            json.dumps({**SHAPE.to_dict(), **wrong})
            for wrong in (
                {"widths": [4, 8]},
                {"widths": [], "blocks": []},
                {"widths": [4], "blocks": [1, 1]},
                {"widths": [10**5, 6]},
                {"blocks": [10**9, 1]},
                {"stem_stride": 0},
                {"num_classes": "4"},
            )
        ),
    ],
)
def test_a_config_that_its_record_vouches_for_is_still_not_believed(folder: Path, content: str) -> None:
    (folder / CONFIG).write_text(content)
    record = json.loads((folder / RECORD).read_text())
    record["config_sha256"] = hashlib.sha256(content.encode()).hexdigest()
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"does not fit config\.json") as caught:
        swimdiff(str(folder)).load()
    assert "\n" not in str(caught.value)


def test_nothing_there_and_something_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder; make it: dpd swimdiff DATA"):
        swimdiff(str(tmp_path / "nowhere"))
    check_new(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds a finished encoder; choose another --out"):
        check_new(folder)
    (folder / RECORD).unlink()
    with pytest.raises(InputError, match="is not an empty folder"):
        check_new(folder)

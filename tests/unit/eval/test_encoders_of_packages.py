"""An encoder of another package (`dpd.encoders`) watches, is an extractor and begins a student, by its name."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dpd_eval.extractor_choice import build_extractor, check_name
from dpd_eval.pretrained import check_student, is_pretrained, without_folder
from dpd_eval.students import build_student, student_identity
from dpd_runtime.errors import InputError
from dpd_train.config import TrainConfig, extra_watchers
from dpd_train.doors import offered_names
from dpd_train.encoders import names_encoder, offered_encoders, open_encoder
from dpd_train.run import further_watchers, placed_watchers
from dpd_train.scene_set import SceneSet

MODULE = """
from pathlib import Path

from dpd_runtime.errors import InputError
from dpd_train.encoders import Encoder


def eyes(folder):
    place = Path(folder)
    if not (place / "seed.txt").is_file():
        raise InputError(f"eyes:{folder}: holds no eyes")
    return Encoder(f"eyes:{place.name}", 16, (place / "seed.txt").read_text() * 64, lambda: load(place))


def load(place):
    import torch

    from dpd_train.networks import ResNet, ResNetConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int((place / "seed.txt").read_text()))
        return ResNet(ResNetConfig(num_classes=2, widths=(4, 8), blocks=(1, 1))).eval().requires_grad_(False)
"""
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
SCENES = SceneSet(("a", "b"), IMAGES, np.array([0, 0, 1, 1]), (), ())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an encoder of an installed package."""
    metadata = tmp_path / "site" / "eyes_package-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: eyes-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[dpd.encoders]\neyes = eyes_package:eyes\n")
    (tmp_path / "site" / "eyes_package.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "seed.txt").write_text("7")
    return tmp_path / "mine"


def test_only_names_with_a_folder_that_a_package_offers_are_encoders(place: Path) -> None:
    assert offered_names("dpd.encoders") == ("eyes", "swimdiff")
    assert offered_encoders() == ("eyes:FOLDER", "swimdiff:FOLDER")
    assert names_encoder(f"eyes:{place}")
    assert not any(names_encoder(name) for name in ("eyes", "eyes:", "hf:eyes", "mdfl:x", "", ":x"))


def test_it_watches(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert extra_watchers(f"own,eyes:{place},hf:a/b") == (f"eyes:{place}", "hf:a/b")
    monkeypatch.chdir(place.parent)
    assert placed_watchers("own,eyes:mine") == f"own,eyes:{place}"
    found = further_watchers(TrainConfig(watchers="own,eyes:mine"))
    assert found == [{"name": "eyes:mine", "weights_sha256": 64 * "7"}]
    with pytest.raises(InputError, match="once each, eyes:FOLDER or swimdiff:FOLDER or hf:ID_OR_PATH"):
        extra_watchers("own,ears:mine")


def test_it_is_an_extractor(place: Path) -> None:
    extractor = build_extractor(f"eyes:{place}", SCENES)
    assert extractor.features(IMAGES).shape == (4, 8)
    assert extractor.name == f"eyes:{place}"
    assert extractor.description.startswith("eyes:mine: ResNet 4-8 trained without labels at 16 px")
    with pytest.raises(InputError, match="holds no eyes"):
        check_name(f"eyes:{place}/none")
    with pytest.raises(InputError, match="there are own, untrained, mdfl, eyes:FOLDER, swimdiff:FOLDER and hf:"):
        check_name("ears:x")


def test_a_student_begins_with_it(place: Path) -> None:
    name = f"eyes:{place}"
    student, network = build_student(name, 3, seed=0), open_encoder(name).load()
    assert student(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
    for key, value in network.stem.state_dict().items():
        assert torch.equal(value, student.state_dict()[f"stem.{key}"])
    assert build_student(f"probe:{name}", 3, seed=0)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert is_pretrained(name)
    assert without_folder(name) == "eyes:mine"
    assert student_identity(name).startswith(f"eyes:{64 * '7'} transformers ")
    with pytest.raises(InputError, match="give probe:eyes:FOLDER or probe:swimdiff:FOLDER or probe:hf:ID_OR_PATH"):
        check_student("probe:convnet")
    with pytest.raises(
        InputError, match="eyes:FOLDER, swimdiff:FOLDER and hf:ID_OR_PATH, the last 3 also after probe:"
    ):
        check_student("eyes:")


def test_home_is_the_home_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place.parent))
    assert open_encoder("eyes:~/mine").name == "eyes:mine"


def test_without_the_package_the_name_is_unknown() -> None:
    with pytest.raises(InputError, match="eyes: no installed package offers it"):
        open_encoder("eyes:mine")

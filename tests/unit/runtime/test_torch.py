"""`dpd_runtime.torch.DistilledImages` gives a DataLoader each image of the set once, with the real networks."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime import generate, load_bundle
from dpd_runtime.errors import InputError
from tests.drawn import codes_only, quick_bundle

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402

from dpd_runtime.torch import DistilledImages  # noqa: E402

NAMES = ("River", "Forest")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quick_bundle(tmp_path_factory.mktemp("bundle") / "quick")


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_of_the_set_comes_once(workers: int, bundle: Path) -> None:
    data = DistilledImages(bundle, ipc=12, seed=5, classes=NAMES, mixed=3)
    assert len(data) == 24
    found = list(DataLoader(data, batch_size=None, num_workers=workers))
    again = list(DataLoader(data, batch_size=None, num_workers=workers))
    assert all(torch.equal(a, b) and m == n for (a, m), (b, n) in zip(found, again, strict=True))
    wanted = generate(load_bundle(bundle), ipc=12, seed=5, classes=NAMES, provider="cpu")
    assert Counter((label, np.asarray(image * 255).round().astype(np.uint8).tobytes()) for image, label in found) == (
        Counter((image.label, image.pixels.transpose(2, 0, 1).tobytes()) for image in wanted)
    )
    for image, label in found:
        assert (image.shape, image.dtype, type(label)) == ((3, 64, 64), torch.float32, int)
        assert 0 <= image.min() < image.max() <= 1


def test_batches_and_transform_of_the_embedded_bundle() -> None:
    def halved(image: torch.Tensor) -> torch.Tensor:
        return image[:, ::2, ::2]

    data = DistilledImages(ipc=2, transform=halved)
    batches = list(DataLoader(data, batch_size=8))
    assert [images.shape for images, _ in batches] == [(8, 3, 32, 32), (8, 3, 32, 32), (4, 3, 32, 32)]
    labels = torch.cat([labels for _, labels in batches])
    assert labels.dtype == torch.int64
    assert Counter(labels.tolist()) == dict.fromkeys(range(10), 2)
    assert labels.tolist() != sorted(labels.tolist()), "shuffled"


@pytest.mark.parametrize("count", [1, 3, 4])
def test_workers_share_all_blocks_without_overlap(count: int) -> None:
    data = DistilledImages(ipc=35, seed=1)
    parts = [[(b.scene_class.name, b.number) for b in data.blocks(number, count)] for number in range(count)]
    together = [block for part in parts for block in part]
    assert sorted(together) == sorted((scene.name, row) for scene in data.classes for row in range(4))
    assert len(together) == len(set(together))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_cannot_be_computed_is_said_at_once(bundle: Path) -> None:
    with pytest.raises(InputError, match="class 'Lake' is not in the bundle, which has AnnualCrop"):
        DistilledImages(bundle, ipc=1, classes=("Lake",))
    with pytest.raises(InputError, match="ipc is 0: ask for at least 1 image"):
        DistilledImages(bundle, ipc=0)
    with pytest.raises(InputError, match="seed is -1"):
        DistilledImages(bundle, ipc=1, seed=-1)


def test_a_codes_only_bundle_gives_its_codes_and_no_more(tmp_path: Path) -> None:
    path = codes_only(tmp_path / "codes.dpd", codes=4)
    data = DistilledImages(path, ipc=4, classes=NAMES)
    assert Counter(label for _, label in data) == {8: 4, 1: 4}
    with pytest.raises(InputError, match=r"ipc is 5: .* ask for at most 4"):
        DistilledImages(path, ipc=5, classes=NAMES)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.full)])
@pytest.mark.parametrize("folder", [False, True], ids=["memory", "folder"])
def test_a_second_pass_runs_no_network(
    folder: bool, workers: int, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "kept" if folder else None
    data = DistilledImages(bundle, ipc=12, seed=5, classes=NAMES, mixed=3, out=out)
    loader = DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context="fork" if workers else None)
    first = list(loader)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a network was run")

    monkeypatch.setattr("dpd_runtime.torch.Generation", refused)
    second = list(loader)
    assert len(first) == len(data) == 24
    assert all(torch.equal(a, b) and m == n for (a, m), (b, n) in zip(first, second, strict=True))
    if out is not None:  # another session
        third = list(
            DataLoader(DistilledImages(bundle, ipc=12, seed=5, classes=NAMES, mixed=3, out=out), batch_size=None)
        )
        assert sorted(label for _, label in third) == sorted(label for _, label in first)
        with pytest.raises(AssertionError, match="a network was run"):
            list(DistilledImages(bundle, ipc=12, seed=6, classes=NAMES, out=out))
    with pytest.raises(AssertionError, match="a network was run"):  # the control
        list(DistilledImages(bundle, ipc=12, seed=5, classes=NAMES))


def test_what_is_kept_in_a_folder_is_checked(bundle: Path, tmp_path: Path) -> None:
    data = DistilledImages(bundle, ipc=2, classes=NAMES, out=tmp_path / "kept")
    list(data)
    file = sorted((tmp_path / "kept").iterdir())[0]
    for content in (np.zeros((2, 9, 9, 3), np.uint8), np.zeros((2, 64, 64, 3)), np.array([{}], object)):
        np.save(file, content)
        with pytest.raises(InputError, match=r"npy: .*; delete it, and it is made again"):
            list(data)
    file.unlink()
    assert len(list(data)) == 4
    (tmp_path / "text").write_text("")
    with pytest.raises(InputError, match="is a file, where a folder must be"):
        DistilledImages(bundle, ipc=2, out=tmp_path / "text")


def test_a_set_that_is_too_large_for_memory_is_made_anew(
    bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpd_runtime.torch.usable_memory", lambda: 16 * 4 * 64 * 64 * 3 - 1)  # of four images less one
    data = DistilledImages(bundle, ipc=2, classes=NAMES)
    assert "not kept" in repr(data)
    assert "made anew in each pass, unless DistilledImages gets out=FOLDER" in caplog.text
    monkeypatch.setattr("dpd_runtime.torch.usable_memory", lambda: 16 * 4 * 64 * 64 * 3)
    assert "4 images of 2 classes, 64 × 64 × 3, seed 0, kept in memory, 0.0 MB" in repr(
        DistilledImages(bundle, ipc=2, classes=NAMES)
    )


def test_a_text_is_no_list_of_classes(bundle: Path) -> None:
    words = r"classes is the text 'Forest'; give a list of names, such as \['Forest'\]"
    with pytest.raises(InputError, match=words):
        DistilledImages(bundle, ipc=1, classes="Forest")
    with pytest.raises(InputError, match=words):
        generate(load_bundle(bundle), ipc=1, classes="Forest")
    assert len(DistilledImages(bundle, ipc=1, classes=["Forest"])) == 1

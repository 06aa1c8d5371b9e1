"""The scan finds what was planted, and nothing in a clean bundle."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save

pytest.importorskip("torch")
from dpd_eval.artefacts import Traces, artefact_test, scan
from dpd_eval.subject import read_data
from dpd_train.drawn_scenes import CLASSES
from dpd_train.reading import HeldOut
from dpd_train.scenes import open_scenes
from tests.tiny import drawn_scenes

RNG = np.random.default_rng(0)
LATENTS = RNG.normal(size=(6, 4, 8, 8)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
NAMES = ["Forest/Forest_17.jpg", "Sea/scene 0042 käse.tif", "Sea/7.png"]
TABLE = {"prototype_kind": "matched", "prompts": [], "classes": [{"name": "Sea", "prototype_counts": [12, 30]}]}


def traces(tmp_path: Path) -> Traces:
    return Traces(NAMES, [tmp_path / "scenes"], IMAGES, LATENTS, scaling_factor=0.33)


def clean() -> dict[str, bytes]:
    weights = RNG.normal(size=100_000).astype(np.float16).tobytes()
    return {
        "bundle.json": json.dumps({"files": {"unet/model.onnx": {}}}).encode(),
        "classes.json": json.dumps(TABLE).encode(),
        "unet/model.onnx": b"/unet/mid_block/resnets.0/conv1/Conv" + weights + b"Forest_1 of 7",
        "MODEL_CARD.md": b"EuroSAT: forests, seas; see https://zenodo.org/data/sets",
        "prototypes.safetensors": save({"class.0": RNG.normal(size=(2, 4, 8, 8)).astype(np.float16)}),
    }


def test_a_clean_bundle_has_none(tmp_path: Path) -> None:
    files = clean()
    assert scan(files, traces(tmp_path)) == []
    assert artefact_test([], len(files), traces(tmp_path)).verdict == "PASS"


@pytest.mark.parametrize("val_per_class", [0, 2])
def test_a_validation_image_leaves_traces_beside_another_hold_out(tmp_path: Path, val_per_class: int) -> None:
    scenes, other = drawn_scenes(tmp_path / "scenes", 6), drawn_scenes(tmp_path / "other", 6, seed=5)
    opened = open_scenes(scenes, HeldOut(val_per_class=val_per_class))
    data = read_data(opened, open_scenes(other), classes=CLASSES, resolution=32)
    every = {str(path.relative_to(scenes)) for path in scenes.rglob("*.png")}
    assert every <= {*data.names}
    assert len(data.names) == len(data.pixels) == 2 * len(every)


def with_text(content: bytes) -> bytes:
    return b"\x00\xff" * 500 + content + b"\x00\x01" * 500


def picture(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(buffer, kind, **options)
    return buffer.getvalue()


def turned(latent: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return np.ascontiguousarray(np.rot90(latent[..., ::-1], 3, (-2, -1)))


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("unet/model.onnx", with_text(b"Forest_17.jpg"), "a file name"),
        ("unet/model.onnx", with_text(b"from Forest_17 on"), "a file name"),
        ("MODEL_CARD.md", "made of scene 0042 käse.tif".encode(), "a file name"),
        ("scheduler/a.json", json.dumps({"x": "scene 0042 käse.tif"}).encode(), "a file name"),
        ("unet/model.onnx", with_text(b"see 7.png there"), "a file name"),
        ("unet/model.onnx", with_text(b"/home/ada/run/pipeline"), "a path"),
        ("MODEL_CARD.md", b"trained in C:\\Users\\ada\\run", "a path"),
        ("step/model.onnx", with_text(picture("JPEG")), "a JPEG"),
        ("step/model.onnx", with_text(b"Exif\x00\x00MM"), "EXIF"),
        ("step/model.onnx", with_text(b"....GPSLatitude...."), "GPS"),
        ("train.log", b"step 1", "a file that does not belong in a bundle"),
        ("classifier/notes.csv", b"a,b", "a file that does not belong in a bundle"),
        ("scheduler/a.json", json.dumps([{"caption": "a road by a lake"}]).encode(), "a field about single images"),
        ("golden.safetensors", save({"latents": LATENTS[:1].astype(np.float16)}), "a real image or its latent"),
        ("golden.safetensors", save({"x": 3 * turned(LATENTS[2:3])}), "a real image or its latent"),
        ("golden.safetensors", save({"images": IMAGES[2:4]}), "a real image or its latent"),
        ("unet/model.onnx", b"odd" + LATENTS[3].tobytes(), "bytes of a latent"),
        ("unet/model.onnx", b"odd" + (LATENTS[3] / np.float32(0.33)).astype(np.float16).tobytes(), "bytes of a latent"),
        ("unet/model.onnx", b"even" * 2 + IMAGES[5].tobytes(), "bytes of pixels"),
        ("classes.json", json.dumps({**TABLE, "prototype_kind": "medoid"}).encode(), "latents of real images"),
        (
            "classes.json",
            json.dumps({"classes": [{"name": "a", "prototype_counts": [1]}]}).encode(),
            "of a single image",
        ),
    ],
)
def test_what_is_planted_is_found(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    findings = scan(clean() | {name: content}, traces(tmp_path))
    assert any(what in finding.what for finding in findings), findings
    told = artefact_test(findings, 5, traces(tmp_path))
    assert told.verdict == "FAIL"
    assert not any(word in told.note for word in ("17", "0042", "ada", "lake")), "the note goes into the bundle"


def test_the_datas_own_folder_is_a_path(tmp_path: Path) -> None:
    said = str((tmp_path / "scenes").resolve()).encode()
    assert any(f.what == "a path" for f in scan(clean() | {"MODEL_CARD.md": said}, traces(tmp_path)))


def test_a_sets_pictures_may_be_pictures_but_not_tell(tmp_path: Path) -> None:
    place = Image.Exif()
    place.get_ifd(0x8825)[2] = (48.0, 8.0, 11.0)
    told = PngInfo()
    told.add_text("Comment", "from Forest_17")
    plain = {"Sea/Sea_00000.png": picture("PNG"), "metadata.jsonl": b'{"file_name": "Sea/Sea_00000.png"}'}
    assert scan(plain, traces(tmp_path), of_set=True) == []
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for content in (picture("PNG", icc_profile=profile), picture("JPEG", icc_profile=profile, progressive=True)):
        assert scan({"Sea/Sea_00001.png": content}, traces(tmp_path), of_set=True) == []
    camera = {
        "Sea/Sea_00001.png": picture(
            "PNG", icc_profile=profile.replace("sRGB".encode("utf-16-be"), "Eyes".encode("utf-16-be"))
        )
    }
    assert [finding.what for finding in scan(camera, traces(tmp_path), of_set=True)] == ["picture metadata"]
    for content, what in ((picture("JPEG", exif=place), "EXIF"), (picture("PNG", pnginfo=told), "picture metadata")):
        findings = scan({"Sea/Sea_00001.jpg": content}, traces(tmp_path), of_set=True)
        assert any(what in finding.what for finding in findings), findings


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("thumbs.npy", b"head" + IMAGES[5].tobytes(), "bytes of pixels"),
        ("real_1.png", picture("PNG"), "a picture outside the class folders"),
        ("README.md", b"made from Forest_17.jpg. The end", "a file name"),
        ("README.md", b"made from Forest_17.jpg...", "a file name"),
    ],
)
def test_what_lies_beside_a_sets_pictures_is_found(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    plain = {"Sea/Sea_00000.png": picture("PNG"), "contact_sheet.png": picture("PNG")}
    assert scan(plain, traces(tmp_path), of_set=True) == []
    assert any(what in finding.what for finding in scan(plain | {name: content}, traces(tmp_path), of_set=True))


def test_without_latents_the_scan_warns(tmp_path: Path) -> None:
    bare = Traces(NAMES, (), IMAGES)
    assert artefact_test(scan(clean(), bare), 5, bare).verdict == "WARN"


def test_latents_that_share_their_means_are_not_one(tmp_path: Path) -> None:
    """Images of calm water: a latent is little more than its mean colour, which all images share."""
    colour = np.array([3.0, -2.0, 1.0, 4.0])[:, None, None]
    real, other = (colour + 0.05 * RNG.normal(size=(5, 4, 8, 8)) for _ in range(2))
    known = Traces((), (), IMAGES, real.astype(np.float32))
    assert scan(clean() | {"golden.safetensors": save({"x": other.astype(np.float16)})}, known) == []
    assert scan(clean() | {"golden.safetensors": save({"x": real.astype(np.float16)})}, known) != []

"""`--segmenter` on tiny random models, against transformers' own post-processing and masks cut out by hand."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, GroundingDinoForObjectDetection, Sam2Model, Sam2VideoConfig

import dpd_neighbours.foreground.models
from dpd_neighbours.foreground.decisions import MAP
from dpd_neighbours.foreground.models import FOUND, find_models, segment
from dpd_runtime.errors import InputError
from tests.unit.neighbours.segmenter_models import SAM_SIDE, tiny_dino, tiny_sam

CLASSES = ("RedSquare", "storage_tanks")
LABELS = np.array([0, 1, 0])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny_dino(root / "dino")
    tiny_sam(root / "sam")
    return root


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    drawn = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    drawn[1, 20:50, 30:60] = (250, 20, 20)
    drawn[2] //= 3
    return drawn


def expected_masks(models: Path, images: NDArray[np.uint8], phrases: list[str]) -> list[NDArray[np.bool_]]:
    """Boxes by transformers' post-processing in pixels, one mask a box, two cells a side of a mask's pixel."""
    processor = AutoProcessor.from_pretrained(models / "dino")
    dino = GroundingDinoForObjectDetection.from_pretrained(models / "dino").eval()
    sam = Sam2Model.from_pretrained(models / "sam").eval()
    masks = []
    for image, phrase in zip(images, phrases, strict=True):
        inputs = processor(images=Image.fromarray(image), text=phrase, return_tensors="pt")
        square = np.asarray(Image.fromarray(image).resize((SAM_SIDE, SAM_SIDE), Image.Resampling.BILINEAR)) / 255
        pixels = (square - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        pixel_values = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
        union = np.zeros((MAP // 2, MAP // 2), bool)
        with torch.no_grad():
            found = processor.post_process_grounded_object_detection(
                dino(**inputs), inputs["input_ids"], threshold=FOUND, target_sizes=[image.shape[:2]]
            )[0]
            for box in found["boxes"].clamp(0, len(image)):
                scaled = (box * SAM_SIDE / len(image))[None, None]
                mask = sam(pixel_values=pixel_values, input_boxes=scaled, multimask_output=False).pred_masks[0, 0, 0]
                union |= mask.numpy() > 0
        masks.append(union.repeat(2, axis=0).repeat(2, axis=1))
    return masks


def test_masks_are_sams_in_dinos_boxes(models: Path, images: NDArray[np.uint8]) -> None:
    told: list[tuple[int, int]] = []
    segmenter = find_models(f"{models / 'dino'}+{models / 'sam'}")
    masks = segment(segmenter, images, LABELS, CLASSES, progress=lambda done, total: told.append((done, total)))
    assert masks.shape == (3, MAP, MAP)
    expected = expected_masks(models, images, ["red square.", "storage tanks.", "red square."])
    for mask, wanted in zip(masks, expected, strict=True):
        assert (mask != wanted).mean() < 0.01  # a logit beside zero may fall to either side
        assert 0.02 < wanted.mean() < 0.98
    assert (masks[0] != masks[1]).any()
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_image_without_a_box_has_no_foreground(
    models: Path, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpd_neighbours.foreground.models, "FOUND", 1.0)
    found = segment(find_models(f"{models / 'dino'}+{models / 'sam'}"), images, LABELS, CLASSES)
    assert not found.any()


def test_no_folder_is_told_and_other_weights_are_another_model(models: Path, tmp_path: Path) -> None:
    first = find_models(f"{models / 'dino'}+{models / 'sam'}").description()
    assert str(models) not in first
    assert first.startswith("dino ")
    shutil.copytree(models / "sam", tmp_path / "sam")
    tensors = load_file(tmp_path / "sam" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "sam" / "model.safetensors")
    second = find_models(f"{models / 'dino'}+{tmp_path / 'sam'}").description()
    assert (first.split(", ")[0], first != second) == (second.split(", ")[0], True)


def test_a_published_checkpoint_says_sam2_video(
    models: Path, images: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config is the video model's, with the image model's sizes in it; nothing is asked of a network."""
    shutil.copytree(models / "sam", tmp_path / "sam")
    own = json.loads((tmp_path / "sam" / "config.json").read_text())
    video = Sam2VideoConfig(
        vision_config=own["vision_config"],
        prompt_encoder_config={**own["prompt_encoder_config"], "model_type": "sam2_video_prompt_encoder"},
        mask_decoder_config={**own["mask_decoder_config"], "model_type": "sam2_video_mask_decoder"},
    )
    video.save_pretrained(tmp_path / "sam")
    assert json.loads((tmp_path / "sam" / "config.json").read_text())["model_type"] == "sam2_video"

    def no_network(*arguments: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    found, plain = (
        segment(find_models(f"{models / 'dino'}+{sam}"), images[:1], LABELS[:1], CLASSES)
        for sam in (tmp_path / "sam", models / "sam")
    )
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{dino}", "give two models with a plus between them, Grounding DINO and SAM 2"),
        ("{dino}+", "give two models"),
        ("{sam}+{dino}", "is a 'sam2' model; Grounding DINO is needed in this place"),
        ("{dino}+{dino}", "is a 'grounding-dino' model; SAM 2 is needed"),
        ("{dino}+nobody/nothing", "hf download nobody/nothing"),
    ],
)
def test_what_is_no_segmenter_is_refused(name: str, words: str, models: Path) -> None:
    with pytest.raises(InputError, match=words):
        find_models(name.format(dino=models / "dino", sam=models / "sam"))


def test_a_checkpoint_with_holes_is_refused(models: Path, images: NDArray[np.uint8], tmp_path: Path) -> None:
    shutil.copytree(models / "sam", tmp_path / "sam")
    tensors = load_file(tmp_path / "sam" / "model.safetensors")
    del tensors["no_memory_embedding"]
    save_file(tensors, tmp_path / "sam" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="foreground: the SAM 2 sam: its weights lack 1 tensors, first no_memory"):
        segment(find_models(f"{models / 'dino'}+{tmp_path / 'sam'}"), images, LABELS, CLASSES)

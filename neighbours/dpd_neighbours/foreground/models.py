"""Foreground by two models: Grounding DINO finds a class's objects by its name, SAM 2 outlines them.

Liu et al., "Grounding DINO", 2023 (arXiv 2303.05499); Ravi et al., "SAM 2", 2024 (arXiv 2408.00714). The only prompt
is the name of the image's class, so it should be meaningful: "storage tanks", not "c07".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpd_neighbours.foreground.decisions import MAP, Masks
from dpd_runtime.annotations import Images, Int64, Pixels, Progress
from dpd_runtime.errors import InputError
from dpd_train.attributes import class_words
from dpd_train.model_files import check_tokenizer, complete_model, find_model, image_processor, model_hash, opened

if TYPE_CHECKING:
    import torch

DETECTORS = ("grounding-dino", "mm-grounding-dino")  # of config.json's model_type
OUTLINERS = ("sam2", "sam2_video")  # published SAM 2 checkpoints name the second type and hold the first
FOUND = 0.35  # score of a box that counts, as in Grounding DINO's demo
MOST = 32  # boxes per image, those with the highest scores


@dataclass(frozen=True)
class Models:
    """Two models on this machine, not loaded yet.

    Args:
        name: as given by the user. dino, sam: their folders.
    """

    name: str
    dino: Path
    sam: Path

    def description(self) -> str:
        """Text for results: the last part of each model's name and 12 digits of its hash, without local folders."""
        sources = (Path(source).name for source in self.name.split("+"))
        parts = zip(sources, (self.dino, self.sam), strict=True)
        return ", ".join(f"{source} {model_hash(folder)[:12]}" for source, folder in parts)


def find_models(name: str) -> Models:
    """The models of `foreground:DINO+SAM2`: folders, or ids of models in the local hub cache. Loads no weights.

    Raises:
        InputError: not two models, or a model that is not on this machine, of another kind, or without safetensors.
    """
    sources = [part.strip() for part in name.split("+")]
    if len(sources) != 2 or not all(sources):
        raise InputError(
            f"foreground:{name}: give two models with a plus between them, Grounding DINO and SAM 2, such as "
            "foreground:IDEA-Research/grounding-dino-tiny+facebook/sam2.1-hiera-tiny"
        )
    folders = []
    for source, kinds, title in zip(sources, (DETECTORS, OUTLINERS), ("Grounding DINO", "SAM 2"), strict=True):
        folder, kind = find_model(source)
        if kind not in kinds:
            raise InputError(f"foreground: {source} is a {kind!r} model; {title} is needed in this place")
        folders.append(folder)
    check_tokenizer(folders[0], sources[0])
    return Models("+".join(sources), *folders)


def segment(
    models: Models,
    images: Images,
    labels: Int64,
    classes: Sequence[str],
    device: "torch.device | str" = "cpu",
    progress: Progress = lambda done, total: None,
) -> Masks:
    """Foreground [n, MAP, MAP] of images [n, S, S, 3]: cells at least half covered by objects of the image's class.

    A mask is all False if no object was found. It does not depend on the other images.

    Raises:
        InputError: a model that cannot be loaded.
    """
    import torch

    device = torch.device(device)
    find, outline = _detector(models.dino, device), _outliner(models.sam, device)
    masks = np.zeros((len(images), MAP, MAP), bool)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        boxes = find(image, class_words(classes[label]))
        if len(boxes):
            masks[row] = outline(image, boxes)
        progress(row + 1, len(images))
    return masks


def _detector(folder: Path, device: "torch.device") -> "Callable[[Images, str], torch.Tensor]":
    """(image [S, S, 3], words) → boxes [k, 4] in 0 … 1: left, top, right, bottom."""
    import torch
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    what = f"foreground: the Grounding DINO {folder.name}"
    processor = opened(
        what, lambda: AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    )
    processor.image_processor = image_processor(what, folder)
    model = complete_model(what, AutoModelForZeroShotObjectDetection, folder, torch.float32, device)

    @torch.no_grad()
    def find(image: Pixels, words: str) -> torch.Tensor:
        # as in its training, a full stop ends a phrase
        inputs = processor(images=Image.fromarray(image), text=f"{words}.", return_tensors="pt").to(device)
        outputs = model(**inputs)
        scores = outputs.logits[0].sigmoid().amax(dim=-1)
        order = scores.argsort(descending=True)[:MOST]
        centres, sizes = outputs.pred_boxes[0, order[scores[order] > FOUND]].split(2, dim=-1)
        return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=-1).clamp(0, 1)

    return find


def _outliner(folder: Path, device: "torch.device") -> "Callable[[Images, torch.Tensor], NDArray[np.bool_]]":
    """(image [S, S, 3], boxes [k, 4] in 0 … 1) → mask [MAP, MAP] of all of them."""
    import torch
    from torch.nn import functional as F
    from transformers import Sam2Model
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    what = f"foreground: the SAM 2 {folder.name}"
    model = complete_model(what, Sam2Model, folder, torch.float32, device)
    sides: Any = model.config.prompt_encoder_config.image_size
    side = int(sides if isinstance(sides, int) else sides[0])
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))

    @torch.no_grad()
    def outline(image: Pixels, boxes: torch.Tensor) -> NDArray[np.bool_]:
        # as in SAM 2's own image processor, which needs torchvision
        square = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
        pixels = (torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255 - mean) / deviation
        logits = model(
            pixel_values=pixels[None].to(device), input_boxes=(boxes * side)[None], multimask_output=False
        ).pred_masks[0, :, 0]
        union = (logits > 0).any(dim=0).float()
        mask: NDArray[np.bool_] = (F.adaptive_avg_pool2d(union[None], MAP)[0] >= 0.5).cpu().numpy()
        return mask

    return outline

"""A tiny base, drawn scenes and a run made from them: small enough for tests, built and read by the true code."""

import tempfile
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dpd_runtime import embedded_bundle, load_bundle
from dpd_train.attributes import VOCABULARY
from dpd_train.bases import Base, build_tokenizer, load_tokenizer, nano_scheduler, save_base
from dpd_train.captions import CaptionTable
from dpd_train.compute import one_thread
from dpd_train.config import TrainConfig
from dpd_train.denoiser import LatentData
from dpd_train.drawn_scenes import write_scenes
from dpd_train.train import train

SIDE = 32
CODES = 11
CONFIG = TrainConfig(
    ipc=3,
    k_min=2,
    steps=4,
    batch=4,
    peak_rate=1e-4,
    teacher_steps=20,
    latent_classifier_steps=20,
    val_per_class=2,
    resolution=SIDE,
    prototypes="pooled",
    tune_vae=False,
)


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """The embedded bundle's, because learning merges breaks ties at random."""
    build_tokenizer(VOCABULARY, folder)
    files = load_bundle(embedded_bundle()).files
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes(bytes(files[f"tokenizer/{name}"]))
    return load_tokenizer(folder)


def tiny_base(folder: Path, seed: int = 0, prediction_type: str = "v_prediction") -> Path:
    """A random base of some ten thousand parameters that makes 32-pixel images."""
    _write(folder, _tiny_base(seed, prediction_type))
    torch.manual_seed(seed)  # whether it was drawn now or before
    return folder / "base"


@cache
def _tiny_base(seed: int, prediction_type: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _make_tiny_base(Path(folder), seed, prediction_type)
        return _read(Path(folder))


def _make_tiny_base(folder: Path, seed: int, prediction_type: str) -> None:
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(folder / "words")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
        sample_size=SIDE,
        scaling_factor=0.7,
    )
    unet = UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = nano_scheduler()
    scheduler.register_to_config(prediction_type=prediction_type)
    base = Base(vae.eval(), unet.eval(), text_encoder.eval(), tokenizer, scheduler)
    save_base(base, folder / "base", folder / "words")


def drawn_scenes(folder: Path, per_class: int = 10, seed: int = 0) -> Path:
    _write(folder, _drawn_scenes(per_class, seed))
    return folder


@cache
def _drawn_scenes(per_class: int, seed: int) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), per_class=per_class, seed=seed, resolution=SIDE)
        return _read(Path(folder))


BAND_NAMES = {1: ("VV",), 4: ("B2", "B3", "B4", "B8"), 13: tuple(f"B{i}" for i in range(1, 14))}


def scenes_of_bands(folder: Path, count: int, per_class: int = 24) -> Path:
    """Drawn scenes as GeoTIFF: reflectance in uint16, or for one band backscatter in float32. Needs rasterio."""
    import rasterio

    for name, content in _drawn_scenes(per_class, 0).items():
        rgb = np.asarray(Image.open(BytesIO(content)).convert("RGB"), np.float64) / 255
        mixed = np.stack([rgb[..., i % 3] ** (1 + i / 8) for i in range(count)])
        values = (500 + 9000 * mixed).astype(np.uint16) if count > 1 else (10 ** (3 * mixed - 2.5)).astype(np.float32)
        target = (folder / name).with_suffix(".tif")
        target.parent.mkdir(parents=True, exist_ok=True)
        shape = {"height": SIDE, "width": SIDE, "count": count, "dtype": values.dtype}
        with rasterio.open(target, "w", driver="GTiff", **shape) as file:
            file.write(values)
            file.descriptions = BAND_NAMES[count]
    return folder


def _read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def tiny_run(folder: Path) -> Path:
    """A run directory that `train` left, the same each time."""
    with one_thread():
        config = replace(CONFIG, base=str(tiny_base(folder)))
        train(drawn_scenes(folder / "scenes"), folder / "run", config, cache=folder / "cache")
    return folder / "run"


def tiny_export(run: Path, out: Path, **options: Any) -> None:
    """Export a tiny run: a file if `out` ends with .dpd, else a folder. Needs what dpd_export needs."""
    from dpd_export import ExportOptions, export_run

    with one_thread():
        licences = {"data_licence": "drawn | by us", "base_licence": "Apache-2.0"}
        export_run(run, out, ExportOptions(name="tiny", **licences, **options))


def tiny_matched(folder: Path) -> None:
    """Write scenes, a run with CODES matched codes of each class, and its float32 bundles whole.dpd and codes.dpd."""
    from dpd_export import ExportOptions, export_run

    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpd_train.matching.VIEWS", 100)
        few = {"k_min": 15, "ipc": CODES, "steps": 1, "watcher_steps": 2, "matching_steps": 2}
        config = replace(CONFIG, base=str(tiny_base(folder)), prototypes="matched", **few)
        train(drawn_scenes(folder / "scenes", per_class=26), folder / "run", config, cache=folder / "cache")
        for name, codes_only in (("whole", False), ("codes", True)):
            options = ExportOptions(name=name, precision="fp32", codes_only=codes_only)
            export_run(folder / "run", folder / f"{name}.dpd", options)


def latent_data() -> LatentData:
    """Six random latents of two classes with random captions."""
    generator = torch.Generator().manual_seed(3)
    captions = CaptionTable(
        template=torch.randint(100, (2, 32), generator=generator),
        described=torch.randint(100, (2, 6, 32), generator=generator),
        empty=torch.zeros(32, dtype=torch.int64),
    )
    return LatentData(torch.randn(6, 4, 8, 8, generator=generator), torch.tensor([0, 1] * 3), captions)

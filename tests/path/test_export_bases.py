"""Bases of the Stable Diffusion family: what `dpd train` accepts is exported, also in true half precision."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("torch")
from dpd_export import ExportOptions, export_run
from dpd_export.reference import extent_of
from dpd_runtime import generate, load_bundle
from dpd_runtime.generation import resolve_sampler
from dpd_runtime.sampler import DEFAULT_SAMPLER, fitted
from dpd_train.bases import load_base
from dpd_train.networks import ResNet, latent_classifier_shape, save_classifier, teacher_shape
from tests.sd_like import sd_like

CLASSES, LATENT = ("Forest", "River"), (4, 4, 4)


def sd_run(folder: Path, version: int, prototypes: int, **unet: object) -> Path:
    """What a training of no steps leaves, with `prototypes` random prototypes for each class."""
    run = folder / "run"
    sd_like(run / "pipeline", version=version, **unet)
    save_classifier(ResNet(teacher_shape(len(CLASSES))), run / "classifier")
    save_classifier(ResNet(latent_classifier_shape(len(CLASSES), LATENT[0])), run / "latent_classifier")
    latents = np.random.default_rng(0).normal(size=(len(CLASSES), prototypes, *LATENT)).astype(np.float32)
    save_file({f"class.{i}": x for i, x in enumerate(latents) if prototypes}, run / "prototypes.safetensors")
    counts = [10] * prototypes
    classes = [
        {"name": name, "prompt_rows": [row] * max(1, prototypes), "prototype_counts": counts}
        for row, name in enumerate(CLASSES)
    ]
    prompts = [f"a satellite image of {name.lower()}" for name in CLASSES]
    kind = "centroid" if prototypes else "none"
    table = {"classes": classes, "prompts": prompts, "prototype_kind": kind, "private": False}
    (run / "classes.json").write_text(json.dumps(table))
    config = {"base": "random", "steps": 0, "batch": 1, "teacher_steps": 1, "latent_classifier_steps": 1, "seed": 0}
    data = {"images": 20, "classes": dict.fromkeys(CLASSES, 10), "sha256": "0" * 64, "val_per_class": None}
    record = {"config": config, "data": data, "metrics": {"denoiser": []}, "versions": {}, "seconds": 0}
    (run / "run.json").write_text(json.dumps(record))
    return run


@pytest.mark.full
@pytest.mark.parametrize(
    ("version", "prototypes", "unet"),
    [
        pytest.param(1, 0, {}, id="sd1"),
        pytest.param(2, 2, {"upcast_attention": True}, id="sd2"),
    ],
)
def test_both_kinds_are_exported(tmp_path: Path, version: int, prototypes: int, unet: dict[str, object]) -> None:
    """ε and v, convolutions and linear layers around attention, 77 tokens, leading timesteps; with and without
    prototypes. The limits of docs/reference/graphs.md are checked inside.
    """
    options = ExportOptions(allow_weak_prototypes=True)  # two means of few random latents
    result = export_run(sd_run(tmp_path, version, prototypes, **unet), tmp_path / "site.dpd", options)
    assert result["parity"]["end_to_end_psnr_db"] >= 40
    assert result["parity"]["end_to_end_images"] == 20
    bundle = load_bundle(tmp_path / "site.dpd")
    assert bundle.manifest.prediction_type == ("epsilon" if version == 1 else "v_prediction")
    assert bundle.prompt_embeddings.shape[1:] == (77, 16)
    assert [len(scene.prototypes) for scene in bundle.classes] == [prototypes] * 2
    sampler = resolve_sampler(bundle.manifest.sampler, steps=2, candidates=1)
    images = list(generate(bundle, ipc=2, sampler=sampler))
    assert {image.pixels.shape for image in images} == {(32, 32, 3)}


def test_large_bases_are_compared_in_few_steps_and_sampled_in_small_batches(tmp_path: Path) -> None:
    """A step's cost is parameters times positions."""
    base = load_base(str(sd_like(tmp_path / "base")))
    small = extent_of(base, 45, DEFAULT_SAMPLER)
    assert (small.blocks, small.golden, small.steps) == (10, 4, DEFAULT_SAMPLER.steps)
    base.unet.register_to_config(sample_size=4096)
    large = extent_of(base, 45, DEFAULT_SAMPLER)
    assert (large.blocks, large.golden, large.steps) == (0, 1, 4)
    assert [fitted(DEFAULT_SAMPLER, side).compute_batch for side in (16, 32, 64, 96, 128)] == [10, 10, 2, 1, 1]

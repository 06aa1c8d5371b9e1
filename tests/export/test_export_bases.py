"""Bases of the Stable Diffusion family: what `dpd train` accepts is exported, also in true half precision."""

from pathlib import Path

import pytest

from benchmarks.export_sd import write_rest
from dpd_export import ExportOptions, export_run
from dpd_export.reference.reference import extent_of
from dpd_runtime import generate, load_bundle
from dpd_runtime.generation.generate import resolve_sampler
from dpd_runtime.sampling.sampler import DEFAULT_SAMPLER, fitted
from dpd_train.bases.base import load_base
from tests.train.sd_like import sd_like


def sd_run(folder: Path, version: int, prototypes: int, **unet: object) -> Path:
    sd_like(folder / "run" / "pipeline", version=version, **unet)
    write_rest(folder / "run", 4, prototypes)
    return folder / "run"


@pytest.mark.slow
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

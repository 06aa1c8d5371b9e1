"""Measure the export of a base as large as Stable Diffusion 2.1 with random weights: memory, time, one UNet call.

    python benchmarks/export_sd.py FOLDER                 865 M parameters: 12 GB of disk, 20 GB of memory, half an hour
    python benchmarks/export_sd.py FOLDER --small         the same shape with few channels, to try the script

FOLDER is created and kept: run/ as `dpd train` would have left it, and site/, the bundle. Prints one JSON object.
Random weights do not show whether trained weights stay within half precision; every real export checks that.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TOKENS = 77
CLASSES = ("Forest", "River")
UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "layers_per_block": 2,
    "use_linear_projection": True,
}
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512}
TEXT = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
SMALL_UNET = {
    "sample_size": 16,
    "block_out_channels": (32, 32, 64, 64),
    "attention_head_dim": (2, 2, 4, 4),
    "cross_attention_dim": 64,
}
SMALL_VAE = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "sample_size": 128}
SMALL_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.35.0",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def build(run: Path, small: bool) -> None:
    """Write the run directory with float16 weights, one part in memory at a time."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from dpd_train.bases.tokenizer import build_tokenizer
    from dpd_train.captions.attributes import VOCABULARY

    torch.manual_seed(0)
    pipeline = run / "pipeline"
    tokenizer = build_tokenizer(VOCABULARY, pipeline / "tokenizer")
    settings = pipeline / "tokenizer" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": TOKENS}))
    UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        **(UNET | (SMALL_UNET if small else {})),
    ).half().save_pretrained(pipeline / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        scaling_factor=0.18215,
        **(VAE | (SMALL_VAE if small else {})),
    ).half().save_pretrained(pipeline / "vae")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            max_position_embeddings=TOKENS,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **(SMALL_TEXT if small else TEXT),
        )
    ).half().save_pretrained(pipeline / "text_encoder")
    (pipeline / "scheduler").mkdir()
    (pipeline / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (pipeline / "model_index.json").write_text(json.dumps(INDEX))
    write_rest(run, (SMALL_UNET if small else UNET)["sample_size"])


def write_rest(run: Path, side: int, prototypes: int = 1) -> None:
    """Write what a trained run has beside its pipeline, with `prototypes` prototypes per class."""
    import numpy as np
    from safetensors.numpy import save_file

    from dpd_train.classifiers.network import ResNet, latent_classifier_shape, save_classifier, teacher_shape

    save_classifier(ResNet(teacher_shape(len(CLASSES))), run / "classifier")
    save_classifier(ResNet(latent_classifier_shape(len(CLASSES), 4)), run / "latent_classifier")
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(len(CLASSES), prototypes, 4, side, side)).astype(np.float32)
    save_file({f"class.{i}": x for i, x in enumerate(latents) if prototypes}, run / "prototypes.safetensors")
    prompts = [f"a satellite image of {name.lower()}" for name in CLASSES]
    rows = [
        {"prompt_rows": [i] * max(1, prototypes), "prototype_counts": [10] * prototypes} for i in range(len(CLASSES))
    ]
    classes = [{"name": name, **row} for name, row in zip(CLASSES, rows, strict=True)]
    kind = "centroid" if prototypes else "none"
    table = {"classes": classes, "prompts": prompts, "prototype_kind": kind, "private": False}
    (run / "classes.json").write_text(json.dumps(table))
    config = {"base": "random", "steps": 0, "batch": 1, "teacher_steps": 0, "latent_classifier_steps": 0, "seed": 0}
    data = {"images": 20, "classes": dict.fromkeys(CLASSES, 10), "sha256": "0" * 64, "val_per_class": None}
    record = {"config": config, "data": data, "metrics": {"denoiser": []}, "versions": {}, "seconds": 0}
    (run / "run.json").write_text(json.dumps(record))


def child(*arguments: str) -> tuple[str, dict[str, float]]:
    """Run Python in a new process; return its standard output and cost."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # RUSAGE_CHILDREN would mix all children
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cost = {
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gb": peak / 1e9,
    }
    return said, {name: round(value, 2) for name, value in cost.items()}


def compare(run: Path, site: Path) -> dict[str, Any]:
    """Compare one UNet call of the bundle with PyTorch in float32, on inputs that the export did not use."""
    import numpy as np
    import torch

    from dpd_runtime import load_bundle
    from dpd_runtime.engines.engine import Provider
    from dpd_train.bases.base import load_base

    rng = np.random.default_rng(1)
    bundle = load_bundle(site)
    shape = bundle.manifest.latent_shape
    latents = rng.normal(size=(1, *shape)).astype(np.float32)
    prompts = bundle.prompt_embeddings[:1]
    started = time.monotonic()
    engine = bundle.engine("unet/model.onnx", Provider("cpu", ""))
    loaded = time.monotonic()
    found = engine.run(sample=latents, timestep=np.array(321, np.int64), encoder_hidden_states=prompts)
    ran = time.monotonic()
    del engine, bundle
    unet = load_base(str(run / "pipeline")).unet
    began = time.monotonic()
    with torch.no_grad():
        expected = unet(torch.from_numpy(latents), torch.tensor(321), torch.from_numpy(prompts)).sample.numpy()
    return {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "onnxruntime_load_seconds": round(loaded - started, 1),
        "onnxruntime_call_seconds": round(ran - loaded, 1),
        "pytorch_call_seconds": round(time.monotonic() - began, 1),
        "difference_of_scale": float(np.abs(found - expected).max() / np.abs(expected).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--only", choices=("build", "compare"), help="run one step in this process")
    chosen = parser.parse_args()
    run, site = chosen.folder / "run", chosen.folder / "site"
    if chosen.only == "build":
        return build(run, chosen.small)
    if chosen.only == "compare":
        print(json.dumps(compare(run, site)))
        return None
    if chosen.folder.exists():
        raise SystemExit(f"{chosen.folder} exists; give a new folder")
    here = [__file__, str(chosen.folder), *(["--small"] if chosen.small else [])]
    child(*here, "--only", "build")
    export = ("-m", "dpd_cli", "export", str(run), "--out", str(site), "--precision", chosen.precision, "--json")
    said, export_cost = child(*export)
    exported = json.loads(said)
    compared, compare_cost = child(*here, "--only", "compare")
    result = {
        "precision": chosen.precision,
        "export": export_cost,
        "compare": compare_cost,
        "bundle_bytes": exported["bytes"],
        "unet": json.loads(compared),
        "graphs": exported["graphs"],
        "parity": exported["parity"],
    }
    print(json.dumps(result, indent=1))
    return None


if __name__ == "__main__":
    main()

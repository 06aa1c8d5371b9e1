"""`dpd train`: scenes → a run directory."""

from pathlib import Path
from typing import Annotated

import typer


def train_command(
    data: Annotated[Path, typer.Argument(help="Class-per-folder tree, with train/ val/ test/ inside or not.")],
    out: Annotated[Path, typer.Option(help="The run directory; must be new, or unfinished with --resume.")],
    base: Annotated[str, typer.Option(help="nano, or a folder in diffusers' layout.")] = "nano",
    resolution: Annotated[int | None, typer.Option(help="Accept shrinking larger images to the base's size.")] = None,
    ipc: Annotated[int, typer.Option(help="At most this many prototypes per class.")] = 50,
    steps: Annotated[int, typer.Option(help="Fine-tuning steps; 0 keeps the base as it is.")] = 500,
    batch: Annotated[int, typer.Option(help="Images in one step.")] = 32,
    prototypes: Annotated[str, typer.Option(help="centroid or none.")] = "centroid",
    k_min: Annotated[int, typer.Option(help="Fewest images behind one prototype.")] = 10,
    val_per_class: Annotated[int | None, typer.Option(help="Validation images per class (DESIGN: n // 10).")] = None,
    teacher_steps: Annotated[int, typer.Option(help="Longest training of the teacher.")] = 1200,
    latent_classifier_steps: Annotated[int, typer.Option(help="Longest training of the judge on latents.")] = 800,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    keep_checkpoints: Annotated[bool, typer.Option("--keep-checkpoints")] = False,
    cache_dir: Annotated[Path | None, typer.Option(help="Where latents of real images are kept (private).")] = None,
    threads: Annotated[int | None, typer.Option(help="PyTorch threads; all cores by default.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fine-tune a latent diffusion model on labelled scenes, with teacher, prototypes and prompts.

    Examples: dpd train scenes/ --out run · dpd train eurosat/ --out run --val-per-class 100 --steps 2000
    """
    import logging
    import sys

    from dpd_cli.terminal import print_json, stage_progress
    from dpd_cli.torch_half import require_torch
    from dpd_runtime.errors import InputError

    least = {"ipc": 1, "steps": 0, "batch": 1, "k-min": 2, "teacher-steps": 1, "latent-classifier-steps": 1, "seed": 0}
    given = (ipc, steps, batch, k_min, teacher_steps, latent_classifier_steps, seed)
    for (name, bound), value in zip(least.items(), given, strict=True):
        if value < bound:
            raise InputError(f"--{name} is {value}: it must be at least {bound}")
    if seed >= 2**32:
        raise InputError(f"--seed is {seed}: it must be below 2**32")
    if prototypes not in ("centroid", "none"):
        raise InputError(f"--prototypes {prototypes!r} is not in this version: use centroid or none")
    require_torch()
    import torch

    from dpd_train.train import TrainConfig, train

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    if threads:
        torch.set_num_threads(threads)
    config = TrainConfig(
        base=base,
        resolution=resolution,
        ipc=ipc,
        steps=steps,
        batch=batch,
        teacher_steps=teacher_steps,
        latent_classifier_steps=latent_classifier_steps,
        prototypes=prototypes,  # type: ignore[arg-type]
        k_min=k_min,
        val_per_class=val_per_class,
        seed=seed,
    )
    with stage_progress() as progress:
        run = train(
            data,
            out,
            config,
            resume=resume,
            cache=cache_dir,
            keep_checkpoints=keep_checkpoints,
            progress=progress,
        )
    if json_output:
        print_json({"out": str(out), **run})
        return
    metrics = run["metrics"]
    lost = 100 * (metrics["teacher_oa_on_the_same_images"] - metrics["teacher_oa_on_reconstructions"])
    print(f"run            {out}/ in {run['seconds']:.0f} s; look at {out}/samples/final.png")
    print("prototypes     " + ", ".join(f"{name} {count}" for name, count in run["prototypes"].items()))
    print(f"teacher        {100 * metrics['teacher_oa']:.1f} % on validation")
    print(f"judge          {100 * metrics['latent_classifier_oa']:.1f} % on validation latents")
    print(f"VAE            {metrics['vae']['psnr']:.1f} dB; the teacher loses {lost:.1f} points on reconstructions")
    if run["rejected"]:
        print(f"left out       {run['rejected']} files; reasons in {out}/private/quarantine.csv")
    if lost > 5:
        print("warning        the VAE costs more than 5 points: take a base that knows such images", file=sys.stderr)
    print(f"next           dpd export {out} --out {out}.dpd")

"""`dpd train`: scenes → a run directory."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

FEDERATED = ("federated", "rounds", "clients", "classes", "tls_root", "tls_certificate", "tls_key")


def train_command(
    out: Annotated[Path, typer.Option(help="The run directory; must be new, or unfinished with --resume.")],
    data: Annotated[
        Path | None,
        typer.Argument(help="Class-per-folder tree, with train/ val/ test/ inside or not; or a .csv or .parquet list."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="quick, standard or paper; other options win over it.")] = None,
    base: Annotated[str | None, typer.Option(help="nano, a diffusers folder, or a hub id (default: nano)")] = None,
    resolution: Annotated[int | None, typer.Option(help="Image side in pixels (default: the base's)")] = None,
    ipc: Annotated[int | None, typer.Option(help="At most this many prototypes per class (default: 50)")] = None,
    steps: Annotated[int | None, typer.Option(help="Fine-tuning steps; 0: the base as it is (default: 500)")] = None,
    batch: Annotated[int | None, typer.Option(help="Images in one step (default: 32)")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="At most so many of them at once (default: all)")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option(help="Less memory, a third more time: activations are computed twice.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="bf16, fp16 (CUDA) or fp32 (default: bf16)")] = None,
    peak_rate: Annotated[float | None, typer.Option(help="Learning rate after the warm-up (default: 1e-4)")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps of warm-up (default: a fifth, at most 100)")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="decay: the rate falls over the last 30 % of the steps; or constant (decay)")
    ] = None,
    tune: Annotated[str | None, typer.Option(help="full or lora (default: lora from 100 M parameters on)")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank, and alpha, of the adapters (default: 4)")] = None,
    tune_vae: Annotated[bool | None, typer.Option(help="Train the VAE's decoder on the images first.")] = None,
    vae_steps: Annotated[int | None, typer.Option(help="Steps of that (default: 800)")] = None,
    perceptual_steps: Annotated[
        int | None, typer.Option(help="Steps of each network that --tune-vae is judged by (default: 800)")
    ] = None,
    lambda_cls: Annotated[float | None, typer.Option(help="Weight of the classification consistency (0)")] = None,
    judge_on: Annotated[str | None, typer.Option(help="Its judge sees latents or pixels (default: latents)")] = None,
    prototypes: Annotated[
        str | None, typer.Option(help="centroid, pooled, matched, medoid or none (default: centroid)")
    ] = None,
    prototype_noise: Annotated[
        float | None, typer.Option(help="Gaussian noise on each mean, in deviations of a latent's values (default: 0)")
    ] = None,
    matching_steps: Annotated[
        int | None, typer.Option(help="Steps of each ten matched prototypes a class (default: 300)")
    ] = None,
    k_min: Annotated[int | None, typer.Option(help="Fewest images behind one prototype (default: 10)")] = None,
    captioner: Annotated[str | None, typer.Option(help="attributes, clip:ID or vlm:ID (default: attributes)")] = None,
    bands: Annotated[str | None, typer.Option(help="Bands for red, green, blue, such as 4,3,2; 1-based.")] = None,
    stretch: Annotated[
        str | None, typer.Option(help="Percentiles such as 2,98, or pixel values such as 0:3000, for black and white.")
    ] = None,
    crop: Annotated[
        str | None, typer.Option(help="foreground: images larger than the model's are cut to small objects (none)")
    ] = None,
    segmenter: Annotated[
        str | None, typer.Option(help="What --crop finds them by: GROUNDING_DINO,SAM2 (default: saliency)")
    ] = None,
    val_per_class: Annotated[int | None, typer.Option(help="Validation images per class (default: n // 10)")] = None,
    prune: Annotated[
        str | None, typer.Option(help="tdds:0.7 leaves out 70 % of each class, those that teach least (default: none)")
    ] = None,
    grad_compression: Annotated[
        str | None, typer.Option(help="rs-dgc:50: processes send 50 times fewer bytes of gradients (default: all)")
    ] = None,
    keep_near_duplicates: Annotated[
        bool | None, typer.Option("--keep-near-duplicates", help="Train on near duplicates of other images, too.")
    ] = None,
    teacher_steps: Annotated[int | None, typer.Option(help="Longest training of the teacher (default: 1200)")] = None,
    latent_classifier_steps: Annotated[
        int | None, typer.Option(help="Longest training of the judge on latents (default: 800)")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every draw (default: 0)")] = None,
    federated: Annotated[
        tuple[str, str] | None,
        typer.Option(help="server or client, and HOST:PORT: tune with other sites, no image leaves any."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Server: how often updates are averaged (default: 10)")] = None,
    clients: Annotated[int | None, typer.Option(help="Server: sites that take part (default: 2)")] = None,
    classes: Annotated[str | None, typer.Option(help="Server: what classes may be called, as in Forest,River")] = None,
    tls_root: Annotated[Path | None, typer.Option(help="Certificate of who signed the server's, in PEM.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Server: its certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Server: the key of that.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    max_minutes: Annotated[float | None, typer.Option(help="Stop at a checkpoint after so many minutes.")] = None,
    keep_checkpoints: Annotated[bool, typer.Option("--keep-checkpoints")] = False,
    tracker: Annotated[str | None, typer.Option(help="Figures by step to tensorboard, wandb, ... (none)")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Where latents and captions are kept (private).")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: CUDA where it works.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="PyTorch threads; all cores by default.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fine-tune a latent diffusion model on labelled scenes, with teacher, prototypes and prompts.

    Examples: dpd train scenes/ --out run · dpd train eurosat/ --out run --val-per-class 100 --steps 2000
    · dpd train ucmerced/ --out run --preset standard --max-minutes 60
    · accelerate launch --multi_gpu -m dpd_cli train ucmerced/ --out run --preset standard
    · dpd train --federated server 0.0.0.0:8080 --clients 4 --classes Forest,River --out common
    · dpd train scenes/ --federated client 10.0.0.1:8080 --out run
    """
    given = {name: value for name, value in locals().items() if name in _fields()}
    shared = {name: value for name, value in locals().items() if name in FEDERATED}

    import logging

    from dpd_cli.commands.torch_half import require_torch
    from dpd_cli.terminal import print_json, stage_progress
    from dpd_runtime.errors import DpdError, InputError
    from dpd_train.config import resolve
    from dpd_train.federated.settings import check_options, federated_part

    with _said_once(DpdError):
        config, part = resolve(preset, given), federated_part(shared)
        named = [name for name, value in given.items() if value is not None]
        if part:
            if preset or max_minutes is not None:
                raise InputError("--federated goes with neither --preset nor --max-minutes: give options one by one")
            places = {
                "resume": resume,
                "keep_checkpoints": keep_checkpoints,
                "tracker": tracker,
                "cache_dir": cache_dir,
            }
            named += [name for name, value in places.items() if value]
            check_options(part, named, config, data is not None)
        elif data is None:
            raise InputError("DATA is missing: give a folder that holds one folder of images per class")
        if max_minutes is not None and not max_minutes >= 0:
            raise InputError(f"--max-minutes is {max_minutes}: give 0 or more")
        require_torch()
    import torch

    from dpd_train.compute.device import use_device
    from dpd_train.compute.distributed import PeerError, joined, started_as
    from dpd_train.train import silent, train

    level = logging.ERROR if started_as() else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(message)s")
    if threads:
        torch.set_num_threads(threads)
    with _said_once(DpdError):
        place = use_device(device)
        if part:
            from dpd_train.federated.stage import require_flower, serve_without_images

            require_flower()
    if part and data is None:
        with stage_progress() as stages:
            run = serve_without_images(out, config, part, stages, place)
        _served(out, run, json_output)
        return
    assert data is not None
    with _said_once(PeerError), joined(place) as team, stage_progress() if team.leads else nullcontext() as stages:
        run = train(
            data,
            out,
            config,
            resume=resume,
            cache=cache_dir,
            keep_checkpoints=keep_checkpoints,
            device=place,
            max_minutes=max_minutes,
            progress=stages or silent,
            team=team,
            tracker=tracker,
            federated=part,
        )
    if not team.leads:
        return
    if json_output:
        print_json({"out": str(out), **run})
    elif "unfinished" in run:
        left = run["unfinished"]
        print(f"time is up     {left['stage']} stands at step {left['step']} of {left['steps']}")
        print("next           the same command with --resume goes on from there")
    else:
        _summary(out, run)


def _served(out: Path, run: dict[str, Any], json_output: bool) -> None:
    """What a server without images has."""
    if json_output:
        from dpd_cli.terminal import print_json

        print_json({"out": str(out), **run})
        return
    found = run["federated"]
    sent, dense = (found[name] / 1e6 for name in ("sent_bytes", "dense_bytes"))
    done = f"{found['rounds']} rounds of {found['clients']} sites"
    print(f"run            {out}/ after {done}: the tuned base, no classifiers and no prototypes")
    print(f"updates        {sent:.1f} MB came in ({dense:.1f} MB as plain float32)")
    print(f"next           where there are images: dpd train DATA --base {out}/pipeline --steps 0 --out RUN")


@contextmanager
def _said_once(kind: type[Exception]) -> Iterator[None]:
    """Of several processes that meet the same error the first one says it; the others leave."""
    try:
        yield
    except kind as error:
        if os.environ.get("RANK", "0") != "0":
            sys.exit(getattr(error, "exit_code", 1))
        raise


def _fields() -> set[str]:
    """Options that decide a run; the others say where and how it goes."""
    from dataclasses import fields

    from dpd_train.config import TrainConfig

    return {field.name for field in fields(TrainConfig)}


def _summary(out: Path, run: dict[str, Any]) -> None:
    metrics = run["metrics"]
    lost = 100 * (metrics["teacher_oa_on_the_same_images"] - metrics["teacher_oa_on_reconstructions"])
    print(f"run            {out}/ in {run['seconds']:.0f} s; look at {out}/samples/final.png")
    print("prototypes     " + ", ".join(f"{name} {count}" for name, count in run["prototypes"].items()))
    if run["prototypes_too_near"]:
        fate = "back at start  " if run["config"]["prototypes"] == "matched" else "dropped        "
        print(f"{fate}{run['prototypes_too_near']} prototypes that decoded too near to a training image")
    if crop := run.get("crop"):
        print(f"cut            {crop['cut']} of {crop['images']} training images; look at {out}/private/decisions.png")
        print("warning        dpd audit compares with whole images and does not see a copied patch", file=sys.stderr)
    if noise := run.get("prototype_privacy"):
        print(f"noise          epsilon {noise['epsilon']:.3g} at delta {noise['delta']:g}, given the clustering")
    if run.get("private_prototypes"):
        print("private        the prototypes are latents of real images: dpd export refuses them", file=sys.stderr)
    print(f"teacher        {100 * metrics['teacher_oa']:.1f} % on validation")
    print(f"judge          {100 * metrics['latent_classifier_oa']:.1f} % on validation latents")
    print(f"VAE            {metrics['vae']['psnr']:.1f} dB; the teacher loses {lost:.1f} points on reconstructions")
    if run["rejected"]:
        print(f"left out       {run['rejected']} files; reasons in {out}/private/quarantine.csv")
    if run["near_duplicates"]:
        print(f"duplicates     {run['near_duplicates']} images left out as near another one; they stand there too")
    if lost > 5:
        print("warning        the VAE costs more than 5 points: take a base that knows such images", file=sys.stderr)
    print(f"next           dpd export {out} --out {out}.dpd")

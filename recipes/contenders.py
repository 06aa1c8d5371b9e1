"""Run one contender of recipes/generate.py in a process of its own.

It may run in another environment: only the contender `dpd` imports our modules. Reads one JSON line per job from stdin,
{"batch": n}, and answers with its seconds. With --save it makes ten images in one batch and writes them as PNG before
its first answer.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

PROMPT = "a satellite image of forest"


@dataclass(frozen=True)
class Ready:
    """A loaded contender.

    Args:
        first: evaluates the UNet once.
        make: makes ten images in batches of the given size.
        save: makes ten images in one batch and writes them as PNG into an empty folder.
    """

    first: Callable[[], None]
    make: Callable[[int], None]
    save: Callable[[Path], None]
    versions: dict[str, str]


def dpd(args: argparse.Namespace) -> Ready:
    import numpy as np

    import dpd_runtime
    from dpd_runtime.engines import Provider
    from dpd_runtime.generation import BlockComputer, Generation, resolve_sampler
    from dpd_runtime.networks import Networks, load_networks
    from dpd_runtime.sampler import BlockGuidance

    bundle = dpd_runtime.load_bundle(args.bundle)
    if not bundle.trusted:
        raise SystemExit(f"{args.bundle}: has no trusted signature, so a process that is not measured runs its graphs")
    sampler = resolve_sampler(bundle.manifest.sampler, steps=args.steps, solver="dpm++2m", candidates=1)
    sampler = replace(sampler, guidance=(BlockGuidance(guidance_scale=args.guidance),))  # at every step, as theirs

    @cache
    def networks(batch: int) -> Networks:
        """Networks of a bundle with this batch, loaded in the warm-up round."""
        manifest = replace(bundle.manifest, sampler=replace(sampler, compute_batch=batch))
        return load_networks(replace(bundle, manifest=manifest), Provider("cpu", "asked for"), args.threads)

    def first() -> None:
        noise = np.zeros((2, *bundle.manifest.latent_shape), np.float32)
        prompts = np.repeat(bundle.empty_embedding[None], 2, axis=0)
        unet = networks(sampler.compute_batch).unet
        unet.run(sample=noise, timestep=np.array(999, np.int64), encoder_hidden_states=prompts)

    def make(batch: int) -> None:
        block = Generation(bundle, ipc=10, sampler=sampler, provider="cpu").blocks()[0]
        computer = BlockComputer(bundle, replace(sampler, compute_batch=batch), networks(batch), 0)
        computer.compute(block)

    def save(folder: Path) -> None:
        names = (bundle.classes[0].name,)
        generation = Generation(bundle, ipc=10, classes=names, sampler=sampler, provider="cpu", threads=args.threads)
        dpd_runtime.write_set(generation, folder)

    return Ready(first, make, save, found_versions("numpy", "onnxruntime"))


def diffusers(args: argparse.Namespace, compiled: bool = False) -> Ready:
    import torch
    from diffusers import StableDiffusionPipeline

    torch.set_num_threads(args.threads)
    pipeline = StableDiffusionPipeline.from_pretrained(args.pipeline)
    if compiled:
        pipeline.unet = torch.compile(pipeline.unet)
    return of_pipeline(args, pipeline, torch, found_versions("torch", "diffusers", "transformers"))


def torch_compile(args: argparse.Namespace) -> Ready:
    return diffusers(args, compiled=True)


def optimum(args: argparse.Namespace) -> Ready:
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    torch.set_num_threads(args.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = args.threads, 1
    pipeline = ORTStableDiffusionPipeline.from_pretrained(
        args.bundle, use_io_binding=False, provider="CPUExecutionProvider", session_options=options
    )
    versions = found_versions("torch", "diffusers", "transformers", "optimum-onnx", "onnxruntime")
    return of_pipeline(args, pipeline, torch, versions)


def of_pipeline(args: argparse.Namespace, pipeline: Any, torch: Any, versions: dict[str, str]) -> Ready:
    from diffusers import DPMSolverMultistepScheduler

    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)

    def call(batch: int, steps: int, output: str) -> Any:
        return pipeline(
            [PROMPT] * batch,
            num_inference_steps=steps,
            guidance_scale=args.guidance,
            generator=torch.Generator().manual_seed(0),
            output_type=output,
            height=args.side,
            width=args.side,
        ).images

    def make(batch: int) -> None:
        for _ in range(10 // batch):
            call(batch, args.steps, "np")

    def save(folder: Path) -> None:
        for number, image in enumerate(call(10, args.steps, "pil")):
            image.save(folder / f"{number}.png")

    return Ready(lambda: call(1, 1, "latent"), make, save, versions)


def found_versions(*names: str) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in names}


CONTENDERS = {"dpd": dpd, "diffusers": diffusers, "torch.compile": torch_compile, "optimum": optimum}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--bundle", help="a folder for optimum")
    parser.add_argument("--pipeline")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--guidance", type=float, required=True)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--save", type=Path, help="an empty folder: write ten images there instead of one UNet call")
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries goes to stderr

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    ready = CONTENDERS[args.name](args)
    if args.save:
        ready.save(args.save)
    else:
        ready.first()
    answer(versions=ready.versions)
    for line in sys.stdin:
        job = json.loads(line)
        begun = time.perf_counter()
        ready.make(job["batch"])
        answer(
            seconds=time.perf_counter() - begun,
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )


if __name__ == "__main__":
    main()

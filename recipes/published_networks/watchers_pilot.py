"""How many own watchers a set needs once published networks watch, at equal core time (a pilot).

    python watchers_pilot.py EUROSAT/train --arm own7 --minutes 45 --watch W/lite0,W/lite1 --work W

Ten codes of each class are matched from sampled images, which all arms share, by own watchers and the published ones of
--watch. The core time counts the process's own CPU time from before the training of the own watchers on; what training
and statistics leave goes to matching steps.

all      28 own watchers, as a plan that is short of time trains them (the longest 150 steps), and the published ones
own7     seven own ones, one of each shape, of all lengths
none     the published ones alone
With --first N and --then M own watchers match alone for N steps before, and the published ones join for M, where the
rate begins anew; --minutes only names the files then.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from dpd_train import matching
from dpd_train.bases import Base, encode, frozen_decoder, load_base
from dpd_train.captions import embed
from dpd_train.classifiers import ClassifierTraining, labelled, load_pool, train_classifier, train_pool
from dpd_train.matching import (
    Matching,
    Watcher,
    features_of,
    match_codes,
    measure,
    own_watchers,
    seeing,
    seeing_only,
    starting_codes,
    view_seed,
)
from dpd_train.networks import latent_classifier_shape
from dpd_train.published import open_published
from dpd_train.reading import HeldOut
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import open_scenes

SEED, IPC, PER_CLASS, LONGEST = 0, 10, 100, 150
ARMS = {"all": tuple(range(28)), "own7": (3, 6, 11, 14, 17, 23, 26), "none": ()}
CPU = torch.device("cpu")


def start_codes(work: Path, base: Base, train: SceneSet, held: SceneSet) -> torch.Tensor:
    """Sampled images that a latent classifier selects, as a run begins."""
    path = work / "start.safetensors"
    if not path.exists():
        scale = float(base.vae.config.scaling_factor)
        data, validation = (
            (encode(base.vae, part.images) * scale, torch.from_numpy(part.labels)) for part in (train, held)
        )
        shape = latent_classifier_shape(len(train.classes), data[0].shape[1])
        judge = train_classifier(*data, validation, shape, ClassifierTraining(steps=600, seed=SEED + 2)).model.eval()
        texts = [f"a satellite image of {name}" for name in train.classes]
        prompts = embed(base.text_encoder, base.tokenizer, [*texts, ""])
        codes = starting_codes(base, judge, train.classes, prompts, IPC, SEED)
        save_file({"codes": codes.contiguous()}, path)
    return load_file(path)["codes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--arm", choices=ARMS, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="of one core")
    parser.add_argument("--watch", required=True, help="folders, separated by commas")
    parser.add_argument("--decoder", type=Path, help="weights that decoder_pilot.py wrote")
    parser.add_argument("--suffix", default="")
    parser.add_argument(
        "--first", type=int, default=0, help="steps that own watchers alone match before, and --then steps"
    )
    parser.add_argument("--then", type=int, default=0)
    parser.add_argument("--views", type=int, help="behind the statistics, at least, to try the script")
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    matching.VIEWS = args.views or matching.VIEWS
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    scenes = open_scenes(args.data, HeldOut(val_per_class=100, split="names"))
    train, held = scenes.part("train", 64), scenes.part("val", 64)
    base = load_base("nano")
    args.work.mkdir(parents=True, exist_ok=True)
    start = start_codes(args.work, base, train, held)
    if args.decoder:
        base.vae.load_state_dict(base.vae.state_dict() | load_file(args.decoder))
    decode, classes = frozen_decoder(base), len(train.classes)
    pixels, validation = labelled(train), labelled(held)

    began, budget = time.process_time(), 60 * args.minutes
    chosen, label = ARMS[args.arm], f"{args.arm}{args.suffix}-{args.minutes:g}"
    every = own_watchers(classes, SEED, LONGEST)
    plans = [(watcher.shape, watcher.training) for watcher in every]
    folder = args.work / label
    folder.mkdir(exist_ok=True)
    train_pool(folder, "watcher", [plans[i] for i in chosen], pixels, validation, lambda done, total: None)
    trained = time.process_time() - began
    print(f"training {trained:.0f} s", flush=True)
    watchers = []
    for number, network in zip(chosen, load_pool(folder, "watcher", [plans[i][0] for i in chosen]), strict=True):
        statistics = measure(features_of(network), *pixels, classes, view_seed(SEED, number), CPU)
        watchers.append(Watcher(seeing(network, logits=every[number].logits), statistics))
    own = time.process_time() - began - trained
    order = np.random.default_rng(SEED).permutation(len(train.labels))
    rows = np.concatenate([order[train.labels[order] == c][:PER_CLASS] for c in range(classes)])
    for name in args.watch.split(","):
        features = open_published(name).features
        statistics = measure(features, pixels[0][rows], pixels[1][rows], classes, view_seed(SEED, len(watchers)), CPU)
        watchers.append(Watcher(seeing_only(features), statistics, extra=True))
        print(f"statistics of {name}, {time.process_time() - began:.0f} s", flush=True)
    measured = time.process_time() - began - trained - own

    if args.first:
        for steps, of, ending in (
            (args.first, [w for w in watchers if not w.extra], "first"),
            (args.then, watchers, "then"),
        ):
            at = time.process_time()
            state = args.work / f"{label}-{ending}.state"
            start = match_codes(start, decode, of, Matching(steps=steps, seed=SEED), state=state, device=CPU)
            save_file({"codes": start.contiguous()}, args.work / f"{label}-{ending}.codes.safetensors")
            print(f"{ending}: {steps} steps of {(time.process_time() - at) / steps:.1f} s", flush=True)
        return
    at = time.process_time()
    (probe := args.work / f"{label}.probe").unlink(missing_ok=True)
    match_codes(start, decode, watchers, Matching(steps=3, seed=SEED), state=probe, device=CPU)
    a_step = (time.process_time() - at) / 3
    steps = int((budget - (time.process_time() - began)) / a_step)
    print(f"{steps} steps of {a_step:.1f} s", flush=True)
    ends = [time.process_time()]

    def tell(done: int, total: int) -> None:
        ends.append(time.process_time())
        if done % 5 == 0:
            print(f"{label}: step {done} of {total}, {(ends[-1] - ends[0]) / done:.1f} s each", flush=True)

    state = args.work / f"{label}.state"
    codes = match_codes(
        start, decode, watchers, replace(Matching(steps=steps), seed=SEED), tell, state=state, device=CPU
    )
    save_file({"codes": codes.contiguous()}, args.work / f"{label}.codes.safetensors")
    seconds = {"training": trained, "own statistics": own, "published statistics": measured}
    seconds |= {"matching": time.process_time() - ends[0], "all": time.process_time() - began}
    watched = [Path(name).name for name in args.watch.split(",")]
    record = {"arm": args.arm, "watch": ",".join(watched), "own": len(chosen), "steps": steps, "seed": SEED}
    record["core seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    (args.work / f"{label}.json").write_text(json.dumps(record, indent=1))
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()

"""The stage of `dpd train --prune`: training images that teach little are left out of all that follows."""

from dataclasses import replace

import torch
from safetensors.numpy import load_file, save_file

from dpd_train.classifiers.tdds import best_rows, score_images
from dpd_train.config import pruned_share
from dpd_train.images import to_float
from dpd_train.run.stages.tuning import Run


def pruned(run: Run) -> Run:
    """The run on the images which `--prune` keeps. The scores of an earlier session are used again."""
    if run.config.prune is None:
        return run
    path, train = run.state("tdds"), run.scenes.train
    if not path.exists():
        images = to_float(torch.from_numpy(train.images)), torch.from_numpy(train.labels)
        progress = run.progress("scoring the training images")
        seed = run.config.seed + 3
        save_file({"scores": score_images(images, len(train.classes), seed, progress, device=run.device)}, path)
    rows = best_rows(load_file(path)["scores"], train.labels, pruned_share(run.config.prune))
    return replace(run, scenes=replace(run.scenes, train=train.only(rows)))

"""The stage of `dpd train --prune`: training images that teach little are left out of all later stages."""

from dataclasses import replace

from safetensors.numpy import load_file, save_file

from dpd_train.classifiers.tdds import best_rows, score_images
from dpd_train.config import pruned_share
from dpd_train.run.context import Run


def pruned(run: Run, method: str) -> Run:
    """The run on the images that `method`, as in `--prune`, keeps. Scores of an earlier session are reused."""
    path, train = run.state("tdds"), run.data.train
    if not path.exists():
        progress, seed = run.progress("scoring the training images"), run.config.seed + 3
        scores = score_images(run.pixels[0], len(train.classes), seed, progress, device=run.device)
        save_file({"scores": scores}, path)
    rows = best_rows(load_file(path)["scores"], train.labels, pruned_share(method))
    return replace(run, data=replace(run.data, train=train.only(rows)))

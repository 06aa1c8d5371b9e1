"""A harder split: what is held out has no near neighbour left in training. EuroSAT's own split has many.

    python recipes/clustered_split.py ../shared/data/eurosat_rgb/train --out SPLIT
    dpd distill SPLIT/train.csv --base recipes/public_base --holdout SPLIT/held.csv --out SPLIT/site.dpd
    dpd evaluate SPLIT/site-run/set --train SPLIT/train.csv --test SPLIT/held.csv --ipc 10 --baselines random,herding

Patches of one scene share light, season and soil. Images are clustered by their colours, whatever their class and
their orientation. Whole clusters are held out until each class has its share. Then training images are left out that
are nearer to a held image than MARGIN of all images are to their nearest neighbour. Every class keeps equally many
images on each side. Prints the median distance of held images to the nearest training image, beside that of a random
split: by colours, and by small grey pictures in eight orientations, which decide nothing.

The base must not have seen the held images: the shipped one has, recipes/public_base has not.
"""

import argparse
from pathlib import Path

import numpy as np
from scene_lists import entries, write_list
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.neighbors import NearestNeighbors

from dpd_runtime.annotations import Float32, Images, Int64
from dpd_train.scenes import read_scenes

CLUSTER, SHARE, MARGIN, COMPONENTS = 20, 0.1, 0.5, 8
LEVELS = 8  # of each colour's histogram
SIDE = 8  # pixels of a grey picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    scenes, generator = read_scenes(args.data, part="all"), np.random.default_rng(args.seed)
    features = colours(scenes.images)
    held = held_out(features, scenes.labels, generator)
    train = np.setdiff1d(np.arange(len(features)), held)
    near = pairwise_distances_argmin_min(features[train], features[held])[1]
    kept = equally_many(train[near > margin(features)], scenes.labels, generator)
    for name, rows in (("train", kept), ("held", held)):
        write_list(args.out / f"{name}.csv", args.data, entries(scenes, rows))
    count = len(held) // len(scenes.classes)
    shuffled = equally_many(np.arange(len(features)), scenes.labels, generator, count)
    rest = np.setdiff1d(np.arange(len(features)), shuffled)
    print(f"{len(kept)} images for training, {len(held)} held out")
    for name, found in (("colours", features), ("grey pictures", grey(scenes.images))):
        random, ours = (to_nearest(found, *parts) for parts in ((shuffled, rest), (held, kept)))
        print(f"{name}: median distance to the nearest training image {ours:.3f}, in a random split {random:.3f}")


def colours(images: Images) -> Float32:
    """Whitened components [n, COMPONENTS] of each image's colour histograms, which no turn or mirror changes."""
    counts = [
        np.stack([(images[..., band] // (256 // LEVELS) == level).mean((1, 2)) for level in range(LEVELS)], axis=1)
        for band in range(images.shape[-1])
    ]
    found = np.sqrt(np.concatenate(counts, axis=1))
    components: Float32 = PCA(COMPONENTS, whiten=True, random_state=0).fit_transform(found).astype(np.float32)
    return components


def grey(images: Images) -> Float32:
    """Grey pictures [n, 8, SIDE²] of images in the eight orientations, with mean 0."""
    size = images.shape[1] // SIDE
    small = images.mean(-1).reshape(len(images), SIDE, size, SIDE, size).mean((2, 4))
    small -= small.mean((1, 2), keepdims=True)
    turned = [np.rot90(one, quarter, (1, 2)) for one in (small, small[:, ::-1]) for quarter in range(4)]
    found: Float32 = np.stack(turned, axis=1).reshape(len(images), 8, -1).astype(np.float32)
    return found


def held_out(features: Float32, labels: Int64, generator: np.random.Generator) -> Int64:
    """Rows of whole clusters, drawn until each class has SHARE of its rows, then cut to equally many of each class."""
    clusters = KMeans(len(features) // CLUSTER, n_init=1, random_state=0).fit_predict(features)
    wanted, chosen = SHARE * np.bincount(labels), np.zeros(len(features), bool)
    for cluster in generator.permutation(clusters.max() + 1):
        missing = np.bincount(labels[chosen], minlength=len(wanted)) < wanted
        members = clusters == cluster
        if missing[np.bincount(labels[members]).argmax()]:
            chosen |= members
    return equally_many(np.flatnonzero(chosen), labels, generator)


def equally_many(rows: Int64, labels: Int64, generator: np.random.Generator, most: int | None = None) -> Int64:
    """As many of `rows` of each class as the smallest class has, or `most`, sorted."""
    least = np.bincount(labels[rows]).min() if most is None else most
    of_class = [generator.permutation(rows[labels[rows] == label])[:least] for label in np.unique(labels)]
    return np.sort(np.concatenate(of_class))


def margin(features: Float32) -> float:
    """The distance to the nearest other image that MARGIN of all images stay below."""
    distances, _ = NearestNeighbors(n_neighbors=2).fit(features).kneighbors(features)
    return float(np.quantile(distances[:, 1], MARGIN))


def to_nearest(features: Float32, held: Int64, train: Int64) -> float:
    """Median distance of held images to the nearest training image; features [n, F], or [n, 8, F] of all turns."""
    turned = features.reshape(len(features), -1, features.shape[-1])
    found = [pairwise_distances_argmin_min(turned[held, i], turned[train, 0])[1] for i in range(turned.shape[1])]
    return float(np.median(np.min(found, axis=0)))


if __name__ == "__main__":
    main()

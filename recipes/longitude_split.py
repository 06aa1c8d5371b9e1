"""EuroSAT by longitude: neighbouring patches of one place lie on one side, as in TorchGeo's EuroSATSpatial.

    python recipes/longitude_split.py ../shared/data/eurosat_rgb LISTS --out SPLIT
    dpd distill SPLIT/list.csv --base recipes/public_base --seed 0 --out SPLIT/0.dpd
    dpd evaluate SPLIT/*-run/set --train SPLIT/list.csv --test SPLIT/test.csv --ipc 10 --baselines random,herding

LISTS holds train.txt, val.txt and test.txt, whose lines name files below the first folder. Training and validation
images come from its train/ alone, so that nobody trains on or chooses by images of its test/. The base must have seen
none of them: the shipped one has, recipes/public_base has not.
"""

import argparse
from collections import Counter
from pathlib import Path, PurePosixPath

from scene_lists import write_list

OWN = "train"  # folder of the images that training and validation may use


def rows_of(lists: Path, part: str) -> list[tuple[str, str, str]]:
    """Path, class and part of each image that the list of a part names."""
    paths = [PurePosixPath(line) for line in (lists / f"{part}.txt").read_text(encoding="utf-8").split()]
    return [(str(path), path.parent.name, part) for path in paths if part == "test" or path.parts[0] == OWN]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("lists", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    of_part = {part: rows_of(args.lists, part) for part in ("train", "val", "test")}
    write_list(args.out / "list.csv", args.data, [*of_part["train"], *of_part["val"]])
    write_list(args.out / "test.csv", args.data, [row[:2] for row in of_part["test"]])
    for part, rows in of_part.items():
        print(f"{part:6}{len(rows):6} images, {min(Counter(row[1] for row in rows).values())} of the smallest class")


if __name__ == "__main__":
    main()

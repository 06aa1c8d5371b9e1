"""Ten short distillations beside their plans: several sizes, classes, bands and options, on one thread.

    OMP_NUM_THREADS=1 python recipes/plan_errors.py SHARED_DATA WORK --out plan_errors.json

Times are seconds of computing (user and system, with child processes that have ended). On one thread that is what an
idle core takes, so that other programs do not enter; waiting for a disk is left out. Cases that WORK or the file of
--out has are kept, so that a run goes on from what is committed.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from result_file import tell

from dpd_distill import kept_speed, plan
from dpd_distill.distillation import Asked, begin, distil, request_of
from dpd_train import tracking

CASES: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "five classes, 60 each, quick": ("eurosat_rgb", 5, 60, {"quick": True}),
    "ten classes, 100 each, quick": ("eurosat_rgb", 10, 100, {"quick": True}),
    "three classes, 200 each, quick": ("eurosat_rgb", 3, 200, {"quick": True}),
    "two classes, 12 each, no codes, quick": ("eurosat_rgb", 2, 12, {"quick": True}),
    "five classes, 40 each": ("eurosat_rgb", 5, 40, {}),
    "three classes, 120 each, whole bundle": ("eurosat_rgb", 3, 120, {}),
    "six aerial classes, 30 each": ("ucmerced", 6, 30, {}),
    "four aerial classes, 40 each, 128 px, quick": (
        "ucmerced",
        4,
        40,
        {"quick": True, "resolution": 128},
    ),
    "two classes of radar, 60 each, quick": ("opensarship", 2, 60, {"quick": True, "bands": "all"}),
    "two classes of radar, 25 each": ("opensarship", 2, 25, {"bands": "all"}),
}  # data, classes, images of each, options


def computed() -> float:
    """Seconds that this process and its ended children have computed."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


@contextmanager
def no_bar(title: str) -> Iterator[Any]:
    yield lambda done, total: None


def subset(source: Path, classes: int, images: int, place: Path) -> Path:
    """Links to the first images of evenly spaced classes."""
    folders = sorted(folder for folder in (source / "train").iterdir() if folder.is_dir())
    for folder in folders[:: max(1, len(folders) // classes)][:classes]:
        (place / folder.name).mkdir(parents=True, exist_ok=True)
        for image in sorted(folder.iterdir())[:images]:
            link = place / folder.name / image.name
            if not link.exists():
                link.symlink_to(image)
    return place


def run(data: Path, work: Path, case: str) -> dict[str, Any]:
    name, classes, images, options = CASES[case]
    place = work / "".join(c if c.isalnum() else "-" for c in case)
    asked = request_of(
        Asked, subset(data / name, classes, images, place / "scenes"), place / "site.dpd", options | {"threads": 1}
    )
    begun = computed()
    made = begin(asked, print)
    planning = computed() - begun
    made.store()
    tracking.time = SimpleNamespace(monotonic=computed)  # type: ignore[assignment]
    result = distil(made, lambda title: lambda done, total: None, print)
    tracking.time = time
    run_record = json.loads((made.training / "run.json").read_text())
    return {
        "case": case,
        "options": options,
        "planning": round(planning, 1),
        "planned": {name: round(seconds, 1) for name, seconds in made.plan.seconds.items()},
        "perhaps": {name: round(seconds, 1) for name, seconds in made.plan.perhaps.items()},
        "decoder_tuned": run_record["metrics"]["decoder_tuned"],
        "spent": result["spent"],
        "total": [round(made.plan.total, 1), round(result["seconds"], 1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds eurosat_rgb, ucmerced, opensarship")
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", help="a part of a case's name")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    kept_speed.share_of_a_core = lambda: 1.0  # plans for an idle core: that is what the clock of the run counts
    plan.MINUTES = plan.QUICK_MINUTES = 0.01  # the shortest plan, with a fifth of the steps that it has otherwise
    plan.SHORTEST_WATCHERS, plan.LEAST_MATCHING, plan.SMALL_MATCHING = 30, 20, 20
    known = json.loads(args.out.read_text())["cases"] if args.out and args.out.exists() else []
    before = {row["case"]: row for row in known}
    rows = []
    for case in CASES:
        if case in before:
            rows.append(before[case])
            continue
        stored = args.work / f"{case}.json"
        if not stored.exists():
            if args.only and args.only not in case:
                continue
            row = run(args.data, args.work, case)
            stored.write_text(json.dumps(row))
        rows.append(json.loads(stored.read_text()))
        planned, spent = rows[-1]["total"]
        print(f"{case}: planned {planned:.0f} s, took {spent:.0f} s ({spent / planned:.2f})", flush=True)
        if args.out:
            tell({"cases": rows}, args.out)


if __name__ == "__main__":
    main()

"""Commit what `dpd distill` made: plan, times, verdict, audit, and how students of its set did.

    dpd distill DATA/train --out site.dpd
    dpd evaluate site-run/set --train DATA/train --test DATA/test --ipc 10 --baselines random,herding --out test.json
    python recipes/record_distill.py site-run test.json --machine "AMD EPYC, 1 core" --out NAME.json

The test part is read once. Local paths are cut to two names.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

from record import without_folders
from result_file import tell

OF_A_TEST = ("name", "value", "interval", "threshold", "verdict")
OF_THE_RESULT = ("bytes", "seconds", "planned_seconds", "stages", "prototypes", "verdict", "reasons", "judged")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder that dpd distill wrote beside the bundle")
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--machine", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    plan, result, audit = (read(args.run / f"{name}.json") for name in ("plan", "result", "audit"))
    about = {
        "date": date.fromtimestamp(args.evaluation.stat().st_mtime).isoformat(),
        "hardware": args.machine,
        "command": "dpd distill, and an evaluation of its set: one matching, the intervals are over pairs of students",
        "plan": plan,
        **{name: result[name] for name in OF_THE_RESULT},
        "audit": [{name: test.get(name) for name in OF_A_TEST} for test in audit["tests"]],
        "controls": [{name: test.get(name) for name in OF_A_TEST} for test in audit["controls"]],
        "notes": audit["notes"],
        "evaluation": read(args.evaluation),
    }
    tell(without_folders(about), args.out)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

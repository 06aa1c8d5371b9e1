"""Commit what tables.sh measured: copy its results into recipes/results, with machine and date, without local paths.

    python recipes/record.py WORK --machine "AMD EPYC, 2 cores, no GPU, beside other work"

WORK/results/test-10-soft.json becomes eurosat_10_soft.json, val-10-sgd.json eurosat_val_10_sgd.json. A committed result
is not replaced.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

from result_file import tell

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--machine", required=True)
    args = parser.parse_args()
    for path in sorted((args.work / "results").glob("*.json")):
        part = "test" if path.stem.startswith("test-") else "val"
        target = RESULTS / f"eurosat_{path.stem.removeprefix('test-').replace('-', '_')}.json"
        if target.exists():
            print(f"{target} is there and stays; {path} is not copied")
            continue
        about = {
            "date": date.fromtimestamp(path.stat().st_mtime).isoformat(),
            "hardware": args.machine,
            "command": f"recipes/tables.sh EUROSAT WORK {part} ({path.name})",
            "bundles": "the three matchings of recipes/embedded.sh, seeds 0 to 2",
        }
        tell(about | {"evaluation": without_folders(json.loads(path.read_text()))}, target)


def without_folders(value: Any) -> Any:
    """`value` with each absolute path as its last two names."""
    if isinstance(value, dict):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and value.startswith("/"):
        return "/".join(Path(value).parts[-2:])
    return value


if __name__ == "__main__":
    main()

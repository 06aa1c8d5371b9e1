"""What the interop tests look at: bundles of a tiny run and the run's own pipeline. Runs where dpd is installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT)]


def main(folder: Path) -> None:
    from dpd_export import ExportOptions, export_run
    from tests.tiny import tiny_run

    folder.mkdir(parents=True)
    run = tiny_run(folder)
    export_run(run, folder / "fp32", ExportOptions(precision="fp32"))
    export_run(run, folder / "fp16", ExportOptions(vae_encoder=True, dynamic_size=True, largest_file=100_000))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

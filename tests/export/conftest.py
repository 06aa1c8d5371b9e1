"""One tiny run and its bundles for all tests of the export, because tracing takes most of the time."""

from dataclasses import replace
from pathlib import Path

import pytest

from dpd_export import ExportOptions, export_run
from dpd_train.compute.device import one_thread
from dpd_train.train import train
from tests.conftest import made_once
from tests.tiny import CONFIG, drawn_scenes, tiny_base

CODES = 11


@pytest.fixture(scope="session")
def run(tiny_trained: Path) -> Path:
    """A run directory that `train` left."""
    return tiny_trained


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Path) -> Path:
    """In float32, as one file."""
    return tiny_bundle


@pytest.fixture(scope="session")
def half_bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In half precision with every option, as a folder; weights above 100 kB lie beside their graph."""
    options = ExportOptions(vae_encoder=True, dynamic_size=True, largest_file=100_000)
    made = made_once(tmp_path_factory, "half", lambda folder: export_run(run, folder / "half", options))
    return made / "half"


@pytest.fixture(scope="session")
def matched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, a run with CODES matched codes of each class, and its float32 bundles whole.dpd and codes.dpd."""
    return made_once(tmp_path_factory, "matched", _make_matched)


def _make_matched(folder: Path) -> None:
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpd_train.prototypes.matching.statistics.VIEWS", 100)
        few = {"k_min": 15, "ipc": CODES, "steps": 1, "watcher_steps": 2, "matching_steps": 2}
        config = replace(CONFIG, base=str(tiny_base(folder)), prototypes="matched", **few)
        train(drawn_scenes(folder / "scenes", per_class=26), folder / "run", config, cache=folder / "cache")
        for name, codes_only in (("whole", False), ("codes", True)):
            options = ExportOptions(name=name, precision="fp32", codes_only=codes_only)
            export_run(folder / "run", folder / f"{name}.dpd", options)

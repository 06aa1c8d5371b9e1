"""One tiny run and its bundles for all tests of the export, because tracing takes most of the time."""

from pathlib import Path

import pytest

from dpd_export import ExportOptions, export_run
from tests.conftest import made_once


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

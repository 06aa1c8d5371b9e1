"""One tiny run and its bundles for all tests of the export, because tracing takes most of the time."""

from pathlib import Path

import pytest

from dpd_export import ExportOptions, export_run


@pytest.fixture(scope="session")
def run(tiny_trained: Path) -> Path:
    """A run directory that `train` left."""
    return tiny_trained


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Path) -> Path:
    """In float32, as one file."""
    return tiny_bundle


@pytest.fixture(scope="session")
def half_bundle(run: Path) -> Path:
    """In half precision with every option, as a folder; weights above 100 kB lie beside their graph."""
    path = run.parent / "half"
    export_run(run, path, ExportOptions(vae_encoder=True, dynamic_size=True, largest_file=100_000))
    return path

"""One tiny run and its bundles for every test of the export: tracing takes most of the time."""

from pathlib import Path

import pytest

from dpd_export import export_run
from tests.tiny import tiny_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory that `train` left."""
    return tiny_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def bundle(run: Path) -> Path:
    """In float32, as one file."""
    path = run.parent / "tiny.dpd"
    licences = {"data_licence": "drawn | by us", "base_licence": "Apache-2.0"}
    export_run(run, path, name="tiny", precision="fp32", **licences)
    return path


@pytest.fixture(scope="session")
def half_bundle(run: Path) -> Path:
    """In half precision with every option, as a folder; weights beyond 100 kB lie beside their graph."""
    path = run.parent / "half"
    export_run(run, path, vae_encoder=True, dynamic_size=True, largest_file=100_000)
    return path

"""`dpd export` that is given a run and nothing else."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
from tests.commands import dpd


def test_export_places_the_bundle_beside_the_run(
    tiny_trained: Path, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """It is stopped by what stands at that place already, before anything heavy begins."""
    (tmp_path / "scenes-run").symlink_to(tiny_trained)
    (tmp_path / "scenes-run.dpd").write_text("something else")
    done = dpd(["export", "scenes-run"], process_environment, tmp_path)
    assert done.returncode == 2
    assert "scenes-run.dpd" in done.stderr

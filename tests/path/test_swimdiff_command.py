"""`dpd swimdiff`, and the encoder where other commands take one."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from dpd_cli.main import main
from tests.tiny import SIDE, drawn_scenes


def dpd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[object, str, str]:
    """Exit code, output and errors of `dpd …` in this process."""
    monkeypatch.setattr(sys, "argv", ["dpd", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    return (leaving.value.code or 0, *capsys.readouterr())


def test_an_encoder_is_trained_in_sessions_and_selects_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes, encoder = drawn_scenes(tmp_path / "scenes", per_class=4), tmp_path / "encoder"
    words = ["swimdiff", scenes, "--out", encoder, "--resolution", SIDE, "--threads", 1]
    words += ["--steps", 2, "--batch", 4, "--state", tmp_path / "state"]
    code, said, errors = dpd(monkeypatch, capsys, *words, "--max-minutes", 0)
    assert code == 0, errors
    assert "swimdiff is at step 1 of 2" in said
    assert not encoder.exists()
    code, said, errors = dpd(monkeypatch, capsys, *words, "--json")
    assert code == 0, errors
    made = json.loads(said)
    assert made["data"]["images"] == 18
    assert made["timing"]["swimdiff"]["steps"] == 1, "the second session does the second step"
    assert sorted(path.name for path in encoder.iterdir()) == ["config.json", "features.json", "model.safetensors"]
    code, _, errors = dpd(monkeypatch, capsys, *words)
    assert code == 2
    assert "holds a finished encoder; choose another --out" in errors

    chosen = ["select", scenes, "--method", "herding", "--ipc", 1, "--out", tmp_path / "chosen", "--json"]
    code, said, errors = dpd(monkeypatch, capsys, *chosen, "--extractor", f"swimdiff:{encoder}")
    assert code == 0, errors
    assert json.loads(said)["extractor"].startswith("swimdiff:encoder: ResNet 32-64-128-256")
    (encoder / "model.safetensors").write_bytes(b"")
    code, _, errors = dpd(monkeypatch, capsys, *chosen, "--extractor", f"swimdiff:{encoder}", "--overwrite")
    assert code == 2
    assert "model.safetensors is damaged" in errors

"""State files are written under new names: a link that somebody planted is replaced, not followed."""

from pathlib import Path

import torch

from dpd_train.compute import load_state, save_state


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("of the user")
    state = tmp_path / "run" / "denoiser.safetensors"
    state.parent.mkdir()
    for name in (state.name, f"{state.name}.partial"):
        (state.parent / name).symlink_to(mine)
    save_state(state, {"a": torch.arange(3)}, {"step": 4})
    assert mine.read_text() == "of the user"
    assert not state.is_symlink()
    tensors, meta = load_state(state)
    assert (tensors["a"].tolist(), meta) == ([0, 1, 2], {"step": 4})
    assert sorted(path.name for path in state.parent.iterdir()) == [state.name, f"{state.name}.partial"]

"""How many files a reader enters who follows `dpd train` from its call to the finished run. Prints them with -s."""

import inspect
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from dpd_train.train import train
from tests.tiny import CONFIG, drawn_scenes, tiny_base

MOST_OF_TRAINING, MOST = 36, 48  # before the modules moved into folders: 47 of dpd_train, 57 of all rooms


def test_a_run_enters_few_files(tmp_path: Path) -> None:
    base, scenes = tiny_base(tmp_path), drawn_scenes(tmp_path / "scenes", 4)
    config = replace(CONFIG, base=str(base), steps=1, teacher_steps=1, latent_classifier_steps=1, val_per_class=1)
    root = Path(__file__).parents[2]
    entered: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED:  # a function; neither a module nor a class body
            entered.add(code.co_filename)

    sys.setprofile(note)
    try:
        train(scenes, tmp_path / "run", config, cache=tmp_path / "cache")
    finally:
        sys.setprofile(None)
    names = sorted(
        path.relative_to(root).as_posix()
        for path in map(Path, entered)
        if path.is_relative_to(root) and path.name != "__init__.py" and any(p.startswith("dpd_") for p in path.parts)
    )
    training = [name for name in names if name.startswith("dpd_train/")]
    print(len(training), len(names), *names, sep="\n")
    assert len(training) <= MOST_OF_TRAINING, training
    assert len(names) <= MOST, names

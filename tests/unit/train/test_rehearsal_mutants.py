"""The rehearsal notices every move to the device that is taken out of the trainings."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[3]
CODE = ("dpd_runtime", "dpd_train", "dpd_eval", "tests", "pyproject.toml")
TRAINED_BY = {
    "dpd_train/classifiers.py": "classifier",
    "dpd_train/vae.py": "autoencoder",
    "dpd_train/denoiser.py": "denoiser",
    "dpd_train/matching.py": "matching",
    "dpd_eval/students.py": "student",
    "dpd_eval/extractors.py": "extractor",
}
MOVE = re.compile(r"\.to\((?:self\._)?device\)|to_device\((?=[^)])|, device=(?:self\._)?device\)(?! )")
UNNOTICED = (
    "torch.zeros((), ",  # a number may lie anywhere
    'tensors["codes"]',  # of a resumed matching, which is not rehearsed
    "def ",
    "import ",
)


class Mutant(NamedTuple):
    file: str
    line: int
    without: str


def mutants() -> Iterator[Mutant]:
    """One for each move: the line without it."""
    for file in TRAINED_BY:
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines()):
            if any(words in line for words in UNNOTICED):
                continue
            for move in MOVE.finditer(line):
                less = {".": "", "t": "_stay(", ",": ")"}[move[0][0]]
                without = line[: move.start()] + less + line[move.end() :]
                if not without.endswith(" validation[0]"):  # validation is moved again, a batch at a time
                    yield Mutant(file, number, without)


@pytest.mark.full
def test_each_removed_move_is_noticed(tmp_path: Path, process_environment: Mapping[str, str]) -> None:
    for name in CODE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    path = os.pathsep.join([str(tmp_path), process_environment["PYTHONPATH"]])
    command = [sys.executable, "-m", "pytest", "-n0", "-x", "-m", "", "tests/unit/train/test_rehearsal.py"]

    def code(trained: str) -> int:
        """How the rehearsal of these trainings ends: 0 if they pass, 1 if one fails."""
        return subprocess.run(
            [*command, "-k", f"stays and {trained}"],
            cwd=tmp_path,
            env=dict(process_environment) | {"PYTHONPATH": path},
            capture_output=True,
            check=False,
        ).returncode

    assert code("not none") == 0, "what fails anyway notices nothing"
    survived, every = [], list(mutants())
    assert len(every) >= 20
    for mutant in every:
        file = tmp_path / mutant.file
        kept = file.read_text(encoding="utf-8")
        lines = kept.splitlines()
        lines[mutant.line] = mutant.without
        stay = "\n\ndef _stay(tensor, device):\n    return tensor\n"
        file.write_text("\n".join(lines) + stay, encoding="utf-8")
        found = code(TRAINED_BY[mutant.file])
        file.write_text(kept, encoding="utf-8")
        if found != 1:
            survived.append(f"{mutant.file}:{mutant.line + 1}: {mutant.without.strip()} (code {found})")
    assert not survived, "\n".join(survived)

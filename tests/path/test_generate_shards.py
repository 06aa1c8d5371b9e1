"""`dpd generate --shard` as a user sees it."""

import json
from pathlib import Path

import pytest

from tests.commands import Done
from tests.commands import dpd as run_dpd

pytest.importorskip("onnxruntime")
FEW = ["generate", "--ipc", "1", "--steps", "1", "--candidates", "1", "--classes", "River,Forest"]


def dpd(arguments: list[str], environment: dict[str, str], folder: Path) -> Done:
    return run_dpd([*FEW, *arguments], environment, folder)


def test_the_last_shard_has_the_hash_and_checks_it(process_environment: dict[str, str], tmp_path: Path) -> None:
    first = dpd(["--shard", "1/2", "--out", "set"], process_environment, tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("signature unsigned\nshard 1/2: 1 image of 2 classes in set/ (1 computed now)")
    assert "none yet: 1 image is left to other shards" in first.stdout
    assert not (tmp_path / "set" / "dataset.json").exists()
    wrong = dpd(["--shard", "0/2", "--out", "set", "--json", "--expect", "0" * 64], process_environment, tmp_path)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "--expect is 000" in wrong.stderr
    made = json.loads((tmp_path / "set" / "dataset.json").read_text())["set_hash"]
    right = dpd(["--out", "set", "--json", "--expect", made.upper()], process_environment, tmp_path)
    assert right.returncode == 0, right.stderr
    found = json.loads(right.stdout)
    assert (found["images"], found["set_hash"]) == (2, made)
    assert {"bundle_hash", "audit", "signature", "trusted"} <= set(found)
    short = dpd(["--out", "never", "--expect", "deadbeef"], process_environment, tmp_path)
    assert short.returncode == 2
    assert "--expect deadbeef: is no set hash, which has 64 hexadecimal digits" in short.stderr
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shard", "2/2"], ["shard 2/2", "the last one is 1/2"]),
        (["--shard", "first"], ["--shard first", "write i/n"]),
        (["--shard", "0/2", "--overwrite"], ["--overwrite with --shard", "remove the set first"]),
    ],
)
def test_one_line_says_what_is_wrong(
    arguments: list[str], words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    done = dpd([*arguments, "--out", "set"], process_environment, tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert [word for word in words if word not in done.stderr] == []
    assert list(tmp_path.iterdir()) == []

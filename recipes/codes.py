"""Keep the matched codes of a run in a file of a megabyte, and give them to the same run on another machine.

    python recipes/codes.py keep RUN FILE                     # whole blocks of ten codes, of a matching that has begun
    python recipes/codes.py begin FILE RUN dpd train …        # begins RUN with them; dpd train --resume goes on

Matching takes nine tenths of a run's time. What comes before it is trained again, and differs a little on another
processor; the codes do not. They are float16, as in a bundle.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file

from dpd_runtime.sampler import BLOCK
from dpd_train.compute import load_state, save_state
from dpd_train.run import STORED


def state_of(run: Path) -> Path:
    """Where `dpd train` keeps the unfinished matching."""
    return run / "checkpoints" / "matching.safetensors"


def keep(run: Path, file: Path) -> int:
    """Write the codes [classes, K, C, h, w]; those of unfinished blocks as they began. Return how many are matched."""
    if not state_of(run).is_file():
        sys.exit(f"{state_of(run)} is missing: the matching has not begun, or ended without --keep-checkpoints")
    tensors, meta = load_state(state_of(run))
    steps = int(json.loads((run / STORED).read_text(encoding="utf-8"))["config"]["matching_steps"])
    blocks, codes = int(meta["step"]) // steps, tensors["codes"]
    matched = min(blocks * BLOCK, codes.shape[1])
    codes[:, matched:] = load_file(run / "checkpoints" / "start.safetensors")["codes"][:, matched:]
    save_state(file, {"codes": codes.half()}, {"step": blocks * steps})
    return matched


def begin(file: Path, run: Path, command: list[str]) -> None:
    """Let `command` begin `run`, stop it, and put the codes in `file` where its matching will go on."""
    tensors, meta = load_state(file)
    with subprocess.Popen(command) as training:
        while not (run / STORED).exists() and training.poll() is None:
            time.sleep(0.2)
        training.terminate()
    if not (run / STORED).exists():
        sys.exit(f"{run} was not begun")
    save_state(state_of(run), {"codes": tensors["codes"].float()}, meta)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "keep":
        print(f"{keep(Path(sys.argv[2]), Path(sys.argv[3]))} codes of each class are matched")
    elif len(sys.argv) > 4 and sys.argv[1] == "begin":
        begin(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(__doc__)

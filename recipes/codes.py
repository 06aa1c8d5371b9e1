"""Keep the matched codes of a run in a file of a megabyte, and give them to the same run on another machine.

    python recipes/codes.py keep RUN FILE     # whole blocks of ten codes, of a matching that ended or was stopped
    python recipes/codes.py put FILE RUN      # after the run has begun, and before its matching begins

Matching takes nine tenths of a run's time. What comes before it is trained again, and differs a little on another
processor; the codes do not. They are float16, as in a bundle.
"""

import json
import sys
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
    tensors, meta = load_state(state_of(run))
    steps = int(json.loads((run / STORED).read_text(encoding="utf-8"))["config"]["matching_steps"])
    blocks, codes = int(meta["step"]) // steps, tensors["codes"]
    matched = min(blocks * BLOCK, codes.shape[1])
    codes[:, matched:] = load_file(run / "checkpoints" / "start.safetensors")["codes"][:, matched:]
    save_state(file, {"codes": codes.half()}, {"step": blocks * steps})
    return matched


def put(file: Path, run: Path) -> None:
    """Let the matching go on from the codes in `file`."""
    if state_of(run).exists():
        sys.exit(f"{state_of(run)} exists: the matching has begun")
    tensors, meta = load_state(file)
    save_state(state_of(run), {"codes": tensors["codes"].float()}, meta)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("keep", "put"):
        sys.exit(__doc__)
    if sys.argv[1] == "keep":
        print(f"{keep(Path(sys.argv[2]), Path(sys.argv[3]))} codes of each class are matched")
    else:
        put(Path(sys.argv[2]), Path(sys.argv[3]))

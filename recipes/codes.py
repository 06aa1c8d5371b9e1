"""Keep the matched codes of a run in a file of a megabyte, and give them to the same run on another machine.

    python recipes/codes.py keep RUN FILE                     # whole blocks of ten codes, of a matching that has begun
    python recipes/codes.py begin FILE RUN dpd train …        # trains what comes before, then puts them where
                                                              # dpd train --resume goes on
    python recipes/codes.py images FILE SEED DATA/train OUT   # decodes them: each prefix of whole blocks is a set

Matching takes nine tenths of a run's time. What comes before it is trained again, and differs a little on another
processor; the codes do not. They are float16, as in a bundle.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from dpd_runtime.sampler import BLOCK
from dpd_runtime.sampling import image_element, turned
from dpd_train.bases import decode_in_parts, load_base
from dpd_train.compute import load_state, save_state
from dpd_train.run import STORED
from dpd_train.scenes import open_scenes


def state_of(run: Path) -> Path:
    """Where `dpd train` keeps the unfinished matching."""
    return run / "checkpoints" / "matching.safetensors"


def steps_of(run: Path) -> int:
    """Steps of matching for a block."""
    return int(json.loads((run / STORED).read_text(encoding="utf-8"))["config"]["matching_steps"])


def keep(run: Path, file: Path) -> int:
    """Write the matched codes [classes, K, C, h, w], of whole blocks. Return K."""
    if not state_of(run).is_file():
        sys.exit(f"{state_of(run)} is missing: the matching has not begun, or ended without --keep-checkpoints")
    tensors, meta = load_state(state_of(run))
    blocks, codes = int(meta["step"]) // steps_of(run), tensors["codes"]
    matched = min(blocks * BLOCK, codes.shape[1])
    save_state(file, {"codes": codes[:, :matched].half().contiguous()}, {})
    return matched


def begin(file: Path, run: Path, command: list[str]) -> None:
    """Let `command` train `run` up to its starting codes, stop it, and replace the first of them by those in `file`."""
    matched, starts = load_file(file)["codes"].float(), run / "checkpoints" / "start.safetensors"
    with subprocess.Popen(command) as training:
        while not starts.exists() and training.poll() is None:
            time.sleep(0.2)
        training.terminate()
    if not starts.exists():
        sys.exit(f"{run} has no starting codes")
    codes = load_file(starts)["codes"].float()
    codes[:, : matched.shape[1]] = matched
    save_state(state_of(run), {"codes": codes}, {"step": matched.shape[1] // BLOCK * steps_of(run)})


def images(file: Path, seed: int, data: Path, out: Path) -> int:
    """Write the codes of `file` as the images that `dpd generate --seed SEED` would make; return how many per class."""
    base, codes = load_base("nano"), load_file(file)["codes"].float().numpy()
    for name, of_class in zip(open_scenes(data).classes, codes, strict=True):
        (out / name).mkdir(parents=True)
        for index, pixels in enumerate(decode_in_parts(base, of_class)):
            view = np.ascontiguousarray(turned(pixels, image_element(seed, name, index)))
            Image.fromarray(view).save(out / name / f"{index:04d}.png")
    return int(codes.shape[1])


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "keep":
        print(f"{keep(Path(sys.argv[2]), Path(sys.argv[3]))} codes of each class are matched")
    elif len(sys.argv) > 4 and sys.argv[1] == "begin":
        begin(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    elif len(sys.argv) == 6 and sys.argv[1] == "images":
        made = images(Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
        print(f"{made} images of each class")
    else:
        sys.exit(__doc__)

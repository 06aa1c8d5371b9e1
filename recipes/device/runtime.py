"""Take onnxruntime-gpu to the device machine: too large for one call, it travels in parts.

    python recipes/device/runtime.py split                       # here: download, cut, say which calls to make
    python recipes/device/runtime.py keep                        # there, in each of those calls: keep what travelled
    python recipes/device/runtime.py join                        # there, in the last one: the wheel, hash checked

Parts lie in recipes/device/part0 … , ignored by git: each call names one in `carry`.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from pack import LIMIT, MIB, PLATFORMS, ROOT, travelling

HERE = ROOT / "recipes/device"
KEPT = Path(os.environ.get("WORK", "/tmp/dpd-device")) / "parts"
INDEX = "index.json"
ROOM = 2 * MIB  # left free in each call


def split(version: str, python: str) -> None:
    """Download the wheel and cut it into parts that fit beside the working tree."""
    tree, _ = travelling(ROOT)
    size = LIMIT - ROOM - sum(path.stat().st_size for path in tree)
    if size < 8 * MIB:
        raise SystemExit("less than 8 MiB are left beside the working tree: move package data aside, as pack.py says")
    for old in HERE.glob("part[0-9]*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory() as folder:
        target = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
        platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
        command = [sys.executable, "-m", "pip", "download", "-q", *target, *platforms, "-d", folder]
        subprocess.run([*command, f"onnxruntime-gpu=={version}"], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        content = wheel.read_bytes()
        name = wheel.name
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    index = {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "parts": len(pieces)}
    for number, piece in enumerate(pieces):
        place = HERE / f"part{number}"
        place.mkdir()
        (place / f"{number}.bin").write_bytes(piece)
        (place / INDEX).write_text(json.dumps(index), encoding="utf-8")
    print(f"{name}: {len(content) / MIB:.0f} MiB in {len(pieces)} parts. Calls, one right after the other:")
    for number in range(len(pieces)):
        print(f'  carry ["recipes/device/part{number}"]: python3 recipes/device/runtime.py keep')
    print('  carry [".whl"]: bash recipes/device/cuda.sh')


def keep() -> None:
    """Copy the part that travelled to a folder that stays as long as the machine is warm."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for path in HERE.glob("part[0-9]*/*"):
        shutil.copy(path, KEPT)
    print(f"{len(list(KEPT.glob('*.bin')))} parts are there")


def join() -> None:
    """Write the wheel beside the parts.

    Raises:
        SystemExit: a part is missing or changed.
    """
    index = json.loads((KEPT / INDEX).read_text(encoding="utf-8"))
    missing = [number for number in range(index["parts"]) if not (KEPT / f"{number}.bin").is_file()]
    if missing:
        raise SystemExit(f"parts {missing} are missing: the machine was given back between the calls; begin again")
    content = b"".join((KEPT / f"{number}.bin").read_bytes() for number in range(index["parts"]))
    if hashlib.sha256(content).hexdigest() != index["sha256"]:
        raise SystemExit("the joined wheel has another hash; begin again")
    (KEPT / index["name"]).write_bytes(content)
    print(KEPT / index["name"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("split", "keep", "join"))
    parser.add_argument("--version", default="1.31.1", help="of onnxruntime-gpu")
    parser.add_argument("--python", default="3.12", help="version on the device machine")
    args = parser.parse_args()
    if args.step == "split":
        split(args.version, args.python)
    elif args.step == "keep":
        keep()
    else:
        join()


if __name__ == "__main__":
    main()

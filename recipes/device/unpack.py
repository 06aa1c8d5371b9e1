"""Recreate the folders that pack.py packed. Runs on the device machine with only the standard library.

python recipes/device/unpack.py recipes/device/packed /tmp/data
"""

import argparse
import hashlib
import json
import lzma
from pathlib import Path, PurePosixPath


def unpack(packed: Path, out: Path) -> int:
    """Write every file under `out`, which must be new, and return their number.

    Raises:
        ValueError: the bytes are not those that were packed, or a path leaves `out`.
    """
    index = json.loads(lzma.decompress((packed / "index.json.xz").read_bytes()))
    content = memoryview(lzma.decompress((packed / "images.bin.xz").read_bytes()))
    if hashlib.sha256(content).hexdigest() != index["sha256"]:
        raise ValueError(f"{packed}: images.bin.xz is not what index.json.xz describes; pack again")
    count = 0
    for folder, files in index["folders"].items():
        (out / _inside(folder)).mkdir(parents=True)
        for name, offset, size in files:
            (out / _inside(folder) / _inside(name)).write_bytes(content[offset : offset + size])
            count += 1
    return count


def _inside(path: str) -> PurePosixPath:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{path!r} leaves the folder")
    return parts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packed", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    print(f"{unpack(args.packed, args.out)} files in {args.out}")

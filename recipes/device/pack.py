"""Pack training images and missing wheels for the device machine, and check that everything fits into one call.

    python recipes/device/pack.py --data ../shared/data/eurosat_rgb/train

Writes recipes/device/packed/ (images, index) and .whl/, both ignored by git: name them in `carry`. File names, their
order and their bytes are kept, so that the validation part and the content hashes are the same there.
"""

import argparse
import hashlib
import json
import lzma
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKED = "recipes/device/packed"
STATE = "recipes/device/state"
WHEELS = ".whl"
MIB = 2**20
LIMIT = 64 * MIB  # of one call: working tree and carried paths
# Packages that training imports and the machine lacks (it has zipp), in the versions of constraints.txt.
MISSING = ("diffusers", "importlib-metadata", "msgspec", "cryptography", "cffi", "pycparser")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def pack(data: Path, packed: Path) -> tuple[int, int]:
    """Pack all files under `data` except hidden ones; return the number of files and the bytes written.

    JPEGs repeat the same 600 bytes of tables: compressing them together saves 9 %.
    """
    folders: dict[str, list[tuple[str, int, int]]] = {}
    content = bytearray()
    for path in sorted(data.rglob("*"), key=lambda path: path.relative_to(data).as_posix()):
        inside = path.relative_to(data)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        image = path.read_bytes()
        folders.setdefault(inside.parent.as_posix(), []).append((path.name, len(content), len(image)))
        content += image
    if not folders:
        raise SystemExit(f"{data}: no files to pack")
    index = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "folders": folders}
    packed.mkdir(parents=True, exist_ok=True)
    (packed / "images.bin.xz").write_bytes(lzma.compress(content, preset=6))
    (packed / "index.json.xz").write_bytes(lzma.compress(json.dumps(index, separators=(",", ":")).encode()))
    return sum(map(len, folders.values())), sum(path.stat().st_size for path in packed.iterdir())


def download_wheels(folder: Path, python: str) -> None:
    """Download the wheels that the machine lacks, one version of each."""
    pins = {line.split("==")[0]: line for line in (ROOT / "constraints.txt").read_text().split() if "==" in line}
    for old in folder.glob("*.whl"):
        old.unlink()
    target = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", *target, *platforms, "-d", str(folder)]
    subprocess.run([*command, *(pins[name] for name in MISSING)], check=True)


def travelling(root: Path) -> tuple[list[Path], list[Path]]:
    """Files of the working tree, and files of the carried paths."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    tree = [root / name for name in names if name and (root / name).is_file()]
    tree += [path for path in (root / "shared").rglob("*") if path.is_file()]
    carried = [path for name in (PACKED, STATE, WHEELS) for path in (root / name).rglob("*") if path.is_file()]
    return tree, carried


def check_size(root: Path, limit: int = LIMIT) -> bool:
    """Print what is sent, and if it is too much, what to move out of the checkout during the calls."""
    tree, carried = travelling(root)
    sizes = {path: path.stat().st_size for path in tree + carried}
    total = sum(sizes.values())
    for name, paths in (("working tree", tree), ("carried", carried)):
        print(f"{name}: {sum(sizes[path] for path in paths) / MIB:.1f} MiB in {len(paths)} files")
    print(f"together {total / MIB:.1f} of {limit / MIB:.0f} MiB")
    if total <= limit:
        return True
    print(f"{(total - limit) / MIB:.1f} MiB too much. Move aside, largest first (and back afterwards):")
    for path in sorted(set(tree), key=lambda path: -sizes[path])[:8]:
        if sizes[path] >= MIB // 2:
            print(f"  {sizes[path] / MIB:5.1f} MiB  {path.relative_to(root)}")
    print(f"In {STATE}, the denoiser needs only denoiser.safetensors and a finished decoder.safetensors.")
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="tree of class folders; without it, only check the size")
    parser.add_argument("--out", type=Path, default=ROOT / PACKED)
    parser.add_argument("--python", default="3.12", help="version on the device machine")
    parser.add_argument("--no-wheels", action="store_true")
    args = parser.parse_args()
    if args.data is not None:
        count, size = pack(args.data, args.out)
        print(f"{count} files in {args.out}: {size / MIB:.1f} MiB")
        if not args.no_wheels:
            download_wheels(ROOT / WHEELS, args.python)
    if not check_size(ROOT):
        sys.exit(2)


if __name__ == "__main__":
    main()

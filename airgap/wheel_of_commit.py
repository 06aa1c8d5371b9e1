"""Build our wheel from the last commit: equal commits give equal bytes, and no file that git does not hold travels.

    python airgap/wheel_of_commit.py dist

The time in the wheel is the commit's, file modes are those that git knows, and setuptools is that of constraints.txt.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[1]


def git(*arguments: str, root: Path = ROOT) -> bytes:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True).stdout


def build_wheel(out: Path, root: Path = ROOT) -> Path:
    """Build the wheel of the checkout `root` into the folder `out`.

    Raises:
        SystemExit: a tracked file was changed since the last commit.
    """
    if changed := git("status", "--porcelain", "--untracked-files=no", root=root).decode().splitlines():
        sys.exit(f"{changed[0][3:]} and {len(changed) - 1} more files differ from the last commit; commit them first")
    moment = git("log", "-1", "--format=%ct", root=root).decode().strip()
    environment = os.environ | {"SOURCE_DATE_EPOCH": moment, "PIP_CONSTRAINT": str(root / "constraints.txt")}
    with tempfile.TemporaryDirectory() as source, tempfile.TemporaryDirectory() as made:
        archive = git("-c", "tar.umask=022", "archive", "--format=tar", "HEAD", root=root)
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(source, filter="data")
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--wheel-dir", made, source], check=True, env=environment)
        (wheel,) = Path(made).iterdir()
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, out / wheel.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Folder of the wheel.")
    print(build_wheel(parser.parse_args().out))


if __name__ == "__main__":
    main()

"""Write the locks: what a site installs, with the hash of every wheel, for Linux and the CPython versions below.

    python airgap/lock.py                                           # all; needs the package index
    python airgap/lock.py --extra cpu --platform aarch64            # requirements-cpu-aarch64.lock alone

Versions are those of constraints.txt; of CUDA's packages, which it does not name, the newest of the day. pip resolves
each Python without downloading the wheels (`--dry-run --report`). It evaluates markers such as python_version for the
Python and machine that run this script. No dependency of a site has such markers today; an install with
`--require-hashes` elsewhere would name what is missing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = {"cpu": ("x86_64", "aarch64"), "gpu": ("x86_64",), "gpu-cuda12": ("x86_64",)}
"""Extra of pyproject.toml → processors for which the package index has wheels."""
PLATFORMS = ("x86_64", "aarch64")
HEAD = """\
# `pip install ".[{extra}]"` for Linux {platform}, CPython {pythons}: every wheel by its hash. By python airgap/lock.py
"""


def lock_file(extra: str, platform: str) -> Path:
    """The path of a lock: requirements-EXTRA.lock for x86-64, requirements-EXTRA-PLATFORM.lock for others."""
    return ROOT / f"requirements-{extra}{'' if platform == 'x86_64' else f'-{platform}'}.lock"


def platform_tags(platform: str) -> list[str]:
    """pip's options for the wheels of a processor, newest C library first."""
    return [f"--platform=manylinux{tag}_{platform}" for tag in ("_2_28", "_2_27", "_2_17", "2014")]


def requirements(extra: str) -> list[str]:
    """Dependencies of a site, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


def resolved(wanted: list[str], python: str, platform: str) -> dict[str, tuple[str, str]]:
    """Version and sha256 of each wheel, by project name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "--target", folder, "--constraint", str(ROOT / "constraints.txt")]
        command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
        subprocess.run([*command, *platform_tags(platform), *wanted], check=True)
        content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    found = {}
    for entry in content["install"]:
        name = entry["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
        found[name] = (entry["metadata"]["version"], entry["download_info"]["archive_info"]["hashes"]["sha256"])
    return found


def lock(extra: str, platform: str) -> str:
    """The text of the lock file.

    Raises:
        ValueError: the Pythons resolve to different projects or versions, which one file cannot hold.
    """
    tables = [resolved(requirements(extra), python, platform) for python in PYTHONS]
    versions = [{name: version for name, (version, _) in table.items()} for table in tables]
    if any(table != versions[0] for table in versions):
        raise ValueError(f"{extra}: {', '.join(PYTHONS)} resolve to different versions: {versions}")
    lines = []
    for name, version in sorted(versions[0].items()):
        hashes = sorted({table[name][1] for table in tables})
        lines.append(" \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{digest}" for digest in hashes)]))
    return HEAD.format(extra=extra, platform=platform, pythons=", ".join(PYTHONS)) + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", choices=EXTRAS, help="Default: all.")
    parser.add_argument("--platform", choices=PLATFORMS, help="Default: all for which there are wheels.")
    options = parser.parse_args()
    for extra, platforms in EXTRAS.items():
        for platform in platforms:
            if options.extra in (None, extra) and options.platform in (None, platform):
                path = lock_file(extra, platform)
                path.write_text(lock(extra, platform), encoding="utf-8")
                print(path.name)


if __name__ == "__main__":
    main()

"""Write requirements-cpu.lock and requirements-gpu.lock: what a site installs, with the hash of every wheel.

    python airgap/lock.py            # needs the package index; uses the versions in constraints.txt

For Linux x86-64 and the CPython versions below. pip resolves each of them without downloading the wheels
(`--dry-run --report`). It evaluates markers such as python_version for the Python that runs this script. No dependency
of a site has such markers today; an install with `--require-hashes` on another Python would name what is missing.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
EXTRAS = ("cpu", "gpu")
HEAD = """\
# `pip install ".[{extra}]"` for Linux x86-64, CPython {pythons}: every wheel by its hash. By python airgap/lock.py
"""


def requirements(extra: str) -> list[str]:
    """Dependencies of a site, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


def resolved(wanted: list[str], python: str) -> dict[str, tuple[str, str]]:
    """Version and sha256 of each wheel, by project name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "--target", folder, "--constraint", str(ROOT / "constraints.txt")]
        command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
        command += [f"--platform={platform}" for platform in PLATFORMS]
        subprocess.run([*command, *wanted], check=True)
        content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    found = {}
    for entry in content["install"]:
        name = entry["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
        found[name] = (entry["metadata"]["version"], entry["download_info"]["archive_info"]["hashes"]["sha256"])
    return found


def lock(extra: str) -> str:
    """The text of the lock file.

    Raises:
        ValueError: the Pythons resolve to different projects or versions, which one file cannot hold.
    """
    tables = [resolved(requirements(extra), python) for python in PYTHONS]
    versions = [{name: version for name, (version, _) in table.items()} for table in tables]
    if any(table != versions[0] for table in versions):
        raise ValueError(f"{extra}: {', '.join(PYTHONS)} resolve to different versions: {versions}")
    lines = []
    for name, version in sorted(versions[0].items()):
        hashes = sorted({table[name][1] for table in tables})
        lines.append(" \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{digest}" for digest in hashes)]))
    return HEAD.format(extra=extra, pythons=", ".join(PYTHONS)) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name in EXTRAS:
        (ROOT / f"requirements-{name}.lock").write_text(lock(name), encoding="utf-8")
        print(f"requirements-{name}.lock")

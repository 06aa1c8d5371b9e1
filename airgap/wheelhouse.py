"""Collect what a site without a network installs: the site's wheel, its locked dependencies, their licences.

    python airgap/wheelhouse.py wheelhouse                      # CPU, for the Python that runs this
    python airgap/wheelhouse.py wheelhouse --extra gpu-cuda12 --python 3.12
    python airgap/wheelhouse.py wheelhouse --platform aarch64   # without sbom.cdx.json, as it cannot be installed here
    pip install --no-index --find-links wheelhouse --require-hashes -r wheelhouse/requirements.txt     # at the site

Needs the package index, for Linux. Writes the wheels, requirements.txt (the lock and the hash of our own wheel),
sbom.cdx.json (CycloneDX, with the embedded bundle and the base as components) and SHA256SUMS of all files.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from lock import EXTRAS, PLATFORMS, PYTHONS, ROOT, lock_file, platform_tags
from site_wheel import make_site_wheel
from wheel_of_commit import build_wheel

HERE = platform.machine()
SBOM_TOOL, SBOM_NAME = "cyclonedx-bom==7.5.0", "sbom.cdx.json"
EMBEDDED = ROOT / "dpd_runtime/data/eurosat64.dpd"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"], check=True)


def download(lock: Path, python: str, platform: str, out: Path) -> None:
    """Download the locked wheels; pip checks the hashes."""
    options = [
        "--require-hashes",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={python}",
    ]
    pip("download", *options, *platform_tags(platform), "--dest", str(out), "--requirement", str(lock))


def write_requirements(lock: Path, wheel: Path, out: Path) -> None:
    name, number = wheel.name.split("-")[:2]
    own = f"{name.replace('_', '-')}=={number} --hash=sha256:{sha256(wheel)}\n"
    (out / "requirements.txt").write_text(lock.read_text(encoding="utf-8") + own, encoding="utf-8")


def write_sbom(out: Path) -> None:
    """List what the wheelhouse installs, with the licences that each project declares."""
    with tempfile.TemporaryDirectory() as folder:
        site, tool = Path(folder, "site"), Path(folder, "tool")
        for place in (site, tool):
            venv.create(place, with_pip=place == tool)
        install = [
            "--no-index",
            "--find-links",
            str(out),
            "--require-hashes",
            "--requirement",
            str(out / "requirements.txt"),
        ]
        pip("--python", str(site / "bin/python"), "install", *install)
        subprocess.run([tool / "bin/python", "-m", "pip", "install", "--quiet", SBOM_TOOL], check=True)
        target = out / SBOM_NAME
        command = [tool / "bin/cyclonedx-py", "environment", "--output-reproducible", "--output-file", target]
        subprocess.run([*command, site / "bin/python"], check=True)
    content = json.loads(target.read_text(encoding="utf-8"))
    content["components"].append(embedded_component())
    target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def embedded_component() -> dict[str, Any]:
    """The embedded bundle as a component, with the licences from its bundle.json."""
    with zipfile.ZipFile(EMBEDDED) as archive:
        raw = archive.read("bundle.json")
    manifest = json.loads(raw)
    licences = [{"license": {"name": f"{part}: {text}"}} for part, text in sorted(manifest["licences"].items())]
    return {
        "type": "machine-learning-model",
        "bom-ref": f"bundle-{manifest['name']}",
        "name": f"{manifest['name']}.dpd",
        "version": hashlib.sha256(raw).hexdigest(),
        "hashes": [{"alg": "SHA-256", "content": sha256(EMBEDDED)}],
        "licenses": licences,
    }


def digests(out: Path) -> dict[str, str]:
    """sha256 of each file by its name, sorted."""
    return {path.name: sha256(path) for path in sorted(out.iterdir())}


def write_sums(out: Path) -> int:
    """Write SHA256SUMS for `sha256sum -c`, and return the size of all other files in bytes."""
    sums = digests(out)
    (out / "SHA256SUMS").write_text("".join(f"{sums[name]}  {name}\n" for name in sums), encoding="utf-8")
    return sum((out / name).stat().st_size for name in sums)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="New folder.")
    parser.add_argument("--extra", choices=EXTRAS, default="cpu")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", metavar="VERSION")
    parser.add_argument("--platform", choices=PLATFORMS, default=HERE, help=f"Processor of the site. Default: {HERE}.")
    parser.add_argument("--wheel", type=Path, help="Our whole wheel, if it is already built.")
    parser.add_argument("--no-sbom", action="store_true", help="Leave out sbom.cdx.json; its tool downloads 40 MB.")
    options = parser.parse_args()
    if options.platform not in EXTRAS[options.extra]:
        parser.error(
            f"--extra {options.extra}: the package index has wheels for {', '.join(EXTRAS[options.extra])} only"
        )
    if options.python not in PYTHONS:  # argparse does not compare a default with choices
        parser.error(f"--python {options.python}: the locks have hashes for {', '.join(PYTHONS)}; name one of them")
    lock = lock_file(options.extra, options.platform)
    out: Path = options.out.resolve()
    if out.exists():
        parser.error(f"{out} exists; delete it, or name a new folder")
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        wheel = make_site_wheel(options.wheel or build_wheel(Path(folder)), out)
    download(lock, options.python, options.platform, out)
    write_requirements(lock, wheel, out)
    if options.platform != HERE:
        print(f"no sbom.cdx.json: wheels for {options.platform} cannot be installed on {HERE}", file=sys.stderr)
    elif not options.no_sbom:
        before = digests(out)
        write_sbom(out)  # a tool of the package index, without hashes: what it could have changed is not handed over
        if before != {name: digest for name, digest in digests(out).items() if name != SBOM_NAME}:
            sys.exit(f"{out}: files changed while {SBOM_NAME} was made; delete the folder and do not use it")
    size = write_sums(out)
    print(f"{out}: {len(list(out.iterdir()))} files, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()

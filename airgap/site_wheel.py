"""Make the wheel of a site from the whole one: the runtime and the site's commands, without trainer, base and judges.

    python airgap/site_wheel.py dist/dpd_distill-VERSION-py3-none-any.whl dist

It has the same name and the version `VERSION+site`, so that pip replaces one by the other. Equal wheels give equal
bytes.
"""

import argparse
import base64
import hashlib
import re
import zipfile
from pathlib import Path

KEPT = re.compile(
    r"dpd_runtime/.*"
    r"|dpd_cli/(?:__init__|__main__|main|config|gone|options|terminal)\.py|dpd_cli/py\.typed"
    r"|dpd_cli/commands/(?:__init__|bundles|doctor|generate|predict)\.py"
)
EXTRAS = ("cpu", "openvino", "gpu", "gpu-cuda12", "trt", "rtx", "bands", "parquet", "ray", "age")
"""Those of the whole wheel that a site can use."""


def make_site_wheel(whole: Path, out: Path) -> Path:
    """Write the wheel of a site into the folder `out`.

    Raises:
        SystemExit: `whole` is not a wheel of this project.
    """
    match = re.fullmatch(r"dpd_distill-([0-9.]+(?:dev[0-9]+)?)-py3-none-any\.whl", whole.name)
    if match is None:
        raise SystemExit(f"{whole}: is no whole wheel of dpd-distill")
    old, new = (f"dpd_distill-{version}" for version in (match[1], f"{match[1]}+site"))
    out.mkdir(parents=True, exist_ok=True)
    place = out / f"{new}-py3-none-any.whl"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as target:
        rows = []
        for info in source.infolist():
            name = info.filename.replace(f"{old}.dist-info/", f"{new}.dist-info/")
            if name == f"{new}.dist-info/RECORD" or not (KEPT.fullmatch(name) or name.startswith(f"{new}.dist-info/")):
                continue
            content = source.read(info)
            if name == f"{new}.dist-info/METADATA":
                content = _metadata(content.decode(), match[1]).encode()
            elif name == f"{new}.dist-info/entry_points.txt":
                content = b"[console_scripts]\ndpd = dpd_cli.main:main\n"
            elif name == f"{new}.dist-info/top_level.txt":
                content = b"dpd_cli\ndpd_runtime\n"
            rows.append(f"{name},sha256={_digest(content)},{len(content)}")
            _write(target, name, content, info)
        record = f"{new}.dist-info/RECORD"
        _write(target, record, "\n".join([*rows, f"{record},,", ""]).encode(), info)
    return place


def _metadata(text: str, version: str) -> str:
    """The metadata without the extras of a research machine."""
    head, blank, body = text.partition("\n\n")
    head = head.replace(f"\nVersion: {version}\n", f"\nVersion: {version}+site\n")
    return "\n".join(line for line in head.split("\n") if _is_kept(line)) + blank + body


def _is_kept(line: str) -> bool:
    extra = re.search(r"extra == ['\"]([a-z0-9-]+)['\"]|^Provides-Extra: ([a-z0-9-]+)$", line)
    return extra is None or (extra[1] or extra[2]) in EXTRAS


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _write(target: zipfile.ZipFile, name: str, content: bytes, like: zipfile.ZipInfo) -> None:
    entry = zipfile.ZipInfo(name, like.date_time)
    entry.external_attr, entry.compress_type = like.external_attr, zipfile.ZIP_DEFLATED
    target.writestr(entry, content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path, help="Folder of the site's wheel.")
    options = parser.parse_args()
    place = make_site_wheel(options.wheel, options.out)
    with zipfile.ZipFile(place) as files:
        python = [name for name in files.namelist() if name.endswith(".py")]
        lines = sum(files.read(name).count(b"\n") for name in python)
    print(f"{place}: {place.stat().st_size / 1e6:.1f} MB, {len(python)} modules, {lines:,} lines of Python")


if __name__ == "__main__":
    main()

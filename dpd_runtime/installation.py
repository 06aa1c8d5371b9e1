"""The command that installs more of our own extras, in the form that works where this package came from.

`dpd-distill` is in no index yet: there the name could be a stranger's (SECURITY.md). So no message takes it from one.
"""

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAME = "dpd-distill"
TORCH_FOR_CPU = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
HERE = Path(__file__).parents[1]


def install_command(extras: str) -> str:
    """`pip install …` for extras such as "train,cpu"."""
    if _is_checkout(HERE):
        return f"pip install -e {_quoted(f'{HERE}[{extras}]')}"
    origin = _origin()
    url = str(origin.get("url", ""))
    place = _path(url) if url.startswith("file:") else Path()
    if "dir_info" in origin and _is_checkout(place):
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}{_quoted(f'{place}[{extras}]')}"
    if "archive_info" in origin and (place.is_file() or not url.startswith("file:")):
        return f"pip install {_quoted(f'{NAME}[{extras}] @ {url}')}"
    if "vcs_info" in origin:
        known = origin["vcs_info"]
        revision = f"{known['vcs']}+{url}@{known['commit_id']}"
        return f"pip install {_quoted(f'{NAME}[{extras}] @ {revision}')}"
    return (
        f'pip install --no-index --find-links WHEELS "{NAME}[{extras}]", where WHEELS is a folder with our wheel and '
        "those that it needs"
    )


def before_it(packages: Sequence[str]) -> str:
    """What comes before `install_command` where PyTorch is missing: on Linux an index gives the build for CUDA."""
    if "torch" not in packages or not sys.platform.startswith("linux") or "--no-index" in install_command("train"):
        return ""
    return f"; without a CUDA GPU this comes before it, or several GB of CUDA are fetched: {TORCH_FOR_CPU}"


def _is_checkout(folder: Path) -> bool:
    try:
        return f'name = "{NAME}"' in (folder / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def _origin() -> dict[str, Any]:
    """What pip noted about where it took the package from (PEP 610); empty for an index or --find-links."""
    from importlib import metadata

    try:
        content = json.loads(metadata.distribution(NAME).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _path(url: str) -> Path:
    from urllib.parse import urlsplit
    from urllib.request import url2pathname  # brings http and ssl, which a command that works does not need

    return Path(url2pathname(urlsplit(url).path))


def _quoted(text: str) -> str:
    """One word for a shell, in double quotes where they are enough, as every system knows them."""
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'

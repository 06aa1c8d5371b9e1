"""Where results that can be made again are kept, outside every project."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """$XDG_CACHE_HOME/dpd/NAME, or ~/.cache/dpd/NAME; not made here."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "dpd" / name

"""What `tensorrt` measured of kernels on this GPU, kept so that the next build need not measure again.

Not for `tensorrt-rtx`: there it changes nothing in the engine and makes the builder ask for a GPU (its release notes).
Never executed here: the package cannot be installed on this project's machines.
"""

from pathlib import Path
from typing import Any

from dpd_runtime.files import cache_folder, write_atomically


def timing_file(name: str, version: str, capability: int) -> Path:
    return cache_folder("tensorrt-timings") / f"{name}-{version}-{capability}.cache"


def known_timings(config: Any, name: str, version: str, capability: int) -> None:
    """Give the builder what earlier builds left; it measures anew where that does not fit."""
    path = timing_file(name, version, capability)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)


def keep_timings(config: Any, name: str, version: str, capability: int) -> None:
    """Write what the builder now knows; the folder is the user's alone, since native code reads it."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    path = timing_file(name, version, capability)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, bytes(cache.serialize()))

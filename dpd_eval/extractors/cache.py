"""Files in the user's cache that hold what was trained on real images."""

import hashlib
import json
import tempfile
from pathlib import Path

from dpd_runtime.annotations import Images, Int64
from dpd_runtime.errors import DiskError


def images_hash(images: Images, labels: Int64) -> str:
    """sha256 over shape, pixels [n, H, W, 3] and labels [n], in their order (the order decides the batches)."""
    digest = hashlib.sha256(json.dumps(images.shape).encode())
    digest.update(images.tobytes())
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def store(path: Path, content: bytes) -> None:
    """Write a file atomically, in a folder that only the user can read. Two processes may write the same file.

    Raises:
        DiskError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # the results remember training images
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError as error:
        raise DiskError(
            f"{path.parent}: the result of a training cannot be stored ({error.strerror}); "
            "set XDG_CACHE_HOME to another folder"
        ) from None

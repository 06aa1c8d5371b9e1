"""Print the result of a recipe, and write it to --out."""

import json
from pathlib import Path
from typing import Any

from dpd_runtime.files import write_atomically


def tell(result: dict[str, Any], out: Path | None) -> None:
    text = json.dumps(result, indent=1)
    print(text)
    if out:
        write_atomically(out, (text + "\n").encode())

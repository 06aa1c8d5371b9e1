"""Print a benchmark's result, and write it to --out."""

import json
from pathlib import Path
from typing import Any


def tell(result: dict[str, Any], out: Path | None) -> None:
    text = json.dumps(result, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")

"""Tables of the fold: each target with its sources, in reading order."""
import json, sys
from pathlib import Path
OUT = Path(__file__).parent
def table(name, base, targets, **more):
    rows = {}
    for new, olds in targets.items():
        for old in olds.split():
            o = old if old.endswith("/") else base + old + ".py"
            if old.endswith("/"):
                rows[base + old] = base + new
            else:
                assert o not in rows, o
                if not Path(o).exists():
                    print('skipped', name, o)
                    return
                rows[o] = base + new + ".py"
    for k, v in more.items():
        rows["!" + k] = v
    (OUT / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
exec((OUT / "tables.py").read_text())

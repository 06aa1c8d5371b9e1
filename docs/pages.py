"""Write what the site is built from: `python docs/pages.py` fills build/pages/, which mkdocs.yml names.

Pages link to each other as they lie in the repository, so that the links work there too. In the site docs/ is the root;
each linked file outside docs/ is copied into it under its own path. The pages on options and records are written from
code. So the generator of the site sees nothing but Markdown, and another one could take its place.
"""

import posixpath
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from options_page import options_page
from records_page import records_page

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "pages"
WRITTEN = {"docs/reference/options.md": options_page, "docs/reference/records.md": records_page}
ROOT_PAGES = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")


def write_pages(out: Path) -> None:
    """Write all pages, and the files that they link to, into the folder `out`, which is made anew."""
    shutil.rmtree(out, ignore_errors=True)
    waiting = [*(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))), *ROOT_PAGES]
    known = set(waiting)
    while waiting:
        path = waiting.pop()
        place = out / in_site(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not path.endswith(".md"):
            shutil.copyfile(ROOT / path, place)
            continue
        text = WRITTEN[path]() if path in WRITTEN else (ROOT / path).read_text(encoding="utf-8")
        place.write_text(moved(path, text), encoding="utf-8")
        found = {target for link in LINK.findall(text) if (ROOT / (target := linked(path, link))).is_file()}
        waiting += sorted(found - known)
        known |= found


def moved(page: str, text: str) -> str:
    """The text with the site's links in the place of the repository's."""
    folder = posixpath.dirname(in_site(page)) or "."
    return LINK.sub(lambda match: posixpath.relpath(in_site(linked(page, match[1])), folder), text)


def in_site(path: str) -> str:
    """Return where a file of the repository lies in the site."""
    return ROOT_PAGES.get(path, path.removeprefix("docs/"))


def linked(page: str, target: str) -> str:
    """Return the repository path of a link's target."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


if __name__ == "__main__":
    write_pages(OUT)

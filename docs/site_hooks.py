"""Hooks of `make docs`: pages written from code, the pages of the repository's root, and links to files outside docs/.

Pages link to each other as they lie in the repository, so that the links work there too. In the site docs/ is the root;
each linked file outside docs/ is copied into it under its own path.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
OPTIONS, RECORDS = "reference/options.md", "reference/records.md"
WRITTEN = (OPTIONS, RECORDS)
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root, and each file that a page links to outside docs/."""
    for source, place in ROOT_PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for target in LINK.findall((ROOT / in_repository(page)).read_text(encoding="utf-8")):
            place = in_site(linked(page, target))
            if files.get_file_from_path(place) is None and (ROOT / place).is_file():
                files.append(File(place, str(ROOT), config.site_dir, config.use_directory_urls))
                waiting += [place] if place.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn the repository's links into the site's; the pages of options and records are written here."""
    if page.file.src_uri in WRITTEN:
        sys.path.insert(0, str(Path(__file__).parent))
        if page.file.src_uri == OPTIONS:
            from options_page import options_page

            return options_page()
        from records_page import records_page

        return records_page()
    folder = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        return posixpath.relpath(in_site(linked(page.file.src_uri, match[1])), folder or ".")

    return LINK.sub(moved, markdown)


def in_repository(place: str) -> str:
    """Return where a page of the site lies in the repository."""
    for source, name in ROOT_PAGES.items():
        if place == name:
            return source
    return f"docs/{place}" if (ROOT / "docs" / place).is_file() else place


def in_site(path: str) -> str:
    """Return where a file of the repository lies in the site."""
    return ROOT_PAGES.get(path, path.removeprefix("docs/"))


def linked(page: str, target: str) -> str:
    """Return the repository path of a link's target."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(in_repository(page)), target))

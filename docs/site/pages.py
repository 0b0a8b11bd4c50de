"""Hooks of MkDocs: pages outside `docs` become pages of the site, and links to other files of the
repository lead to its host.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
REPOSITORY = os.environ.get("REPOSITORY_URL", "https://github.com/personlab-keras/personlab-keras")
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages outside `docs`."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_links(text, ROOT)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mends the links of the pages in `docs`."""
    if page.file.src_uri in OUTSIDE.values():
        return markdown
    return _links(markdown, ROOT / "docs")


def _links(text: str, folder: Path) -> str:
    """Markdown with links that are relative to a folder, mended for the site."""

    def mended(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = Path(os.path.normpath(folder / target)).relative_to(ROOT).as_posix()
        anchor = f"#{anchor}" if anchor else ""
        if path in OUTSIDE:
            return f"]({OUTSIDE[path]}{anchor})"
        if path.startswith("docs/"):
            return f"]({path.removeprefix('docs/')}{anchor})"
        return f"]({REPOSITORY}/blob/main/{path}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", mended, text)

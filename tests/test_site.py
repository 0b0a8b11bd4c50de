"""The site builds without a warning, and every link and picture in it leads somewhere."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """Links and ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if value and ((tag in ("a", "link") and name == "href") or name == "src"):
                self.links.append(value)
            if name in ("id", "name") and value:
                self.ids.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_docs_is_on_the_site(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.stem / "index.html").is_file(), page.name
    assert (site / "index.html").is_file()


def test_no_link_is_broken(site):
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken, checked = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//") or path.name == "404.html":
                continue
            target = path.parent / unquote(parts.path) if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            target = Path(os.path.normpath(target))
            checked += 1
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and target in pages and parts.fragment not in pages[target].ids:
                broken.append(f"{path.relative_to(site)}: {link}: no such heading")
    assert checked > 500
    assert not broken


def test_the_api_page_shows_signatures_and_examples(site):
    text = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("load", "Predictor", "Result", "decode", "make_dataset", "Tracker"):
        assert f">{name}<" in text or f'">{name}' in text, name
    assert "Raises:" in text
    assert "&gt;&gt;&gt;" in text


def test_pages_ask_no_other_host(site):
    for path in site.rglob("*.html"):
        for link in Page(path.read_text(encoding="utf-8")).links:
            if urlsplit(link).scheme:
                assert not link.endswith((".js", ".css", ".woff2", ".png", ".jpg")), (path, link)

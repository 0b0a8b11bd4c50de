"""The page of `personlab inspect`: whole by itself, and looked at by a real browser."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from data_prep.inspection import inspect
from data_prep.page import drawn
from data_prep.statistics import summary
from personlab_keras.data.records import META_FILE, read_folder, read_meta

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
LOOK = """
<script>
window.addEventListener("load", () => {
  const pictures = [...document.images], boxes = [...document.querySelectorAll("input[data-kind]")];
  const shown = () => [...document.querySelectorAll(".sheet figure")].filter(figure => figure.offsetHeight > 0).length;
  const before = shown();
  boxes[0].click();
  const after = shown();
  boxes[0].click();
  document.body.dataset.seen = JSON.stringify({
    pictures: pictures.length, broken: pictures.filter(picture => picture.naturalWidth == 0).length, before, after, again: shown(),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    bars: Math.max(...[...document.querySelectorAll(".bar")].map(bar => bar.offsetWidth)), attack: window.attack === undefined,
  });
});
</script>"""


@pytest.fixture(scope="module")
def looked_at(records, tmp_path_factory):
    """A records folder whose reasons would do harm if they got into the page as they are; its page;
    its counts.
    """
    folder = shutil.copytree(records, tmp_path_factory.mktemp("looked at") / "re<cords & co")
    values = json.loads((folder / META_FILE).read_text())
    values["skipped"] = {"image missing": 3}
    values["examples"] = {"image missing": ["image 3 '<script>window.attack = 1</script>.jpg'"]}
    (folder / META_FILE).write_text(json.dumps(values))
    out = folder.parent / "page"
    return folder, out, inspect(folder, out, count=2, sheet=6)


def test_the_page_says_what_was_counted_and_needs_nothing_beside_it(looked_at):
    folder, out, counts = looked_at
    text = (out / "index.html").read_text()
    assert counts == summary(folder)
    assert f"Views: {counts['views']}. Persons: {counts['persons']}." in text
    assert html.escape(str(folder)) in text
    assert "&lt;script&gt;window.attack" in text
    assert "<script>window.attack" not in text
    assert text.count("<figure") == 6 + 2
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    for reason, count in counts["skipped"].items():
        assert f"<td>{reason}</td><td>{count}</td>" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the page is not looked at")
def test_a_browser_shows_it(looked_at, tmp_path):
    _, out, _ = looked_at
    page = tmp_path / "page.html"
    page.write_text((out / "index.html").read_text() + LOOK)
    for width in (1280, 420):
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=5000", "--dump-dom", page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        found = re.search(r'<body data-seen="([^"]*)"', done.stdout)
        assert found, done.stderr[-1000:]
        seen = json.loads(html.unescape(found[1]))
        assert (seen["pictures"], seen["broken"]) == (8, 0)
        assert seen["before"] == seen["again"] == 6
        assert seen["after"] < 6
        assert seen["attack"]
        assert seen["bars"] > 50
        assert seen["overflow"] <= 0


def test_histograms_count_everybody_once(records):
    counts, meta = summary(records), read_meta(records)
    stored = list(read_folder(records, meta))
    people = [len(record.person_ids) for record in stored]
    assert counts["people per view"] == {str(n): people.count(n) for n in range(max(people) + 1)}
    labelled = [int(person[:, 2].sum()) for record in stored for person in record.targets.keypoints]
    assert counts["labelled keypoints per person"] == {str(n): labelled.count(n) for n in range(18)}
    assert sum(counts["sizes of people"].values()) == sum(people) == counts["persons"]
    sides = [np.sqrt(area) / 97 for record in stored for area in record.person_areas]
    assert counts["sizes of people"]["20.0% to 40.0%"] == sum(0.2 < side <= 0.4 for side in sides)


def test_what_does_not_count_is_hatched_where_it_is(records):
    meta = read_meta(records)
    record = next(record for record in read_folder(records, meta) if len(record.person_ids))
    ignore = np.zeros_like(record.targets.ignore)
    ignore[:3, :3] = 1
    plain = drawn(
        replace(record, targets=replace(record.targets, ignore=np.zeros_like(ignore))), meta
    )
    marked = drawn(replace(record, targets=replace(record.targets, ignore=ignore)), meta)
    rows, columns = np.nonzero((plain != marked).any(axis=2))
    # Cells are 8 pixels apart: the third, at 16, reaches half way to the fourth.
    assert max(rows.max(), columns.max()) == 20
    assert len(rows) > 20
    assert marked.shape == (97, 97, 3)

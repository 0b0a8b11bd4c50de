"""The pictures of docs/decoder.md: there, showing something, the same at every run, and all of them
in the text.
"""

import importlib.util
import re
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def draw_all():
    spec = importlib.util.spec_from_file_location(
        "draw_decoder", ROOT / "scripts" / "draw_decoder.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda folder: module.main(["--out", str(folder)])


def test_the_pictures_show_something_and_are_the_same_at_every_run(draw_all, tmp_path):
    for run in ("first", "second"):
        draw_all(tmp_path / run)
    files = sorted((tmp_path / "first").iterdir())
    for file in files:
        picture = cv2.imread(str(file))
        assert min(picture.shape[:2]) >= 200, file.name
        assert picture.std() > 10, file.name
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name
    shown = re.findall(
        r"\]\(images/decoder/(\w+\.jpg)\)",
        (ROOT / "docs" / "decoder.md").read_text(encoding="utf-8"),
    )
    assert sorted(shown) == [file.name for file in files]

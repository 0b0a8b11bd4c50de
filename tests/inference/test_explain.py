"""The page of `personlab explain` tells what `decode` does."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from decode_oracles import RADIUS, paint, standing, unsure

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import FramedMaps, decode
from personlab_keras.inference.explain import explain, told
from personlab_keras.method.frame import Frame
from personlab_keras.method.skeleton import COCO_PERSON

OPTIONS = DecodeConfig(scale_range=(0.0, 1000.0))
NOSE, ELBOW, WRIST = (COCO_PERSON.index(name) for name in ("nose", "left_elbow", "left_wrist"))


@pytest.fixture(scope="module")
def passes() -> list[FramedMaps]:
    """Two people at two sizes, the second without an elbow, and a faint nose of nobody."""
    people = [standing(120, 150), standing(300, 150, 0.9)]
    people[1][ELBOW] = np.nan
    sizes = []
    for scale, side in ((1.0, 401), (0.5, 201)):
        maps = paint([each * scale for each in people], side, side, 8)
        if scale == 1:  # sixteen votes of a tenth for one point
            maps.heatmaps[-4:, -4:, NOSE] = 0.1
            away = np.arange(4) * 8 - 8
            maps.short_offsets[-4:, -4:, NOSE] = -np.stack(np.meshgrid(away, away), axis=-1)
        sizes.append(FramedMaps(maps, Frame(401, 401, (scale, scale))))
    return sizes


def test_it_tells_of_the_people_that_decode_returns(passes):
    story = told(passes, COCO_PERSON, OPTIONS, RADIUS)
    people = decode(passes, COCO_PERSON, OPTIONS, radius=RADIUS)
    returned = [each for each in story["people"] if each["fate"] == "returned"]
    assert len(returned) == len(people) == 2 == story["counts"]["returned"]
    assert [each["score"] for each in returned] == [round(p.score, 3) for p in people]
    for each in returned:
        assert len(each["steps"]) == 16
        # The walk of a perfect person ends at the keypoints.
        for step in each["steps"]:
            if step["found"]:
                np.testing.assert_allclose(
                    step["path"][-1], each["points"][step["target"]], atol=0.2
                )
    assert [each["bridged"] for each in returned] == [[], [WRIST]]
    assert returned[1]["points"][ELBOW] is None


@pytest.mark.parametrize(
    "maps",
    [
        # Close neighbours, whose cells the decoder tells apart by their votes.
        paint([standing(120, 150), standing(132, 153)], 401, 401, 8),
        unsure([standing(120, 150), standing(132, 153)], 401, seed=3),
    ],
    ids=["perfect", "unsure"],
)
def test_the_walks_on_the_page_are_those_of_the_decoder(maps):
    options = replace(OPTIONS, bridge=False, vote_refinements=0)
    story = told([FramedMaps(maps, Frame(401, 401))], COCO_PERSON, options, RADIUS)
    walked = 0
    for each in story["people"]:
        for step in each["steps"]:
            if step["found"]:
                assert step["path"][-1] == each["points"][step["target"]]
                walked += 1
    assert walked >= 20


def test_everything_has_a_fate(passes):
    story = told(passes, COCO_PERSON, OPTIONS, RADIUS)
    counts = story["counts"]
    assert counts["people read"] == len(story["people"]) == 5
    assert counts["returned"] + counts["merged into a better reading"] == 4
    (faint,) = (each for each in story["people"] if each["fate"].startswith("below"))
    assert faint["fate"].startswith("below decode.score_threshold 0.3: 0.0")
    for size in story["sizes"]:
        starts = [peak for peak in size["peaks"] if peak[4].startswith("starts person")]
        assert len(starts) in (2, 3)
        rest = [peak[4] for peak in size["peaks"] if peak not in starts]
        assert all(verdict.startswith("within nms_radius") for verdict in rest)


def test_the_page_holds_everything_itself(passes):
    predictor = SimpleNamespace(
        framed_maps=lambda image: passes,
        skeleton=COCO_PERSON,
        decode_options=OPTIONS,
        radius=RADIUS,
    )
    page = explain(predictor, np.zeros((401, 401, 3), np.uint8), "</script><b>.jpg")
    code = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|src=|@import", code)
    assert "<b>.jpg" not in page
    data = re.search(r'type="application/json">(.*?)</script>', page, re.S)
    assert len(json.loads(data[1])["people"]) == 5

"""Ids across frames, and keypoints without jitter."""

import json
import math

import cv2
import numpy as np
import pytest

from personlab_keras.cli import main
from personlab_keras.inference.predict import Predictor
from personlab_keras.inference.video import predict_video
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.tracking.similarity import box_overlap, pose_similarity
from personlab_keras.tracking.smoothing import OneEuro, Smoother

pytest.importorskip("trackers")
from personlab_keras.tracking import Tracker

RATE = 25.0
STANDING = np.array(
    [(0, 0), (2, -2), (-2, -2), (4, 0), (-4, 0), (10, 15), (-10, 15), (12, 35), (-12, 35)]
    + [(12, 52), (-12, 52), (7, 55), (-7, 55), (7, 80), (-7, 80), (7, 104), (-7, 104)],
    float,
)


def person(x: float, y: float = 50.0, score: float = 0.8, lean: float = 0.0) -> Person:
    """A standing figure of 106 pixels, its head moved sideways by `lean`."""
    pose = STANDING + (x, y)
    pose[:5, 0] += lean
    return Person(pose, np.full(17, 0.8), score)


def ids(tracker: Tracker, *frames: list[Person], start: int = 0) -> list[list[int | None]]:
    return [
        [each.id for each in tracker.update(people, (start + i) / RATE)]
        for i, people in enumerate(frames)
    ]


def test_people_who_cross_keep_their_ids():
    tracker = Tracker(RATE)
    places = [(100 + 5 * i, 350 - 5 * i) for i in range(50)]
    # The second one is missing for half a second while it is behind the first.
    found = [
        [person(a, 50, 0.9)] + ([person(b, 44, 0.7)] if not 20 <= i < 32 else [])
        for i, (a, b) in enumerate(places)
    ]
    given = ids(tracker, *found)
    assert given[0] == [None, None]  # a first frame may be a mistake
    assert {each[0] for each in given[1:]} == {1}
    assert {each[1] for each in given[1:] if len(each) > 1} == {2}


def test_the_order_of_the_people_does_not_matter():
    tracker = Tracker(RATE)
    given = ids(
        tracker,
        *([person(100 + i), person(300 - i)][:: 1 if i % 2 else -1] for i in range(10)),
    )
    (first, second) = given[1]
    assert {first, second} == {1, 2}
    assert given[1:] == [[first, second] if i % 2 else [second, first] for i in range(1, 10)]


def test_a_pose_tells_apart_what_boxes_do_not():
    """Two people in one place, one upright and one upside down, that exchange boxes of a pixel."""
    upside_down = Person((STANDING * (1, -1)) + (103, 154), np.full(17, 0.8), 0.8)
    upright = person(100)
    frames = [[upright, upside_down] for _ in range(5)]
    swapped_places = [[person(103), Person(upside_down.keypoints - (3, 0), np.full(17, 0.8), 0.8)]]
    assert ids(Tracker(RATE), *frames, *swapped_places)[-1] == [1, 2]
    assert ids(Tracker(RATE, pose_weight=0.0), *frames, *swapped_places)[-1] == [2, 1]


@pytest.mark.parametrize(("seconds", "same"), [(1.0, True), (4.0, False)])
def test_who_returns_soon_is_the_same(seconds, same):
    tracker = Tracker(RATE)
    before = ids(tracker, *[[person(100)]] * 10)
    gone = int(seconds * RATE)
    ids(tracker, *[[]] * gone, start=10)
    after = ids(tracker, *[[person(100)]] * 3, start=10 + gone)
    assert (after[-1] == before[-1]) == same


def test_an_uncertain_person_continues_a_track_but_starts_none():
    tracker = Tracker(RATE)
    given = ids(
        tracker,
        *[[person(100, score=0.3)]] * 3,
        *[[person(100)]] * 3,
        *[[person(100, score=0.2)]] * 3,
    )
    assert given == [[None]] * 4 + [[1]] * 5


def test_partly_hidden_people_keep_their_ids():
    tracker = Tracker(RATE)
    whole = [[person(100 + 2 * i)] for i in range(10)]
    heads = []
    for i in range(10, 20):
        pose = person(100 + 2 * i).keypoints.copy()
        pose[5:] = np.nan
        heads.append([Person(pose, np.where(np.isfinite(pose[:, 0]), 0.8, 0), 0.5)])
    assert {each[0] for each in ids(tracker, *whole, *heads)[1:]} == {1}


def test_people_are_not_changed_but_for_their_id():
    first = person(100)
    tracker = Tracker(RATE)
    tracker.update([first], 0.0)
    (named,) = tracker.update([first], 0.04)
    assert first.id is None
    np.testing.assert_array_equal(named.keypoints, first.keypoints)
    assert (named.id, named.score) == (1, first.score)
    assert Tracker(RATE).update([], 0.0) == []


def test_similarity_of_poses_is_coco_s():
    """exp(-d^2 / (2 area kappa^2)), averaged; worked out for one moved keypoint."""
    pose = STANDING[None]
    moved = pose.copy()
    moved[0, 0] += (3, 4)
    area = 24 * 106.0
    one = math.exp(-25 / (2 * area * (2 * 0.026) ** 2))
    found = pose_similarity(pose, moved, np.array([area]), COCO_PERSON)
    assert found[0, 0] == pytest.approx((16 + one) / 17)
    few = np.full((1, 17, 2), np.nan)
    few[0, :3] = 0
    assert np.isnan(pose_similarity(pose, few, np.array([area]), COCO_PERSON)).all()
    assert box_overlap(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 1, 3, 3]]))[0, 0] == 1 / 7


# --- smoothing


def test_the_one_euro_filter_by_hand():
    smooth = OneEuro(min_cutoff=1.0, beta=2.0, speed_cutoff=1.0)
    smooth(np.zeros((1, 2)), 0.0, size=100.0)
    out = smooth(np.array([[10.0, 0.0]]), 0.1, size=100.0)
    # Speed 100 px/s is a body height a second; filtered by r / (r + 1) with r = 2 pi 0.1.
    speed = 100 * 0.2 * math.pi / (0.2 * math.pi + 1) / 100
    rate = 2 * math.pi * (1.0 + 2.0 * speed) * 0.1
    np.testing.assert_allclose(out, [[10 * rate / (rate + 1), 0]])


def test_jitter_shrinks_and_motion_is_followed():
    rng = np.random.default_rng(0)
    rest, run = OneEuro(), OneEuro()
    noise = rng.normal(0, 1, (100, 17, 2))
    still = np.array([rest(noise[i], i / RATE, 200.0) for i in range(100)])[20:]
    assert still.std() < 0.5 * noise.std()
    path = np.arange(100)[:, None, None] * np.array([12.0, 0.0]) + np.zeros((1, 17, 1))
    moved = np.array([run(path[i], i / RATE, 200.0) for i in range(100)])[20:]
    assert np.abs(moved - path[20:]).max() < 12  # within a frame


def test_missing_keypoints_stay_missing_and_return_where_they_are():
    smooth = OneEuro()
    present, missing = np.array([[5.0, 5], [9, 9]]), np.array([[5.0, 5], [np.nan, np.nan]])
    smooth(present, 0.0, 100.0)
    assert np.isnan(smooth(missing, 0.04, 100.0)[1]).all()
    np.testing.assert_array_equal(smooth(present + 50, 0.08, 100.0)[1], [59, 59])
    np.testing.assert_array_equal(smooth(present, 5.0, 100.0), present)  # after a long pause


def test_each_id_has_a_filter_of_its_own():
    from dataclasses import replace

    smooth = Smoother()
    two = [replace(person(100), id=1), replace(person(300), id=2), person(500)]
    smooth(two, 0.0)
    later = smooth([replace(person(102), id=2), replace(person(110), id=1), person(503)], 0.04)
    assert 102 < later[0].keypoints[0, 0] < 300
    assert 100 < later[1].keypoints[0, 0] < 110
    assert later[2].keypoints[0, 0] == 503


# --- in a video


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE, (400, 200))
    for _ in range(12):
        writer.write(np.full((200, 400, 3), 120, np.uint8))
    writer.release()
    return path


@pytest.fixture
def stand_in(monkeypatch):
    """A predictor whose people walk towards each other."""
    counter = iter(range(1000))

    def decode(*_, **__):
        i = next(counter)
        return [person(100 + 4 * i, 50, 0.9), person(300 - 4 * i, 44)]

    monkeypatch.setattr("personlab_keras.inference.video.decode", decode)
    monkeypatch.setattr(Predictor, "framed_maps", lambda *_: [])
    return Predictor(model=None)


def test_a_tracked_video_has_ids_in_its_lines(stand_in, clip, tmp_path):
    predict_video(stand_in, str(clip), tmp_path / "out" / "clip", track=True)
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "clip.jsonl").read_text().splitlines()
    ]
    assert [[each.get("id") for each in line["people"]] for line in lines] == [
        [None, None],
        *[[1, 2]] * 11,
    ]


def test_the_commands_track_and_smooth(stand_in, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("personlab_keras.inference.predict.load", lambda *_: stand_in)
    model = str(clip)  # any file: the predictor is another
    arguments = ["predict", str(clip), "--model", model, "--out", str(tmp_path / "out"), "--smooth"]
    assert main(arguments) == 0
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "clip.jsonl").read_text().splitlines()
    ]
    assert lines[-1]["people"][0]["id"] == 1
    # Smoothed: behind the place where the person was found.
    assert 140 < lines[-1]["people"][0]["keypoints"][0][0] < 144
    cv2.imwrite(str(tmp_path / "x.jpg"), np.zeros((20, 20, 3), np.uint8))
    arguments = ["predict", str(tmp_path / "x.jpg"), "--model", "m", "--out", "o", "--track"]
    assert main(arguments) == 2
    assert "--track and --smooth follow people in videos. Received:" in capsys.readouterr().err

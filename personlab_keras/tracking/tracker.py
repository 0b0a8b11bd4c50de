"""Ids of people across the frames of a video.

ByteTrack from the library `trackers` predicts where each person moves and assigns the people found.
The similarity of a person and a track combines box and pose: boxes alone exchange ids when people
cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton
from personlab_keras.tracking.similarity import box_overlap, pose_similarity
from personlab_keras.tracking.smoothing import Smoother

_BUFFER = 60
"""Frames at 30 Hz for which a person who is not found keeps their id."""
_CERTAIN = 0.4
"""Lowest score of a person who may get a new id; others only continue a track."""
_SPEED_SECONDS = 0.3
"""Seconds over which the speed of a body is averaged."""
_LEAST_POSE = 0.1
"""Object keypoint similarity below which a person and a track do not match."""
_LEAST = 0.1
"""Lowest similarity of a matching person and track."""


class Tracker:
    """Gives people their ids, frame by frame.

    Args:
        rate: frames per second.
        skeleton: the keypoints of the people.
        smooth: whether keypoints are smoothed by a One-Euro filter.
        pose_weight: weight of the pose in the similarity, 0 to 1; the rest is that of the boxes. At
            0 boxes alone decide (docs/results.md).

    Raises:
        InputError: the package `trackers` is not installed.

    >>> tracker = Tracker(rate=25.0)
    >>> pose = np.linspace(0, 100, 34).reshape(17, 2)
    >>> person = Person(pose, np.ones(17), score=0.9)
    >>> [tracker.update([person], at=i / 25)[0].id for i in range(3)]
    [None, 1, 1]
    """

    def __init__(
        self,
        rate: float,
        skeleton: Skeleton = COCO_PERSON,
        smooth: bool = False,
        pose_weight: float = 0.75,
    ) -> None:
        try:
            from trackers import ByteTrackTracker
        except ImportError:
            raise InputError(
                "--track: needs the package trackers, which is not installed: "
                "pip install 'personlab-keras[track]'"
            ) from None
        self._similarity = _similarity(skeleton, pose_weight)
        self._tracker = ByteTrackTracker(
            lost_track_buffer=_BUFFER,
            frame_rate=rate,
            track_activation_threshold=_CERTAIN,
            high_conf_det_threshold=_CERTAIN,
            minimum_consecutive_frames=1,
            minimum_iou_threshold=_LEAST,
            iou=self._similarity,
        )
        self._smooth = Smoother() if smooth else None

    def update(self, people: Sequence[Person], at: float) -> list[Person]:
        """The people of the next frame, in their order, with ids from 1.

        Args:
            people: the people found in the frame.
            at: time of the frame in seconds.

        Returns:
            Copies with `id`, which is None in the first frame of a person, because the detection
            may be spurious, and for an uncertain person who continues no track.
        """
        import supervision

        boxes = np.array([person.box for person in people]).reshape(-1, 4)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        poses = np.array([person.keypoints for person in people])
        self._similarity.begin(corners, poses, self._tracker.tracks, at)
        found = self._tracker.update(
            supervision.Detections(
                xyxy=corners,
                confidence=np.array([person.score for person in people], float),
                data={"number": np.arange(len(people))},
            )
        )
        ids: dict[int, int] = {}
        if len(found):
            numbers = np.asarray(found.data["number"]).tolist()
            ids = dict(zip(numbers, found.tracker_id.tolist(), strict=True))
        named = [
            replace(person, id=ids[i] + 1 if ids.get(i, -1) >= 0 else None)
            for i, person in enumerate(people)
        ]
        self._similarity.end(named)
        return named if self._smooth is None else self._smooth(named, at)


def _similarity(skeleton: Skeleton, pose_weight: float) -> Any:
    """The similarity of boxes and poses, in the form expected by `trackers`."""
    from trackers import BaseIoU

    class BoxesAndPoses(BaseIoU):
        """`trackers` compares boxes; their poses are looked up by the boxes."""

        def __init__(self) -> None:
            self._poses: dict[bytes, np.ndarray] = {}
            self._tracks: list[Any] = []
            self._memory: dict[int, _Memory] = {}
            self._at = 0.0

        def begin(self, boxes: np.ndarray, poses: np.ndarray, tracks: list[Any], at: float) -> None:
            """Called before a frame, with the boxes (N, 4) and poses (N, K, 2) of its people."""
            self._poses = {box.tobytes(): pose for box, pose in zip(boxes, poses, strict=True)}
            self._tracks, self._at = list(tracks), at

        def end(self, people: list[Person]) -> None:
            """Called after a frame, with its people and their ids."""
            for person in people:
                if person.id is not None:
                    memory = self._memory.get(person.id - 1)
                    self._memory[person.id - 1] = (
                        _Memory(person.keypoints, np.zeros(2), self._at)
                        if memory is None
                        else memory.seen(person.keypoints, self._at)
                    )
            oldest = self._at - 2 * _BUFFER / 30
            self._memory = {n: kept for n, kept in self._memory.items() if kept.at >= oldest}

        def _compute(self, boxes_1: np.ndarray, boxes_2: np.ndarray) -> np.ndarray:
            overlap = box_overlap(boxes_1, boxes_2)
            if not pose_weight:
                return overlap
            found = np.array([self._poses[np.asarray(box, float).tobytes()] for box in boxes_2])
            expected = np.array([self._expected(box, found.shape[1]) for box in boxes_1])
            # Areas of the whole bodies seen so far: the area of a face alone would allow no motion.
            areas = _areas(expected)
            alike = pose_similarity(expected, found, areas, skeleton)
            joined = (1 - pose_weight) * overlap + pose_weight * alike
            joined = np.where(alike >= _LEAST_POSE, joined, 0.0)
            return np.where(np.isfinite(alike), joined, overlap)

        def _expected(self, box: np.ndarray, keypoints: int) -> np.ndarray:
            """The pose of the track predicted in this box; NaN if it has none yet."""
            track = next(t for t in self._tracks if np.array_equal(t.get_state_bbox(), box))
            memory = self._memory.get(track.tracker_id)
            return np.full((keypoints, 2), np.nan) if memory is None else memory.moved(self._at)

    return BoxesAndPoses()


def _areas(poses: np.ndarray) -> np.ndarray:
    """(N,) areas of the boxes around poses (N, K, 2); 0 without keypoints."""
    known = np.isfinite(poses)
    low = np.where(known, poses, np.inf).min(axis=1)
    high = np.where(known, poses, -np.inf).max(axis=1)
    return np.prod(np.where(high >= low, high - low, 0.0), axis=-1)


@dataclass(frozen=True)
class _Memory:
    """The pose of a track: the last position of each keypoint, moved with the body.

    Attributes:
        pose: (K, 2); NaN where never found.
        speed: (2,) of the body in pixels per second.
        at: time of the pose in seconds.
    """

    pose: np.ndarray
    speed: np.ndarray
    at: float

    def moved(self, at: float) -> np.ndarray:
        return self.pose + self.speed * (at - self.at)

    def seen(self, pose: np.ndarray, at: float) -> _Memory:
        steps = pose - self.pose
        steps = steps[np.isfinite(steps).all(axis=1)]
        elapsed = at - self.at
        speed = self.speed
        if len(steps) and elapsed > 0:
            share = min(1.0, elapsed / _SPEED_SECONDS)
            speed = (1 - share) * speed + share * np.median(steps, axis=0) / elapsed
        return _Memory(np.where(np.isfinite(pose), pose, self.moved(at)), speed, at)

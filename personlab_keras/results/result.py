"""`Result`: the people found in an image, together with the image."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from personlab_keras.drawing import draw
from personlab_keras.method.person import Person, people_to_dict
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

if TYPE_CHECKING:
    import pandas
    import supervision

_SHOWN_SIDE = 1000
"""Longer side in pixels of the picture in a notebook."""


class Result(list[Person]):
    """The people found in an image, best first: a list that knows its image.

    In a notebook it shows the image with the people.

    Attributes:
        image: (H, W, 3) uint8 RGB, not copied.
        skeleton: names the keypoints.
        name: name of the image or video; empty if unknown.
        frame: number of the frame in its video, from 0; None for an image.
        time: seconds from the start of the video; None for an image.

    >>> import personlab_keras as personlab
    >>> image = np.zeros((60, 80, 3), np.uint8)
    >>> found = Result([Person(np.full((17, 2), 9.0), np.ones(17), score=0.5)], image)
    >>> found
    <Result: 1 person, 80 x 60 pixels>
    >>> found[0].score, found.draw().shape, found.to_dict()["keypoint_names"][:2]
    (0.5, (60, 80, 3), ['nose', 'left_eye'])
    """

    def __init__(
        self,
        people: Iterable[Person],
        image: np.ndarray,
        skeleton: Skeleton = COCO_PERSON,
        name: str = "",
        frame: int | None = None,
        time: float | None = None,
    ) -> None:
        super().__init__(people)
        self.image, self.skeleton = image, skeleton
        self.name, self.frame, self.time = name, frame, time

    @property
    def width(self) -> int:
        """Width of the image in pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Height of the image in pixels."""
        return int(self.image.shape[0])

    def replaced(self, people: Iterable[Person]) -> Result:
        """The same image with other people, such as tracked ones."""
        return Result(people, self.image, self.skeleton, self.name, self.frame, self.time)

    def draw(self) -> np.ndarray:
        """The image with the people drawn over it, (H, W, 3) uint8 RGB (see `personlab.draw`)."""
        return draw(self.image, self, self.skeleton)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: "image" or, for a frame, "video", "frame" and "time" where known;
        "width", "height", "keypoint_names", "people" (see `Person.to_dict`).
        """
        kind = "image" if self.frame is None else "video"
        place: dict[str, Any] = {kind: self.name} if self.name else {}
        if self.frame is not None:
            place["frame"] = self.frame
        if self.time is not None:
            place["time"] = round(self.time, 4)
        found = people_to_dict(self.width, self.height, self)
        people = found.pop("people")
        return {**place, **found, "keypoint_names": list(self.skeleton.keypoints), "people": people}

    def to_pandas(self) -> pandas.DataFrame:
        """A `pandas.DataFrame` with a row per person and the columns of `tables.columns`. Keypoints
        that were not found are NaN.

        Raises:
            InputError: pandas is not installed.
        """
        from personlab_keras.results.tables import to_pandas

        return to_pandas(self)

    def to_supervision(self) -> tuple[supervision.KeyPoints, supervision.Detections]:
        """The people as `supervision.KeyPoints` and `supervision.Detections`, in the same order.

        Keypoints that were not found are at (0, 0) with confidence 0 and `visible` False. The
        detections have boxes, masks if there are any, and tracker ids if all people have one.

        Raises:
            InputError: supervision is not installed.
        """
        from personlab_keras.results.to_supervision import to_supervision

        return to_supervision(self)

    def __repr__(self) -> str:
        count = f"{len(self)} {'person' if len(self) == 1 else 'people'}"
        place = f" in {self.name}" if self.name else ""
        frame = "" if self.frame is None else f", frame {self.frame}"
        return f"<Result: {count}{place}{frame}, {self.width} x {self.height} pixels>"

    def _repr_html_(self) -> str:
        encoded = base64.b64encode(self._repr_jpeg_()).decode("ascii")
        caption = repr(self).strip("<>")
        return (
            f'<figure style="margin:0"><img src="data:image/jpeg;base64,{encoded}" alt="{caption}" '
            f'style="max-width:100%"><figcaption>{caption}</figcaption></figure>'
        )

    def _repr_jpeg_(self) -> bytes:
        drawn = self.draw()
        scale = _SHOWN_SIDE / max(drawn.shape[:2])
        if scale < 1:
            drawn = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return bytes(cv2.imencode(".jpg", drawn[..., ::-1])[1].tobytes())

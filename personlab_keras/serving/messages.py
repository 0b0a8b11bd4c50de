"""The messages between the HTTP application and the replicas."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class RequestOptions:
    """Options of a request; None for the setting of the model directory.

    Attributes:
        masks: whether to find instance masks.
        score_threshold: lowest score of the people returned.
    """

    masks: bool | None = None
    score_threshold: float | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Attributes:
        status: HTTP status: 200; 422 if the body is not an image or too large; 500 if the network
            or the decoder failed.
        body: JSON with width, height and people in pixels of the image as EXIF orients it, or
            {"error": one line}.
        people: number of people found.
        batch: number of images in the batch; set for its first image only, 0 for the others.
    """

    status: int
    body: bytes
    people: int = 0
    batch: int = 0


def refusal(status: int, error: str) -> Answer:
    """An answer with an error in one line.

    >>> refusal(422, "the image is empty")
    Answer(status=422, body=b'{"error": "the image is empty"}', people=0, batch=0)
    """
    return Answer(status, json.dumps({"error": error}).encode())


def failure(error: Exception) -> Answer:
    """The answer to an error that the client did not cause.

    >>> failure(MemoryError("out of memory")).body
    b'{"error": "MemoryError: out of memory"}'
    """
    first = (str(error).strip().splitlines() or [""])[0]
    return refusal(500, f"{type(error).__name__}: {first}")

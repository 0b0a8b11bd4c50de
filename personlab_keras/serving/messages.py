"""What front and replicas hand to each other."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class RequestOptions:
    """What a request may ask for; None for what the model directory says.

    Attributes:
        masks: whether to find instance masks.
        score_threshold: least score of a person that is returned.
    """

    masks: bool | None = None
    score_threshold: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        status: of HTTP: 200; 422 for what is no image or too large a one; 500 where the network or
            the decoder failed on it.
        body: JSON: an image's width, height and people in pixels as EXIF orients it, or {"error":
            one line}.
        people: how many were found.
        batch: images in the batch, told by the first of them alone; 0 by the others.
    """

    status: int
    body: bytes
    people: int = 0
    batch: int = 0


def refusal(status: int, error: str) -> Answer:
    """An answer that says in one line what is wrong."""
    return Answer(status, json.dumps({"error": error}).encode())


def failure(error: Exception) -> Answer:
    """The answer for an error that is no fault of the client."""
    first = (str(error).strip().splitlines() or [""])[0]
    return refusal(500, f"{type(error).__name__}: {first}")

"""The SavedModel as Beam's RunInference takes it: a shard of images in, lines about them out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

from personlab_keras.errors import InputError
from personlab_keras.inference.beam.filesystems import READERS, Listed, on_disk, read
from personlab_keras.io.image_headers import image_size
from personlab_keras.io.images import MAX_PIXELS
from personlab_keras.io.processes import import_tensorflow_quietly
from personlab_keras.method.person import Person

MAX_BYTES = 500_000_000
"""Largest file that is read: several are in memory at a time, and a film called x.jpg must not take
a worker down.
"""

UNREADABLE, EMPTY, LARGE, OTHER, DAMAGED, BROKE = (
    "cannot be read",
    "empty file",
    "too large",
    "neither JPEG nor PNG",
    "damaged image",
    "the network failed on it",
)
"""Why an image failed."""

_SIGNATURE, _INPUT = "people_from_bytes", "image_bytes"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True)
class Failure:
    """Why an image gave no people: one of the reasons above, and what was received."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Found:
    """What became of a shard.

    Attributes:
        done: of each image that could be read, its path and what a line says of it.
        failed: of each other one, its path and why.
    """

    done: Sequence[dict[str, Any]]
    failed: Sequence[dict[str, str]]

    @property
    def counts(self) -> dict[str, Any]:
        """Images predicted, people in them, failed images by reason."""
        people = sum(len(line["people"]) for line in self.done)
        failed = Counter(line["reason"] for line in self.failed)
        return {"images": len(self.done), "people": people, "failed": dict(sorted(failed.items()))}


class PeopleHandler(ModelHandler[str, Found, Any]):
    """A shard is an example: Beam loads the SavedModel once for all threads of a worker, and a
    shard can be written as soon as it is done.

    With images as examples, the lines of a shard would have to be gathered, and a batch pipeline
    gathers nothing before its last image is done: a job that was stopped would leave nothing
    behind.

    Args:
        model: folder of the SavedModel, as the workers see it.
        batch_size: images that are handed to the SavedModel together.
    """

    def __init__(self, model: str, batch_size: int) -> None:
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._model, self._batch_size = model, batch_size

    def load_model(self) -> Any:
        """The SavedModel, loaded.

        Raises:
            InputError: it has no signature that takes bytes.
        """
        import_tensorflow_quietly()
        import tensorflow as tf

        with on_disk(self._model) as folder:
            model = tf.saved_model.load(folder)
        if _SIGNATURE not in model.signatures:
            raise InputError(
                f"{self._model}: the SavedModel has no signature {_SIGNATURE}; export it again"
            )
        return model

    def run_inference(
        self, batch: Sequence[str], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Found]:
        """What became of shards, given by the addresses of their lists (`job`)."""
        return [
            self._shard([Listed(*entry) for entry in json.loads(read(listing))], model)
            for listing in batch
        ]

    def get_metrics_namespace(self) -> str:
        """Under which Beam counts."""
        return "personlab"

    def _shard(self, images: Sequence[Listed], model: Any) -> Found:
        done: list[dict[str, Any]] = []
        failed: list[dict[str, str]] = []
        for image, answer in self._answers(images, model):
            if isinstance(answer, Failure):
                failed.append(
                    {"path": image.path, "reason": answer.reason, "detail": answer.detail}
                )
            else:
                done.append({"path": image.path, "image": PurePosixPath(image.path).name, **answer})
        found = Found(done, failed)
        for name, count in (
            ("images", len(done)),
            ("people", found.counts["people"]),
            ("failed", len(failed)),
        ):
            Metrics.counter(self.get_metrics_namespace(), name).inc(count)
        return found

    def _answers(
        self, images: Sequence[Listed], model: Any
    ) -> Iterator[tuple[Listed, dict[str, Any] | Failure]]:
        """In the order of the images. The next batch is read while one is in the network."""
        batches = [
            images[first : first + self._batch_size]
            for first in range(0, len(images), self._batch_size)
        ]
        now: Sequence[Listed] = []
        contents: list[Future[bytes | Failure]] = []
        with ThreadPoolExecutor(READERS, "read") as readers:
            for ahead in [*batches, []]:
                reading = [readers.submit(_read, image) for image in ahead]
                yield from zip(
                    now, _find([content.result() for content in contents], model), strict=True
                )
                now, contents = ahead, reading


def _read(image: Listed) -> bytes | Failure:
    """The bytes of a JPEG or PNG file; what its first bytes tell against it is told before the
    SavedModel sees it.
    """
    if image.size > MAX_BYTES:
        return Failure(LARGE, f"{image.size} bytes")
    try:
        data = read(image.path)
    except Exception as error:  # each file system has classes of its own
        return Failure(UNREADABLE, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if not data:
        return Failure(EMPTY, "0 bytes")
    if not data.startswith(_MAGIC):
        return Failure(OTHER, f"{len(data)} bytes that begin with {data[:8]!r}")
    size = image_size(data)
    if size and size[0] * size[1] > MAX_PIXELS:
        return Failure(LARGE, f"{size[0]} x {size[1]} pixels")
    return data


def _find(contents: Sequence[bytes | Failure], model: Any) -> list[dict[str, Any] | Failure]:
    """What is found in files, in their order."""
    readable = {i: content for i, content in enumerate(contents) if isinstance(content, bytes)}
    answers = dict(zip(readable, _call(list(readable.values()), model), strict=True))
    return [
        content if isinstance(content, Failure) else answers[i]
        for i, content in enumerate(contents)
    ]


def _call(data: Sequence[bytes], model: Any) -> list[dict[str, Any] | Failure]:
    import tensorflow as tf

    if not data:
        return []
    try:
        outputs = model.signatures[_SIGNATURE](**{_INPUT: tf.constant(list(data))})
    except tf.errors.OpError as error:
        if len(data) > 1:  # all images of a call fail together
            return [answer for each in data for answer in _call([each], model)]
        reason = DAMAGED if isinstance(error, tf.errors.InvalidArgumentError) else BROKE
        return [Failure(reason, _said(error.message))]
    values = {name: value.numpy() for name, value in outputs.items()}
    return [_content({name: value[i] for name, value in values.items()}) for i in range(len(data))]


def _said(message: str) -> str:
    """TensorFlow's own line about an error, without the names of nodes."""
    lines = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]", "", message).split("\n")
    return next((line.strip()[:200] for line in lines if line.strip()), "")


def _content(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What `personlab predict` writes of an image, by the outputs of the signature for it."""
    height, width = (int(side) for side in found["size"])
    people = []
    for j in range(int(found["count"])):
        keypoints = found["keypoints"][j].astype(float)
        seen = keypoints.any(axis=-1)  # (0, 0, 0) where not found
        points = np.where(seen[:, None], keypoints[:, :2], np.nan)
        rle = (
            {"size": [height, width], "counts": found["masks"][j].decode("ascii")}
            if "masks" in found
            else None
        )
        people.append(Person(points, keypoints[:, 2], float(found["scores"][j]), rle).to_dict())
    return {"width": width, "height": height, "people": people}

"""Runs the SavedModel in a Beam pipeline, a shard of images at a time."""

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
from personlab_keras.inference.beam.filesystems import READERS, ImageFile, local_copy, read
from personlab_keras.io.image_headers import JPEG_MAGIC, PNG_MAGIC, image_size
from personlab_keras.io.images import MAX_PIXELS
from personlab_keras.io.processes import import_tensorflow_quietly
from personlab_keras.method.person import Person

MAX_BYTES = 500_000_000
"""Largest file to read: several are in memory at a time, and a video called x.jpg must not exhaust
the memory of a worker.
"""

UNREADABLE, EMPTY, TOO_LARGE, OTHER_FORMAT, DAMAGED, NETWORK_FAILED = (
    "cannot be read",
    "empty file",
    "too large",
    "neither JPEG nor PNG",
    "damaged image",
    "the network failed on it",
)
"""The reasons why images fail."""

_SIGNATURE, _INPUT = "people_from_bytes", "image_bytes"


@dataclass(frozen=True)
class Failure:
    """An image that failed: one of the reasons above, and the details."""

    reason: str
    detail: str


@dataclass(frozen=True)
class ShardResults:
    """The results of a shard.

    Attributes:
        done: the JSON line of each image that was predicted, with its path.
        failed: the path, reason and details of each image that failed.
    """

    done: Sequence[dict[str, Any]]
    failed: Sequence[dict[str, str]]

    @property
    def counts(self) -> dict[str, Any]:
        """Number of images predicted, of people in them, and of failed images by reason."""
        people = sum(len(line["people"]) for line in self.done)
        failed = Counter(line["reason"] for line in self.failed)
        return {"images": len(self.done), "people": people, "failed": dict(sorted(failed.items()))}


class PeopleHandler(ModelHandler[str, ShardResults, Any]):
    """The SavedModel for Beam's RunInference, which loads it once for all threads of a worker.

    An example is a whole shard, so that it can be written as soon as it is predicted. If images
    were the examples, the lines of a shard would have to be grouped, and a batch pipeline groups
    nothing before its last image is predicted: a stopped job would leave no results.

    Args:
        model: folder of the SavedModel, as the workers see it.
        batch_size: number of images per call of the SavedModel.
    """

    def __init__(self, model: str, batch_size: int) -> None:
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._model, self._batch_size = model, batch_size

    def load_model(self) -> Any:
        """Loads the SavedModel.

        Raises:
            InputError: it has no signature for bytes.
        """
        import_tensorflow_quietly()
        import tensorflow as tf

        with local_copy(self._model) as folder:
            model = tf.saved_model.load(folder)
        if _SIGNATURE not in model.signatures:
            raise InputError(
                f"{self._model}: the SavedModel has no signature {_SIGNATURE}; export it again"
            )
        return model

    def run_inference(
        self, batch: Sequence[str], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[ShardResults]:
        """Predicts shards, given by the addresses of their lists of images (see `job`)."""
        return [
            self._shard([ImageFile(*entry) for entry in json.loads(read(listing))], model)
            for listing in batch
        ]

    def get_metrics_namespace(self) -> str:
        """The namespace of Beam's counters."""
        return "personlab"

    def _shard(self, images: Sequence[ImageFile], model: Any) -> ShardResults:
        done: list[dict[str, Any]] = []
        failed: list[dict[str, str]] = []
        for image, result in self._predict(images, model):
            if isinstance(result, Failure):
                failed.append(
                    {"path": image.path, "reason": result.reason, "detail": result.detail}
                )
            else:
                done.append({"path": image.path, "image": PurePosixPath(image.path).name, **result})
        results = ShardResults(done, failed)
        for name, count in (
            ("images", len(done)),
            ("people", results.counts["people"]),
            ("failed", len(failed)),
        ):
            Metrics.counter(self.get_metrics_namespace(), name).inc(count)
        return results

    def _predict(
        self, images: Sequence[ImageFile], model: Any
    ) -> Iterator[tuple[ImageFile, dict[str, Any] | Failure]]:
        """Yields results in the order of the images; reads a batch while the network runs on the
        previous one.
        """
        batches = [
            images[first : first + self._batch_size]
            for first in range(0, len(images), self._batch_size)
        ]
        current: Sequence[ImageFile] = []
        contents: list[Future[bytes | Failure]] = []
        with ThreadPoolExecutor(READERS, "read") as readers:
            for following in [*batches, []]:
                reading = [readers.submit(read_image_file, image) for image in following]
                results = _predict_contents([content.result() for content in contents], model)
                yield from zip(current, results, strict=True)
                current, contents = following, reading


def read_image_file(image: ImageFile) -> bytes | Failure:
    """Reads a JPEG or PNG file; by its first bytes it refuses files that the SavedModel cannot
    decode.
    """
    if image.size > MAX_BYTES:
        return Failure(TOO_LARGE, f"{image.size} bytes")
    try:
        data = read(image.path)
    except Exception as error:  # each file system raises its own classes
        return Failure(UNREADABLE, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if not data:
        return Failure(EMPTY, "0 bytes")
    if not data.startswith((JPEG_MAGIC, PNG_MAGIC)):
        return Failure(OTHER_FORMAT, f"{len(data)} bytes that begin with {data[:8]!r}")
    size = image_size(data)
    if size and size[0] * size[1] > MAX_PIXELS:
        return Failure(TOO_LARGE, f"{size[0]} x {size[1]} pixels")
    return data


def _predict_contents(
    contents: Sequence[bytes | Failure], model: Any
) -> list[dict[str, Any] | Failure]:
    """Predicts the files that could be read; returns the results of all in their order."""
    readable = {i: content for i, content in enumerate(contents) if isinstance(content, bytes)}
    results = dict(zip(readable, _call(list(readable.values()), model), strict=True))
    return [
        content if isinstance(content, Failure) else results[i]
        for i, content in enumerate(contents)
    ]


def _call(data: Sequence[bytes], model: Any) -> list[dict[str, Any] | Failure]:
    import tensorflow as tf

    if not data:
        return []
    try:
        outputs = model.signatures[_SIGNATURE](**{_INPUT: tf.constant(list(data))})
    except tf.errors.OpError as error:
        if len(data) > 1:  # one image fails the whole call
            return [result for each in data for result in _call([each], model)]
        is_damaged = isinstance(error, tf.errors.InvalidArgumentError)
        return [Failure(DAMAGED if is_damaged else NETWORK_FAILED, _first_line(error.message))]
    values = {name: value.numpy() for name, value in outputs.items()}
    return [
        prediction_of({name: value[i] for name, value in values.items()}) for i in range(len(data))
    ]


def _first_line(message: str) -> str:
    """TensorFlow's message about an error, without the names of nodes."""
    lines = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]", "", message).split("\n")
    return next((line.strip()[:200] for line in lines if line.strip()), "")


def prediction_of(outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The JSON of an image as `personlab predict` writes it, from the outputs of the signature."""
    height, width = (int(side) for side in outputs["size"])
    people = []
    for j in range(int(outputs["count"])):
        keypoints = outputs["keypoints"][j].astype(float)
        seen = keypoints.any(axis=-1)  # (0, 0, 0) if not found
        points = np.where(seen[:, None], keypoints[:, :2], np.nan)
        rle = (
            {"size": [height, width], "counts": outputs["masks"][j].decode("ascii")}
            if "masks" in outputs
            else None
        )
        people.append(Person(points, keypoints[:, 2], float(outputs["scores"][j]), rle).to_dict())
    return {"width": width, "height": height, "people": people}

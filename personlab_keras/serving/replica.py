"""One copy of the network in a process of its own, on whichever machine Ray puts it: image bytes
in, people as JSON out.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import serve

from personlab_keras.config import ServeConfig
from personlab_keras.errors import InputError
from personlab_keras.io.images import decode_image
from personlab_keras.io.processes import import_tensorflow_quietly
from personlab_keras.method.person import people_to_dict
from personlab_keras.serving.messages import Answer, RequestOptions, failure, refusal

if TYPE_CHECKING:
    from personlab_keras.inference.predict import Predictor
    from personlab_keras.method.person import Person


@dataclass(frozen=True)
class Job:
    """An image (H, W, 3) uint8 RGB to be answered."""

    image: np.ndarray
    request_options: RequestOptions


@serve.deployment
class Replica:
    """A `Predictor` behind a queue that forms batches.

    Args:
        model: path of the model directory on the replica's machine.
        overrides: texts `section.key=value` laid over its settings.
        config: limits and batches.
        threads: CPU cores to use.
    """

    def __init__(
        self, model: str, overrides: Sequence[str], config: ServeConfig, threads: int
    ) -> None:
        # Before TensorFlow and Numba start, which read these once. Ray has set the first of them to
        # 1.
        for name in (
            "OMP_NUM_THREADS",
            "TF_NUM_INTRAOP_THREADS",
            "TF_NUM_INTEROP_THREADS",
            "NUMBA_NUM_THREADS",
        ):
            os.environ[name] = str(threads)
        import_tensorflow_quietly()
        from personlab_keras.inference.predict import load

        self._config = config
        self._unusable: str | None = None
        try:
            predictor = load(model, overrides)
            self._predictor = replace(
                predictor, options=replace(predictor.options, batch_size=config.max_batch)
            )
        except InputError as error:
            # Raised here it would have Ray start one replica after another, and the line would
            # drown in tracebacks.
            self._unusable = str(error)
            return
        self._readers = ThreadPoolExecutor(threads, "read")
        self._worker = ThreadPoolExecutor(1, "predict")
        # Decoded images are large: those of the batch at work and of the next one.
        self._places = asyncio.Semaphore(2 * config.max_batch)
        self._batched.set_max_batch_size(config.max_batch)
        self._batched.set_batch_wait_timeout_s(config.batch_wait_ms / 1000)
        _warm_up(self._predictor)

    async def describe(self) -> dict[str, Any]:
        """The skeleton and whether there are masks; or, under "error", why the model cannot be
        used.
        """
        if self._unusable is not None:
            return {"error": self._unusable}
        skeleton = self._predictor.skeleton
        names = skeleton.keypoints
        edges = skeleton.edge_indices[: len(skeleton.edges)].tolist()
        return {
            "keypoints": list(names),
            "edges": edges,
            "masks": self._predictor.decode_options.masks,
        }

    async def find(self, data: bytes, request_options: RequestOptions) -> Answer:
        """The people in an image file."""
        async with self._places:
            loop = asyncio.get_running_loop()
            try:
                image = await loop.run_in_executor(self._readers, self._read, data)
            except InputError as error:
                return refusal(422, str(error))
            return await self._batched(Job(image, request_options))

    def _read(self, data: bytes) -> np.ndarray:
        return decode_image(data, "the image", max_pixels=self._config.max_pixels)

    @serve.batch
    async def _batched(self, jobs: list[Job]) -> list[Answer]:
        # In a thread, so that the next images are read and the next batch forms meanwhile.
        return await asyncio.get_running_loop().run_in_executor(
            self._worker, answer_all, self._predictor, jobs
        )


def answer_all(predictor: Predictor, jobs: Sequence[Job]) -> list[Answer]:
    """Answers in the order of the jobs. Those of the same request_options go through the network
    together.
    """
    same: dict[RequestOptions, list[int]] = defaultdict(list)
    for i, job in enumerate(jobs):
        same[job.request_options].append(i)
    answers: dict[int, Answer] = {}
    for request_options, members in same.items():
        find = _as_wished(predictor, request_options).batch
        answers.update(
            zip(members, _answer_alike(find, [jobs[i].image for i in members]), strict=True)
        )
    return [replace(answers[i], batch=0 if i else len(jobs)) for i in range(len(jobs))]


def _answer_alike(
    find: Callable[[list[np.ndarray]], list[list[Person]]], images: list[np.ndarray]
) -> list[Answer]:
    try:
        return [_answer(image, people) for image, people in zip(images, find(images), strict=True)]
    except (
        Exception
    ) as error:  # whatever TensorFlow, OpenCV or memory may raise: the process serves the others
        if len(images) > 1:
            # One image must not take its neighbours with it.
            return [answer for image in images for answer in _answer_alike(find, [image])]
        return [failure(error)]


def _answer(image: np.ndarray, people: Sequence[Person]) -> Answer:
    height, width = image.shape[:2]
    values = people_to_dict(width, height, people)
    return Answer(200, json.dumps(values, allow_nan=False).encode(), len(people))


def _as_wished(predictor: Predictor, request_options: RequestOptions) -> Predictor:
    given = {name: value for name, value in vars(request_options).items() if value is not None}
    return replace(predictor, decode_options=replace(predictor.decode_options, **given))


def _warm_up(predictor: Predictor) -> None:
    """Two batches of different shapes, after which TensorFlow takes any; the first of them sees
    people everywhere, so that all of the decoder is compiled as well."""
    everybody = replace(
        predictor.decode_options,
        peak_threshold=0.0,
        keypoint_threshold=0.0,
        score_threshold=0.0,
        max_people=1,
    )
    replace(predictor, decode_options=everybody)(np.full((96, 96, 3), 127, np.uint8))
    predictor.batch([np.full((96, 128, 3), 127, np.uint8)] * 2)

"""A replica: a predictor in a Ray process that turns image files into JSON, in batches."""

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
from personlab_keras.method.person import Person, people_to_dict
from personlab_keras.serving.messages import Answer, RequestOptions, failure, refusal

if TYPE_CHECKING:
    from personlab_keras.inference.predict import Predictor


@dataclass(frozen=True)
class Job:
    """An image (H, W, 3) uint8 RGB with the options of its request."""

    image: np.ndarray
    request_options: RequestOptions


@serve.deployment
class Replica:
    """A `Predictor` behind a queue that forms batches.

    Args:
        model: path of the model directory or network file on the replica's machine.
        overrides: settings `section.key=value` that replace those of the model.
        config: limits and batches.
        threads: number of threads.
    """

    def __init__(
        self, model: str, overrides: Sequence[str], config: ServeConfig, threads: int
    ) -> None:
        # TensorFlow and Numba read these once, at start-up. Ray has set the first of them to 1.
        for name in (
            "OMP_NUM_THREADS",
            "TF_NUM_INTRAOP_THREADS",
            "TF_NUM_INTEROP_THREADS",
            "NUMBA_NUM_THREADS",
        ):
            os.environ[name] = str(threads)
        from personlab_keras.inference.predict import load

        self._config = config
        self._unusable: str | None = None
        try:
            predictor = load(model, overrides)
            self._predictor = replace(
                predictor, options=replace(predictor.options, batch_size=config.max_batch)
            )
        except InputError as error:
            # An exception here would make Ray start one replica after another and bury the error
            # under tracebacks.
            self._unusable = str(error)
            return
        self._readers = ThreadPoolExecutor(threads, "read")
        self._worker = ThreadPoolExecutor(1, "predict")
        # Decoded images are large: at most those of the current and the next batch are in memory.
        self._decoded = asyncio.Semaphore(2 * config.max_batch)
        self._batched.set_max_batch_size(config.max_batch)
        self._batched.set_batch_wait_timeout_s(config.batch_wait_ms / 1000)
        _warm_up(self._predictor)

    async def describe(self) -> dict[str, Any]:
        """Describes the model: its skeleton and whether it gives masks; or, under "error", why it
        cannot be used.
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
        """Finds the people in an image file."""
        async with self._decoded:
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
        # In a thread, so that the next images are decoded and batched meanwhile.
        return await asyncio.get_running_loop().run_in_executor(
            self._worker, answer_all, self._predictor, jobs
        )


def answer_all(predictor: Predictor, jobs: Sequence[Job]) -> list[Answer]:
    """Answers jobs in their order. Those with equal options share the network's batches."""
    by_options: dict[RequestOptions, list[int]] = defaultdict(list)
    for i, job in enumerate(jobs):
        by_options[job.request_options].append(i)
    answers: dict[int, Answer] = {}
    for request_options, members in by_options.items():
        find = _with_options(predictor, request_options).batch
        answers.update(
            zip(members, _answer_images(find, [jobs[i].image for i in members]), strict=True)
        )
    return [replace(answers[i], batch=0 if i else len(jobs)) for i in range(len(jobs))]


def _answer_images(
    find: Callable[[list[np.ndarray]], Sequence[Sequence[Person]]], images: list[np.ndarray]
) -> list[Answer]:
    try:
        return [_answer(image, people) for image, people in zip(images, find(images), strict=True)]
    except Exception as error:  # of any library: the process has to serve other requests
        if len(images) > 1:
            # One image must not fail the others of its batch.
            return [answer for image in images for answer in _answer_images(find, [image])]
        return [failure(error)]


def _answer(image: np.ndarray, people: Sequence[Person]) -> Answer:
    height, width = image.shape[:2]
    values = people_to_dict(width, height, people)
    return Answer(200, json.dumps(values, allow_nan=False).encode(), len(people))


def _with_options(predictor: Predictor, request_options: RequestOptions) -> Predictor:
    given = {name: value for name, value in vars(request_options).items() if value is not None}
    return replace(predictor, decode_options=replace(predictor.decode_options, **given))


def _warm_up(predictor: Predictor) -> None:
    """Predicts two batches of different shapes, after which TensorFlow traces no more. The first
    finds people everywhere, so that the whole decoder is compiled."""
    find_anything = replace(
        predictor.decode_options,
        peak_threshold=0.0,
        keypoint_threshold=0.0,
        score_threshold=0.0,
        max_people=1,
    )
    replace(predictor, decode_options=find_anything)(np.full((96, 96, 3), 127, np.uint8))
    predictor.batch([np.full((96, 128, 3), 127, np.uint8)] * 2)

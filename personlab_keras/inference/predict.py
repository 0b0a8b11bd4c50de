"""From an image to people: fit it to the network, run the network, decode."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from personlab_keras.config import Config, DecodeConfig, PredictConfig, apply_overrides
from personlab_keras.decoder import FramedMaps, decode
from personlab_keras.errors import InputError
from personlab_keras.inference.input_fit import InputFit, fit_for
from personlab_keras.inference.runtimes import (
    AUTO,
    FILES,
    KERAS,
    RUNTIMES,
    Network,
    NetworkFile,
    is_network_file,
    limit_keras,
    network_files,
    read_network_file,
    sees_gpu,
)
from personlab_keras.io.images import BACKGROUND
from personlab_keras.method.maps import ALL_OUTPUTS, Maps, unpack
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton
from personlab_keras.model_directory import (
    Description,
    check_masks,
    latest_version,
    read_model_directory,
)


@dataclass(frozen=True)
class _Pass:
    """One of the inputs that the network sees of an image."""

    fit: InputFit
    mirrored: bool

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The input (H, W, 3) uint8. Where it is mirrored it is so as a whole, so that cells lie on
        cells (see `Maps.mirrored`).
        """
        fitted = self.fit.apply(image)
        return fitted[:, ::-1] if self.mirrored else fitted

    def framed(self, maps: Maps, skeleton: Skeleton) -> FramedMaps:
        """The maps of this input as `decode` takes them."""
        return FramedMaps(maps.mirrored(skeleton) if self.mirrored else maps, self.fit.frame)


@dataclass(frozen=True)
class Predictor:
    """Finds the people in images: `predictor(image)`.

    Attributes:
        model: the network as `runtimes.Network` says, (B, H, W, 3) RGB in 0..255 -> flat outputs by
            name, probabilities.
        skeleton: that it was trained with.
        stride: input pixels per cell of its maps.
        input_stride: the network takes sides input_stride * n + 1: its coarsest features, where its
            maps are finer; by default the stride.
        radius: R in input pixels that it was trained with.
        pad_colour: RGB of the padding.
        decode_options: from maps to people.
        options: from image to network input.
        input_size: (width, height) of the only input that the network takes; None for any.

    Raises:
        InputError: a stride, `predict.batch_size`, `predict.longer_side` or one of `predict.scales`
            is not positive, there are no scales, or one enlarges an image beyond the only input.
    """

    model: Network
    skeleton: Skeleton = COCO_PERSON
    stride: int = 16
    input_stride: int | None = None
    radius: float = 32.0
    pad_colour: tuple[int, int, int] = BACKGROUND
    decode_options: DecodeConfig = field(default_factory=DecodeConfig)
    options: PredictConfig = field(default_factory=PredictConfig)
    input_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        sizes = {
            "stride": self.stride,
            "input_stride": self._side_step,
            "predict.batch_size": self.options.batch_size,
            "predict.longer_side": self.options.longer_side,
        }
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1. Received: {value}")
        scales = self.options.scales
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise InputError(
                f"predict.scales must be positive numbers, at least one. Received: {list(scales)}"
            )
        if self.input_size is not None and max(scales) > 1:
            width, height = self.input_size
            raise InputError(
                f"predict.scales must be at most 1 for a network that takes {width} x {height} pixels only. Received: {max(scales)}"
            )

    def __call__(self, image: np.ndarray) -> list[Person]:
        """The people in an image (H, W, 3) uint8 RGB, best first, keypoints and masks in its frame.

        Raises:
            InputError: the image is of another shape or type.
        """
        return self.timed(image)[0]

    def timed(self, image: np.ndarray) -> tuple[list[Person], dict[str, float]]:
        """As calling the predictor, and the seconds that its stages "fit", "network" and "decode"
        took.
        """
        start = time.perf_counter()
        passes = self._passes(image)
        inputs = [each_pass.apply(image) for each_pass in passes]
        after_fit = time.perf_counter()
        maps = self._run_all(inputs)
        after_network = time.perf_counter()
        people = self._decode(maps, passes)
        after_decode = time.perf_counter()
        seconds = {
            "fit": after_fit - start,
            "network": after_network - after_fit,
            "decode": after_decode - after_network,
        }
        return people, seconds

    def maps(self, image: np.ndarray) -> Maps:
        """The network's maps of an image (H, W, 3) uint8 RGB, in the frame of its input (see
        `fit`): one pass, at scale 1, not mirrored.
        """
        return self._run(self.fit(image).apply(image)[None])[0]

    def framed_maps(self, image: np.ndarray) -> list[FramedMaps]:
        """The maps of every pass over an image (H, W, 3) uint8 RGB: one at each of
        `predict.scales`, and a mirrored one beside it where `predict.flip` is on. `decode` takes
        them together.
        """
        passes = self._passes(image)
        maps = self._run_all([each_pass.apply(image) for each_pass in passes])
        return [
            each_pass.framed(each, self.skeleton)
            for each_pass, each in zip(passes, maps, strict=True)
        ]

    def batch(self, images: Sequence[np.ndarray]) -> list[list[Person]]:
        """The people of each of several images. Inputs of one shape share the network's batches."""
        passes = [self._passes(image) for image in images]
        maps = iter(
            self._run_all(
                [
                    each_pass.apply(image)
                    for image, its in zip(images, passes, strict=True)
                    for each_pass in its
                ]
            )
        )
        return [self._decode([next(maps) for _ in its], its) for its in passes]

    def fit(self, image: np.ndarray) -> InputFit:
        """How an image (H, W, 3) uint8 is fitted to the network at scale 1.

        Raises:
            InputError: the image is of another shape or type.
        """
        return self._fit(image, 1.0)

    def _fit(self, image: np.ndarray, scale: float) -> InputFit:
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"`image` must be a (H, W, 3) uint8 RGB array. Received: {type(image).__name__}"
            )
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
            raise InputError(
                f"`image` must be (H, W, 3) uint8 RGB. Received: {image.shape} {image.dtype}"
            )
        height, width = image.shape[:2]
        options = self.options
        return fit_for(
            width,
            height,
            options.longer_side,
            self._side_step,
            options.upscale,
            self.pad_colour,
            scale,
            self.input_size,
        )

    @property
    def _side_step(self) -> int:
        return math.lcm(
            self.stride, self.stride if self.input_stride is None else self.input_stride
        )

    def _passes(self, image: np.ndarray) -> list[_Pass]:
        fits = [self._fit(image, scale) for scale in self.options.scales]
        return [
            _Pass(fit, mirrored)
            for fit in fits
            for mirrored in ((False, True) if self.options.flip else (False,))
        ]

    def _run_all(self, inputs: Sequence[np.ndarray]) -> list[Maps]:
        """Maps of inputs of any shapes, in their order; those of one shape go through the network
        in batches.
        """
        same_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, each in enumerate(inputs):
            same_shape[each.shape].append(i)
        maps: dict[int, Maps] = {}
        for members in same_shape.values():
            for first in range(0, len(members), self.options.batch_size):
                chosen = members[first : first + self.options.batch_size]
                maps.update(
                    zip(chosen, self._run(np.stack([inputs[i] for i in chosen])), strict=True)
                )
        return [maps[i] for i in range(len(inputs))]

    def _run(self, inputs: np.ndarray) -> list[Maps]:
        """Maps of inputs (B, H, W, 3) uint8.

        Raises:
            ValueError: the network's maps are not of the stride that it is said to have.
        """
        outputs = self.model.predict_on_batch(inputs.astype(np.float32))
        known = {
            name: np.asarray(outputs[name], np.float32) for name in ALL_OUTPUTS if name in outputs
        }
        maps = [
            unpack({name: array[i] for name, array in known.items()}, self.stride, self.skeleton)
            for i in range(len(inputs))
        ]
        if maps[0].image_shape != inputs.shape[1:3]:
            raise ValueError(
                f"the network's maps must have stride {self.stride} for inputs {inputs.shape[1:3]}. Received: {maps[0].shape} cells"
            )
        return maps

    def _decode(self, maps: Sequence[Maps], passes: Sequence[_Pass]) -> list[Person]:
        framed = [
            each_pass.framed(each, self.skeleton)
            for each_pass, each in zip(passes, maps, strict=True)
        ]
        return decode(framed, self.skeleton, self.decode_options, radius=self.radius)


def load(source: str | Path, overrides: Iterable[str] = ()) -> Predictor:
    """The predictor of a model directory, or of a file .onnx or .tflite as `personlab export`
    writes them.

    Args:
        source: the directory, as `personlab export` and `personlab import-weights` write it, or the
            file. What the network of a directory runs in is decided by `predict.runtime`.
        overrides: texts `section.key=value` laid over the network's own settings, for example
            "decode.masks=false".

    Raises:
        InputError: the source is neither; a setting is unknown or of another type; masks are asked
            for of a network that has no heads for them; the directory has no file for the runtime
            asked for, or its package is not installed.
    """
    source = Path(source)
    if is_network_file(source) and not source.is_dir():
        file = read_network_file(source)
        config = _configured(file.description, [f"predict.runtime={file.runtime}", *overrides])
        if config.predict.runtime not in (file.runtime, AUTO):
            raise InputError(
                f"{source}: runs in {file.runtime}. Received: predict.runtime={config.predict.runtime}"
            )
        return _predictor(
            file.open(config.predict.threads), file.description, config, file.input_size
        )
    directory = read_model_directory(source)
    config = _configured(directory, overrides)
    chosen = _file_of(directory, latest_version(source), config.predict.runtime)
    if chosen is not None:
        return _predictor(chosen.open(config.predict.threads), directory, config, chosen.input_size)
    if config.predict.threads:
        limit_keras(config.predict.threads)
    return _predictor(directory.model, directory, config)


def _configured(description: Description, overrides: Iterable[str]) -> Config:
    config = apply_overrides(description.config, overrides)
    check_masks(config)
    if config.predict.runtime not in RUNTIMES:
        raise InputError(
            f"predict.runtime must be one of {', '.join(RUNTIMES)}. Received: {config.predict.runtime}"
        )
    if config.predict.threads < 0:
        raise InputError(
            f"predict.threads must be a number of threads, or 0 for all cores. Received: {config.predict.threads}"
        )
    return config


def _file_of(description: Description, folder: Path, runtime: str) -> NetworkFile | None:
    """The file in a model directory that its network runs in; None for Keras."""
    if runtime == KERAS:
        return None
    paths = network_files(folder, runtime)
    if runtime != AUTO and not paths:
        raise InputError(
            f"{folder}: predict.runtime={runtime} needs {FILES[runtime]} there; `personlab export --format` adds it"
        )
    if runtime == AUTO and (not paths or sees_gpu()):
        return None
    files = [read_network_file(path) for path in paths]
    for file in files:
        if not file.description.is_of(description):
            raise InputError(f"{file.path}: is of another network than {folder}; export it again")
    # What takes inputs of one size only is not what somebody who says nothing wants.
    return next((file for file in files if runtime != AUTO or file.input_size is None), None)


def _predictor(
    network: Network,
    description: Description,
    config: Config,
    input_size: tuple[int, int] | None = None,
) -> Predictor:
    return Predictor(
        model=network,
        skeleton=description.skeleton,
        stride=description.stride,
        input_stride=config.model.output_stride,
        radius=description.radius,
        pad_colour=config.data.pad_colour,
        decode_options=config.decode,
        options=config.predict,
        input_size=input_size,
    )

"""The predictor: fits an image to the network, runs the network and decodes its maps to people."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from personlab_keras.config import (
    Config,
    DecodeConfig,
    PredictConfig,
    apply_overrides,
    remaining_decoding,
)
from personlab_keras.decoder import FramedMaps, decode
from personlab_keras.errors import InputError
from personlab_keras.inference.input_fit import InputFit, fit_for
from personlab_keras.inference.runtimes import (
    AUTO,
    FILES,
    KERAS,
    Network,
    NetworkFile,
    import_keras_quietly,
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
from personlab_keras.results import Result


@dataclass(frozen=True)
class _NetworkInput:
    """One of the inputs that the network gets of an image: one per scale, plain or mirrored."""

    fit: InputFit
    mirrored: bool

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """The input (H, W, 3) uint8. The padding is mirrored with the image, so that cells fall on
        cells (see `Maps.mirrored`).
        """
        fitted = self.fit.apply(image)
        return fitted[:, ::-1] if self.mirrored else fitted

    def framed(self, maps: Maps, skeleton: Skeleton) -> FramedMaps:
        """The network's maps of this input, mirrored back, with the frame of the image."""
        return FramedMaps(maps.mirrored(skeleton) if self.mirrored else maps, self.fit.frame)


@dataclass(frozen=True)
class Predictor:
    """Finds the people in images: `predictor(image)`.

    Attributes:
        model: a `runtimes.Network`, which maps (B, H, W, 3) RGB in 0..255 to flat outputs by name,
            with probabilities.
        skeleton: the skeleton of the network's keypoints.
        stride: input pixels per cell of its maps.
        input_stride: the network takes sides of input_stride * n + 1. It is the stride of its
            coarsest features if its maps are finer; by default the stride.
        radius: disc radius R in input pixels that the network was trained with.
        pad_colour: RGB of the padding.
        decode_options: settings of the decoder.
        options: settings of the fit to the network's input.
        input_size: (width, height) of the only input that the network takes; None for any.

    Raises:
        InputError: a stride, `predict.batch_size`, `predict.longer_side` or one of `predict.scales`
            is not positive, there are no scales, or a scale exceeds the network's only input.

    >>> from personlab_keras.io.images import read_image
    >>> predictor = load("exported")
    >>> predictor.maps(read_image("photo.jpg")).heatmaps.shape
    (13, 13, 17)
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
        }
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1. Received: {value}")
        scales = self.options.scales
        if self.input_size is not None and max(scales) > 1:
            width, height = self.input_size
            raise InputError(
                f"predict.scales must be at most 1 for a network that takes {width} x {height} pixels only. Received: {max(scales)}"
            )

    def __call__(self, image: np.ndarray) -> Result:
        """Finds the people in an image (H, W, 3) uint8 RGB.

        Returns:
            The list of people, best first, with keypoints and masks in pixels of the image.

        Raises:
            InputError: the image has another shape or type.
        """
        return self.timed(image)[0]

    def timed(self, image: np.ndarray) -> tuple[Result, dict[str, float]]:
        """Finds the people in an image and measures the seconds of the stages "fit", "network" and
        "decode".
        """
        start = time.perf_counter()
        inputs = self._network_inputs(image)
        pixels = [each.pixels(image) for each in inputs]
        after_fit = time.perf_counter()
        maps = self._run_all(pixels)
        after_network = time.perf_counter()
        people = self._decode(maps, inputs)
        after_decode = time.perf_counter()
        seconds = {
            "fit": after_fit - start,
            "network": after_network - after_fit,
            "decode": after_decode - after_network,
        }
        return Result(people, image, self.skeleton), seconds

    def maps(self, image: np.ndarray) -> Maps:
        """Runs the network once on an image (H, W, 3) uint8 RGB, at scale 1 and not mirrored.

        Returns:
            The maps, in the frame of the network's input (see `fit`).
        """
        return self._run(self.fit(image).apply(image)[None])[0]

    def framed_maps(self, image: np.ndarray) -> list[FramedMaps]:
        """Runs the network on every input of an image (H, W, 3) uint8 RGB: one per value of
        `predict.scales`, and its mirror image if `predict.flip` is on.

        Returns:
            The maps of each input with the frame of the image; `decode` combines them.
        """
        inputs = self._network_inputs(image)
        return self._framed(self._run_all([each.pixels(image) for each in inputs]), inputs)

    def batch(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Finds the people in each of several images. Inputs of one shape share the network's
        batches.
        """
        inputs_of_images = [self._network_inputs(image) for image in images]
        pixels = [
            each.pixels(image)
            for image, inputs in zip(images, inputs_of_images, strict=True)
            for each in inputs
        ]
        maps = iter(self._run_all(pixels))
        return [
            Result(self._decode([next(maps) for _ in inputs], inputs), image, self.skeleton)
            for image, inputs in zip(images, inputs_of_images, strict=True)
        ]

    def fit(self, image: np.ndarray) -> InputFit:
        """Computes how an image (H, W, 3) uint8 is fitted to the network at scale 1.

        Raises:
            InputError: the image has another shape or type.
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

    def _network_inputs(self, image: np.ndarray) -> list[_NetworkInput]:
        fits = [self._fit(image, scale) for scale in self.options.scales]
        return [
            _NetworkInput(fit, mirrored)
            for fit in fits
            for mirrored in ((False, True) if self.options.flip else (False,))
        ]

    def _run_all(self, inputs: Sequence[np.ndarray]) -> list[Maps]:
        """Runs the network on inputs (H, W, 3) of any shapes, those of one shape in batches, and
        returns the maps in the order of the inputs.
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
        """Runs the network on inputs (B, H, W, 3) uint8.

        Raises:
            InputError: the network's maps are not finite, or not those of this predictor.
        """
        outputs = self.model.predict_on_batch(inputs.astype(np.float32))
        known = {
            name: np.asarray(outputs[name], np.float32) for name in ALL_OUTPUTS if name in outputs
        }
        for name, array in known.items():
            # One pass without a copy: the sum is not finite if any number is not.
            if not np.isfinite(array.sum(dtype=np.float64)):
                raise InputError(
                    f"the network's {name} are not finite: its weights are damaged, or its numbers "
                    "overflow"
                )
        try:
            maps = [
                unpack(
                    {name: array[i] for name, array in known.items()}, self.stride, self.skeleton
                )
                for i in range(len(inputs))
            ]
        except (KeyError, ValueError, IndexError) as error:
            raise InputError(
                f"the network's outputs do not fit its description: {' '.join(str(error).split())}"
            ) from None
        if maps[0].image_shape != inputs.shape[1:3]:
            raise InputError(
                f"the network's maps must have stride {self.stride} for inputs {inputs.shape[1:3]}. Received: {maps[0].shape} cells"
            )
        return maps

    def _framed(self, maps: Sequence[Maps], inputs: Sequence[_NetworkInput]) -> list[FramedMaps]:
        return [
            each.framed(its_maps, self.skeleton)
            for each, its_maps in zip(inputs, maps, strict=True)
        ]

    def _decode(self, maps: Sequence[Maps], inputs: Sequence[_NetworkInput]) -> list[Person]:
        return decode(
            self._framed(maps, inputs), self.skeleton, self.decode_options, radius=self.radius
        )


def load(source: str | Path, overrides: Iterable[str] = ()) -> Predictor:
    """Loads the predictor of a model directory, or of an .onnx or .tflite file written by
    `personlab export`.

    Args:
        source: a directory written by `personlab export` or `personlab import-weights`, or the
            file. For a directory, `predict.runtime` selects the runtime of the network.
        overrides: settings `section.key=value` that replace the network's own, for example
            "decode.masks=false".

    Raises:
        InputError: the source is neither; a setting is unknown or has the wrong type; masks are
            requested from a network without the heads for them; the directory has no file for the
            requested runtime, or the package of the runtime is not installed.

    >>> from personlab_keras.io.images import read_image
    >>> predictor = load("exported", ["decode.max_people=2"])
    >>> people = predictor(read_image("photo.jpg"))
    >>> len(people) <= 2
    True
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
            file.open(config.predict.threads, config.predict.providers),
            file.description,
            config,
            file.input_size,
        )
    directory = read_model_directory(source)
    config = _configured(directory, overrides)
    chosen = _file_of(directory, latest_version(source), config.predict.runtime)
    if chosen is not None:
        network = chosen.open(config.predict.threads, config.predict.providers)
        return _predictor(network, directory, config, chosen.input_size)
    import_keras_quietly()
    if config.predict.threads:
        limit_keras(config.predict.threads)
    return _predictor(directory.model, directory, config)


def _configured(description: Description, overrides: Iterable[str]) -> Config:
    config = apply_overrides(description.config, overrides)
    check_masks(config)
    return config


def _file_of(description: Description, folder: Path, runtime: str) -> NetworkFile | None:
    """Selects the file of a model directory to run in a runtime; None for Keras."""
    if runtime == KERAS:
        return None
    paths = network_files(folder, runtime)
    if runtime != AUTO and not paths:
        raise InputError(
            f"{folder}: predict.runtime={runtime} needs {FILES[runtime]} in this folder; `personlab export --format` adds it"
        )
    if runtime == AUTO and (not paths or sees_gpu()):
        return None
    files = [read_network_file(path) for path in paths]
    for file in files:
        if not file.description.is_of(description):
            raise InputError(f"{file.path}: does not hold the network of {folder}; export it again")
    # A file for a single input size is used only on request.
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
        decode_options=remaining_decoding(config),
        options=config.predict,
        input_size=input_size,
    )

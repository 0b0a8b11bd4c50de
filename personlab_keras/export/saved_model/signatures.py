"""The three signatures of the SavedModel: maps, people, and people from image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from personlab_keras.config import Config, remaining_decoding
from personlab_keras.decoder import CANDIDATES_PER_PERSON
from personlab_keras.decoder_graph.fields import Frame, fields_of, mirrored
from personlab_keras.decoder_graph.masks import find_masks
from personlab_keras.decoder_graph.poses import find_poses
from personlab_keras.decoder_graph.reading import Readings
from personlab_keras.errors import InputError
from personlab_keras.export.saved_model.images import decode_bytes, fit, padded
from personlab_keras.method.skeleton import Skeleton

IMAGE = "image"
BYTES = "image_bytes"
MAPS_SIGNATURE, PEOPLE_SIGNATURE, BYTES_SIGNATURE = "serving_default", "people", "people_from_bytes"


class Served(tf.Module):
    """A network with image decoding, fitting and the decoder in one graph.

    Outputs have room for N = `decode.max_people` people; unused rows hold zeros and empty strings.
    A keypoint that was not found is (0, 0, 0).

    Args:
        network: the network as it predicts (`network.inference_model`), on Keras' TensorFlow
            backend.
        config: its settings.
        skeleton: its skeleton.

    Attributes:
        decode: finds the people in the flat outputs (h, w, channels) of one input, given the fields
            of its `Frame`; as `people`, without the batch.
    """

    def __init__(self, network: keras.Model, config: Config, skeleton: Skeleton) -> None:
        super().__init__(name="personlab")
        self._network, self._config, self._skeleton = network, config, skeleton
        self._stride = config.model.target_stride or config.model.output_stride
        self.weights = [variable.value for variable in network.variables]
        # Traced once for all signatures.
        inputs = tf.TensorSpec([None, None, None, 3], tf.float32)
        self._maps = tf.function(self._run_network, input_signature=[inputs], autograph=False)
        outputs = {
            name: tf.TensorSpec(shape[1:], tf.float32)
            for name, shape in network.compute_output_shape(inputs.shape).items()
        }
        size, frame = tf.TensorSpec([2], tf.int32), tf.TensorSpec([2], tf.float64)
        self.decode = tf.function(
            self._decode_one, input_signature=[outputs, size, frame, frame], autograph=False
        )
        views = [[outputs] * self._passes for _ in self._scales]
        frames = [(frame, frame) for _ in self._scales]
        # A graph, not a function: writing the SavedModel would trace a function again.
        self._decode_views = tf.function(
            self._decode_all, input_signature=[views, size, frames], autograph=False
        ).get_concrete_function()

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """The functions of the signatures by name."""
        bytes_of_pixels = tf.TensorSpec([None, None, None, 3], tf.uint8, IMAGE)
        floats = tf.TensorSpec([None, None, None, 3], tf.float32, IMAGE)
        signatures = {
            MAPS_SIGNATURE: self.maps.get_concrete_function(floats),
            PEOPLE_SIGNATURE: self.people.get_concrete_function(bytes_of_pixels),
            BYTES_SIGNATURE: self.people_from_bytes.get_concrete_function(
                tf.TensorSpec([None], tf.string, BYTES)
            ),
        }
        # Python code that loads the SavedModel may pass the other type to the same functions.
        self.maps.get_concrete_function(bytes_of_pixels)
        self.people.get_concrete_function(floats)
        return signatures

    @tf.function(autograph=False)
    def maps(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Runs the network on images (B, H, W, 3) RGB in 0..255, uint8 or float32, padded on the
        right and below to sides that the network takes.

        Returns:
            Flat outputs (B, h, w, channels) by name.
        """
        return self._maps(
            padded(tf.cast(image, tf.float32), self._side_step, self._config.data.pad_colour)
        )

    @tf.function(autograph=False)
    def people(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Finds the people in images (B, H, W, 3) RGB in 0..255, uint8 or float32, of one size.

        Returns:
            keypoints: (B, N, K, 3) float32 (x, y, score) in pixels of the image.
            scores: (B, N) float32, best first.
            boxes: (B, N, 4) float32 [x, y, width, height], as `Person.box`.
            count: (B,) int32, number of people found.
            size: (B, 2) int32, height and width of the image.
            masks: (B, N) string, COCO's compressed run lengths; not from networks without masks.
            cell_masks: (B, N, h, w) bool at the maps' resolution, in the frame of the network's
                input; not from networks without masks.
        """
        inputs, frames = self._views(image)
        maps = [[self._maps(each) for each in size] for size in inputs]

        def of_image(views: Sequence[Sequence[Mapping[str, tf.Tensor]]]) -> dict[str, tf.Tensor]:
            return self._decode_views(views, *_fields_of_frames(frames))

        with tf.device("/CPU:0"):  # thousands of small operations
            return tf.map_fn(
                of_image,
                maps,
                fn_output_signature=self._people_spec(cells=True),
                parallel_iterations=4,
            )

    @tf.function(autograph=False)
    def people_from_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Finds the people in JPEG and PNG files (B,) string.

        Returns:
            As `people`, without `cell_masks`, in pixels of each image as EXIF orients it.

        Raises:
            tf.errors.InvalidArgumentError: one of the files is not an image, corrupt or too large.
        """

        def of_file(data: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.device("/CPU:0"):
                image = decode_bytes(data, self._config.data.pad_colour)
                inputs, frames = self._views(image[None])
            maps = [[self._maps(each) for each in size] for size in inputs]
            with tf.device("/CPU:0"):
                views = [
                    [{name: array[0] for name, array in outputs.items()} for outputs in size]
                    for size in maps
                ]
                people = self._decode_views(views, *_fields_of_frames(frames))
            return {name: value for name, value in people.items() if name != "cell_masks"}

        return tf.map_fn(
            of_file,
            image_bytes,
            fn_output_signature=self._people_spec(cells=False),
            parallel_iterations=2,
        )

    @property
    def _side_step(self) -> int:
        return max(self._stride, self._config.model.output_stride)

    @property
    def _has_masks(self) -> bool:
        return self._config.decode.masks

    def _run_network(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = self._network(inputs, training=False)
        return {name: tf.cast(value, tf.float32) for name, value in outputs.items()}

    @property
    def _scales(self) -> list[float]:
        """The scales at which images are seen, the largest first."""
        scales = list(dict.fromkeys(self._config.predict.scales))
        largest = scales.index(max(scales))
        return [scales[largest], *scales[:largest], *scales[largest + 1 :]]

    @property
    def _passes(self) -> int:
        """How often an image is seen at each scale."""
        return 2 if self._config.predict.flip else 1

    def _views(self, images: tf.Tensor) -> tuple[list[list[tf.Tensor]], list[Frame]]:
        """The network's inputs for images (B, H, W, 3) of one size: for every scale (B, height,
        width, 3) float32, and the same mirrored; and the frames of the images.
        """
        options = self._config.predict
        inputs, frames = [], []
        for scale in self._scales:
            fitted, frame = fit(
                images,
                options.longer_side,
                self._side_step,
                options.upscale,
                self._config.data.pad_colour,
                scale,
            )
            inputs.append([fitted, tf.reverse(fitted, [2])][: self._passes])
            frames.append(frame)
        return inputs, frames

    def _decode_one(
        self, outputs: Mapping[str, tf.Tensor], size: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        # Small operations; and a GPU may round products of matrices to ten bits.
        with tf.device("/CPU:0"):
            return self._decode([[outputs]], [Frame(size, scale, offset)])

    def _decode_all(
        self,
        views: Sequence[Sequence[Mapping[str, tf.Tensor]]],
        size: tf.Tensor,
        frames: Sequence[tuple[tf.Tensor, tf.Tensor]],
    ) -> dict[str, tf.Tensor]:
        with tf.device("/CPU:0"):
            return self._decode(views, [Frame(size, scale, offset) for scale, offset in frames])

    def _decode(
        self, views: Sequence[Sequence[Mapping[str, tf.Tensor]]], frames: Sequence[Frame]
    ) -> dict[str, tf.Tensor]:
        """Decodes the flat outputs (h, w, channels) of one image: for every scale those of the
        input, and those of the mirrored one.
        """
        options = remaining_decoding(self._config)
        passes = []
        for size in views:
            plain, *others = (fields_of(outputs, self._stride) for outputs in size)
            passes.append([plain, *(mirrored(each, self._skeleton) for each in others)])
        people, scores, maps = find_poses(
            passes,
            frames,
            self._skeleton,
            options,
            self._config.targets.radius,
            CANDIDATES_PER_PERSON * options.max_people,
        )
        points = frames[0].inside_image(people.keypoints)
        found = {
            "keypoints": _with_scores(points, people),
            "scores": scores,
            "boxes": _boxes(points),
        }
        if self._has_masks:
            found["masks"], boxes, found["cell_masks"] = find_masks(people, maps, frames, options)
            found["boxes"] = tf.where(boxes[:, 2:3] > 0, boxes, found["boxes"])
        free = options.max_people - tf.size(scores)
        padded_out = {
            name: tf.concat(
                [values, tf.zeros(tf.concat([[free], tf.shape(values)[1:]], 0), values.dtype)]
                if values.dtype != tf.string
                else [values, tf.fill([free], "")],
                axis=0,
            )
            for name, values in found.items()
        }
        return {**padded_out, "count": tf.size(scores), "size": frames[0].size}

    def _people_spec(self, cells: bool) -> dict[str, tf.TensorSpec]:
        places, keypoints = self._config.decode.max_people, self._skeleton.keypoint_count
        spec = {
            "keypoints": tf.TensorSpec([places, keypoints, 3], tf.float32),
            "scores": tf.TensorSpec([places], tf.float32),
            "boxes": tf.TensorSpec([places, 4], tf.float32),
            "count": tf.TensorSpec([], tf.int32),
            "size": tf.TensorSpec([2], tf.int32),
        }
        if self._has_masks:
            spec["masks"] = tf.TensorSpec([places], tf.string)
            if cells:
                spec["cell_masks"] = tf.TensorSpec([places, None, None], tf.bool)
        return spec


def save(network: keras.Model, config: Config, skeleton: Skeleton, folder: str) -> None:
    """Writes the SavedModel of a network.

    Args:
        network, config, skeleton: as for `Served`.
        folder: folder of the SavedModel.

    Raises:
        InputError: Keras does not run on TensorFlow.
    """
    check_backend()
    served = Served(network, config, skeleton)
    tf.saved_model.save(served, folder, signatures=served.signatures())


def check_backend() -> None:
    """Raises:
    InputError: Keras does not run on TensorFlow, so that no SavedModel can be written.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise InputError(
            f"a SavedModel needs Keras' TensorFlow backend: set KERAS_BACKEND=tensorflow. Received: {backend}"
        )


def _fields_of_frames(frames: Sequence[Frame]) -> tuple[tf.Tensor, list[tuple]]:
    return frames[0].size, [(frame.scale, frame.offset) for frame in frames]


def _with_scores(points: tf.Tensor, people: Readings) -> tf.Tensor:
    found = tf.math.is_finite(points[..., :1])
    return tf.where(found, tf.concat([points, people.keypoint_scores[..., None]], axis=-1), 0.0)


def _boxes(points: tf.Tensor) -> tf.Tensor:
    """Boxes (N, 4) [x, y, width, height] around the found keypoints (N, K, 2); zeros if none were
    found.
    """
    found = tf.math.is_finite(points)
    low = tf.reduce_min(tf.where(found, points, points.dtype.max), axis=1)
    high = tf.reduce_max(tf.where(found, points, points.dtype.min), axis=1)
    box = tf.concat([low, high - low], axis=-1)
    return tf.where(tf.reduce_any(found[..., 0], axis=1)[:, None], box, 0.0)

"""The maps that the network predicts: their names, channels, and the two forms in which they
travel.

The data side, the model side and the decoder meet at `OUTPUTS`: none of them imports another, all
of them import this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

OUTPUTS: dict[str, Callable[[Skeleton], int]] = {
    "heatmaps": lambda skeleton: skeleton.keypoint_count,
    "short_offsets": lambda skeleton: 2 * skeleton.keypoint_count,
    "mid_offsets": lambda skeleton: 2 * skeleton.directed_edge_count,
    "long_offsets": lambda skeleton: 2 * skeleton.keypoint_count,
    "segmentation": lambda skeleton: 1,
}
"""Name of each of the method's five outputs -> how many channels it has. A flat output is (batch,
h, w, channels); of an offset output, channel 2k is dx and channel 2k + 1 is dy of field k."""

PARTS = (
    "left_face", "right_face",
    "left_upper_arm_front", "left_upper_arm_back", "right_upper_arm_front", "right_upper_arm_back",
    "left_lower_arm_front", "left_lower_arm_back", "right_lower_arm_front", "right_lower_arm_back",
    "left_hand", "right_hand", "torso_front", "torso_back",
    "left_upper_leg_front", "left_upper_leg_back", "right_upper_leg_front", "right_upper_leg_back",
    "left_lower_leg_front", "left_lower_leg_back", "right_lower_leg_front", "right_lower_leg_back",
    "left_foot", "right_foot",
)  # fmt: skip
"""The 24 body parts of BodyPix 2.0, in channel order, as its documentation lists them."""

EXTRA_OUTPUTS: dict[str, Callable[[Skeleton], int]] = {"part_heatmaps": lambda skeleton: len(PARTS)}
"""What imported networks may have beyond the five. No record holds targets for it: it is kept, but
not trained.
"""

ALL_OUTPUTS = OUTPUTS | EXTRA_OUTPUTS

MIDDLE_PREFIX = "middle_"
"""Prefix of the outputs of a middle layer, which training alone uses; their targets are those of
the output named behind it.
"""

REQUIRED_OUTPUTS = ("heatmaps", "short_offsets", "mid_offsets")
"""Without these there are no people."""

MASK_OUTPUTS = ("long_offsets", "segmentation")
"""Without these there are people, but no instance masks."""

PROBABILITIES = ("heatmaps", "segmentation", "part_heatmaps")
"""The outputs that the trained network gives as logits and the exported one as probabilities."""


def mask_name(output: str) -> str:
    """Name, among training targets, of the mask that says where the target of an output counts.

    Masks are float 0 or 1 of shape (batch, h, w, fields): one field for heatmaps and segmentation,
    one per keypoint or directed edge for offsets (both components of an offset count together).

    >>> mask_name("heatmaps")
    'heatmaps_mask'
    """
    return f"{output}_mask"


@dataclass(frozen=True)
class Maps:
    """The maps of one image, in the frame of the network input.

    Attributes:
        heatmaps: (h, w, K) probability that the cell lies within the radius of keypoint k of
            somebody.
        short_offsets: (h, w, K, 2) from the cell to that keypoint.
        mid_offsets: (h, w, 2E, 2) from keypoint `edge_indices[e, 0]` of a person to its keypoint
            `edge_indices[e, 1]`.
        long_offsets: (h, w, K, 2) from a cell of a person to each of its keypoints; None where the
            network has no such head.
        segmentation: (h, w) probability that the cell shows a person; None where the network has no
            such head.
        stride: input pixels per cell.
        part_heatmaps: (h, w, len(PARTS)) probability that a cell of a person shows that part; None
            where the network has no such head.

    Offsets are (dx, dy) in input pixels, as the network gave them: refinement is a step of the
    decoder.

    Raises:
        ValueError: an array has another shape than its siblings ask for.

    >>> maps = Maps(np.zeros((5, 7, 17)), np.zeros((5, 7, 17, 2)), np.zeros((5, 7, 32, 2)),
    ...             long_offsets=None, segmentation=None, stride=16)
    >>> maps.stride
    16
    """

    heatmaps: np.ndarray
    short_offsets: np.ndarray
    mid_offsets: np.ndarray
    long_offsets: np.ndarray | None
    segmentation: np.ndarray | None
    stride: int
    part_heatmaps: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.heatmaps.ndim != 3:
            raise ValueError(f"`heatmaps` must be (h, w, K). Received: {self.heatmaps.shape}")
        height, width, keypoints = self.heatmaps.shape
        expected = {
            "short_offsets": (height, width, keypoints, 2),
            "mid_offsets": (height, width, 2 * (keypoints - 1), 2),
            "long_offsets": (height, width, keypoints, 2),
            "segmentation": (height, width),
            "part_heatmaps": (height, width, len(PARTS)),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(
                    f"`{name}` must be {shape} beside heatmaps {self.heatmaps.shape}. Received: {array.shape}"
                )
        if self.stride < 1:
            raise ValueError(
                f"`stride` must be a positive number of pixels. Received: {self.stride}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) in cells."""
        return self.heatmaps.shape[:2]

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the network input in pixels."""
        height, width = self.shape
        return (height - 1) * self.stride + 1, (width - 1) * self.stride + 1

    def mirrored(self, skeleton: Skeleton = COCO_PERSON) -> Maps:
        """The maps of the mirrored input: columns reversed, left and right keypoints and parts
        swapped, dx negated. Its own inverse.

        Input sides are stride * n + 1, so mirrored cells fall on cells and nothing is interpolated.
        The whole input is mirrored, padding included.

        >>> maps = Maps(np.arange(34.0).reshape(1, 2, 17), np.ones((1, 2, 17, 2)),
        ...             np.ones((1, 2, 32, 2)), None, None, stride=8)
        >>> left, right = COCO_PERSON.index("left_wrist"), COCO_PERSON.index("right_wrist")
        >>> bool(maps.mirrored().heatmaps[0, 0, left] == maps.heatmaps[0, 1, right])
        True
        >>> maps.mirrored().short_offsets[0, 0, 0].tolist()
        [-1.0, 1.0]
        """

        def offsets(values: np.ndarray, order: np.ndarray) -> np.ndarray:
            return values[:, ::-1, order] * np.array([-1, 1], values.dtype)

        return Maps(
            heatmaps=self.heatmaps[:, ::-1, skeleton.flip_order],
            short_offsets=offsets(self.short_offsets, skeleton.flip_order),
            mid_offsets=offsets(self.mid_offsets, skeleton.edge_flip_order),
            long_offsets=None
            if self.long_offsets is None
            else offsets(self.long_offsets, skeleton.flip_order),
            segmentation=None if self.segmentation is None else self.segmentation[:, ::-1],
            stride=self.stride,
            part_heatmaps=None
            if self.part_heatmaps is None
            else self.part_heatmaps[:, ::-1, _mirrored_parts()],
        )


def _mirrored_parts() -> np.ndarray:
    """(len(PARTS),) int: `mirrored[i] = original[order[i]]`."""
    other_side = {"left": "right", "right": "left"}
    sides = [part.partition("_") for part in PARTS]
    return np.array(
        [PARTS.index(f"{other_side.get(side, side)}{dash}{rest}") for side, dash, rest in sides]
    )


def pack(maps: Maps) -> dict[str, np.ndarray]:
    """Flat outputs (h, w, channels) by name, as the network gives them for one image. Inverse:
    `unpack`.
    """
    height, width = maps.shape
    arrays = {name: getattr(maps, name) for name in ALL_OUTPUTS}
    return {
        name: array.reshape(height, width, -1)
        for name, array in arrays.items()
        if array is not None
    }


def unpack(
    outputs: Mapping[str, np.ndarray], stride: int, skeleton: Skeleton = COCO_PERSON
) -> Maps:
    """Maps from flat outputs (h, w, channels) of one image, those of `PROBABILITIES` as such.

    All but `REQUIRED_OUTPUTS` may be missing.

    Raises:
        ValueError: an output has another number of channels than `ALL_OUTPUTS` says.
    """
    shaped: dict[str, np.ndarray | None] = dict.fromkeys(ALL_OUTPUTS)
    for name, channels in ALL_OUTPUTS.items():
        if name not in outputs:
            continue
        array = outputs[name]
        if array.ndim != 3 or array.shape[-1] != channels(skeleton):
            raise ValueError(
                f"output `{name}` must be (h, w, {channels(skeleton)}). Received: {array.shape}"
            )
        height, width = array.shape[:2]
        if name == "segmentation":
            shaped[name] = array[..., 0]
        elif name in PROBABILITIES:
            shaped[name] = array
        else:
            shaped[name] = array.reshape(height, width, -1, 2)
    missing = [name for name in REQUIRED_OUTPUTS if shaped[name] is None]
    if missing:
        raise ValueError(f"outputs must hold {', '.join(REQUIRED_OUTPUTS)}. Missing: {missing}")
    return Maps(**shaped, stride=stride)  # type: ignore[arg-type]

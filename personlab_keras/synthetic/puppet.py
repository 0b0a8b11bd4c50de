"""A figure: an articulated person posed, dressed and projected into the image plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personlab_keras.method.coordinates import flip_points
from personlab_keras.synthetic.body import BODY_PARTS, CARRIERS, Build, Pose, place_joints
from personlab_keras.synthetic.body_shapes import Outfit, body_shapes
from personlab_keras.synthetic.canvas import Shape


@dataclass(frozen=True)
class Figure:
    """A puppet in the image plane.

    Attributes:
        joints: position (2,) float of every joint of `CARRIERS` by name.
        shapes: shapes to paint, farthest first.
    """

    joints: dict[str, np.ndarray]
    shapes: tuple[Shape, ...]

    @property
    def box(self) -> np.ndarray:
        """The box (4,) float [left, top, right, bottom] around all shapes."""
        points = np.concatenate([shape.polygon for shape in self.shapes])
        return np.concatenate([points.min(axis=0), points.max(axis=0)])

    def placed(self, scale: float, shift: np.ndarray) -> Figure:
        """The figure with every point at `scale * point + shift`."""
        return Figure(
            joints={name: scale * point + shift for name, point in self.joints.items()},
            shapes=tuple(shape.placed(scale, shift) for shape in self.shapes),
        )

    def mirrored(self, width: int) -> Figure:
        """The figure in a mirrored image of this width, with left and right parts swapped."""
        part_order = [BODY_PARTS.index(_other_side(name)) for name in BODY_PARTS]
        return Figure(
            joints={
                _other_side(name): flip_points(point, width) for name, point in self.joints.items()
            },
            shapes=tuple(
                Shape(flip_points(shape.polygon, width), shape.colour, part_order[shape.part])
                for shape in self.shapes
            ),
        )


def _other_side(name: str) -> str:
    side, _, rest = name.partition("_")
    return {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, name)


def make_figure(pose: Pose, build: Build, outfit: Outfit) -> Figure:
    """Makes the figure of a person about 1 tall when standing, with the pelvis at (0, 0).
    `Figure.placed` moves it into an image.
    """
    space = place_joints(pose, build)
    return Figure(
        joints={name: space[name][:2] for name in CARRIERS},
        shapes=tuple(body_shapes(space, build, outfit)),
    )

"""The shapes of an articulated person: outfit and joints of a body in, coloured shapes out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personlab_keras.synthetic.body import BODY_PARTS, SIDES, Build, Space
from personlab_keras.synthetic.canvas import Colour, Shape, ellipse, hull, shade


@dataclass(frozen=True)
class Outfit:
    """Colours and clothes. `hair_style`: short, long, bun, bald or hat; `sleeves`: none, short or
    long; `legwear`: trousers, shorts or skirt; `pattern` of the shirt: plain, stripes or patch."""

    skin: Colour
    hair: Colour
    shirt: Colour
    pants: Colour
    shoes: Colour
    trim: Colour
    hair_style: str = "short"
    sleeves: str = "short"
    legwear: str = "trousers"
    pattern: str = "plain"


ShapeGroup = tuple[float, list[Shape]]
"""Depth (z, larger is nearer) of shapes, and the shapes in painting order."""


def body_shapes(space: Space, build: Build, outfit: Outfit) -> list[Shape]:
    """Shapes of all parts of a body, farthest first.

    Args:
        space: joints and axes, as `place_joints` returns them.
        build: proportions of the body.
        outfit: colours and clothes.
    """
    groups = [
        *_torso_groups(space, build, outfit),
        *_head_groups(space, build, outfit),
        *(group for side in SIDES for group in _arm_groups(space, build, outfit, side)),
        *(group for side in SIDES for group in _leg_groups(space, build, outfit, side)),
    ]
    nearest_last = sorted(groups, key=lambda group: group[0])
    return [shape for _, shapes in nearest_last for shape in shapes]


def _solid(circles: list[tuple[np.ndarray, float]], colour: Colour, part: str) -> list[Shape]:
    """The hull of circles, lit from the upper left and with a dark rim, which sets limbs apart from
    a trunk of the same colour.
    """
    number = BODY_PARTS.index(part)
    lit = [(centre[:2] - 0.12 * radius, 0.78 * radius) for centre, radius in circles]
    return [Shape(hull(circles), shade(colour, 0.68), number), Shape(hull(lit), colour, number)]


def _torso_groups(space: Space, build: Build, outfit: Outfit) -> list[ShapeGroup]:
    g = build.girth
    shoulders = [space[f"{side}_shoulder"] for side in SIDES]
    hips = [space[f"{side}_hip"] for side in SIDES]
    # The waist is narrower than a straight line from shoulder to hip.
    pinch = 0.12 * (shoulders[0] - shoulders[1])
    waist = [
        0.38 * shoulder + 0.62 * hip - sign * pinch
        for shoulder, hip, sign in zip(shoulders, hips, SIDES.values(), strict=True)
    ]
    depth = float(np.mean([point[2] for point in (*shoulders, *hips)]))
    pelvis = _solid([(point, 0.052 * g) for point in (*hips, *waist)], outfit.pants, "torso")
    chest = _solid(
        [(point, 0.036 * g) for point in shoulders] + [(point, 0.05 * g) for point in waist],
        outfit.shirt,
        "torso",
    )
    groups = [(depth, pelvis), (depth + 0.001, chest + _shirt_pattern(shoulders, waist, outfit))]
    if outfit.legwear == "skirt":
        hem = [0.35 * space[f"{side}_hip"] + 0.65 * space[f"{side}_knee"] for side in SIDES]
        skirt = _solid(
            [(point, 0.05 * g) for point in waist] + [(point, 0.07 * g) for point in hem],
            outfit.pants,
            "torso",
        )
        groups.append((max(depth, float(hem[0][2]), float(hem[1][2])), skirt))
    neck = _solid(
        [(space["chest"], 0.03 * g), (space["skull"], 0.03 * g)], shade(outfit.skin, 0.9), "other"
    )
    return [*groups, (depth + 0.01, neck)]


def _shirt_pattern(
    shoulders: list[np.ndarray], waist: list[np.ndarray], outfit: Outfit
) -> list[Shape]:
    """Stripes across the shirt or a patch on its middle, inside its outline."""
    part = BODY_PARTS.index("torso")

    def across(down: float, reach: float) -> list[np.ndarray]:
        left, right = (
            (1.0 - down) * top + down * low for top, low in zip(shoulders, waist, strict=True)
        )
        return [0.5 * (left + right) + 0.5 * sign * reach * (left - right) for sign in (1.0, -1.0)]

    if outfit.pattern == "stripes":
        return [
            Shape(hull([(p, 0.012) for p in across(down, 1.0)]), outfit.trim, part)
            for down in (0.2, 0.5, 0.8)
        ]
    if outfit.pattern == "patch":
        return [
            Shape(
                hull([(p, 0.02) for down in (0.3, 0.55) for p in across(down, 0.35)]),
                outfit.trim,
                part,
            )
        ]
    return []


def _arm_groups(space: Space, build: Build, outfit: Outfit, side: str) -> list[ShapeGroup]:
    g = build.girth
    shoulder, elbow, wrist = (space[f"{side}_{joint}"] for joint in ("shoulder", "elbow", "wrist"))
    upper = outfit.skin if outfit.sleeves == "none" else outfit.shirt
    lower = outfit.shirt if outfit.sleeves == "long" else outfit.skin
    hand = wrist + 0.16 * (wrist - elbow)
    return [
        # A hanging arm is in front of the trunk that it touches.
        (float(shoulder[2] + elbow[2]) / 2 + 0.03,
         _solid([(shoulder, 0.036 * g), (elbow, 0.03 * g)], upper, f"{side}_upper_arm")),
        (float(elbow[2] + wrist[2]) / 2 + 0.035,
         _solid([(elbow, 0.03 * g), (wrist, 0.024 * g)], lower, f"{side}_forearm")
         + _solid([(hand, 0.027 * g)], outfit.skin, f"{side}_forearm")),
    ]  # fmt: skip


def _leg_groups(space: Space, build: Build, outfit: Outfit, side: str) -> list[ShapeGroup]:
    g = build.girth
    hip, knee, ankle, toe = (space[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle", "toe"))
    upper = outfit.skin if outfit.legwear == "skirt" else outfit.pants
    lower = outfit.pants if outfit.legwear == "trousers" else outfit.skin
    return [
        # The shirt hangs over the top of the thigh.
        (float(hip[2] + knee[2]) / 2 - 0.01, _solid([(hip, 0.055 * g), (knee, 0.042 * g)], upper, f"{side}_thigh")),
        (float(knee[2] + ankle[2]) / 2 - 0.015,
         _solid([(ankle, 0.022 * g), (toe, 0.026 * g)], outfit.shoes, "other")
         + _solid([(knee, 0.041 * g), (ankle, 0.028 * g)], lower, f"{side}_shin")),
    ]  # fmt: skip


def _head_groups(space: Space, build: Build, outfit: Outfit) -> list[ShapeGroup]:
    skull, forward = space["skull"], space["head_forward"]
    high, wide = build.head, build.head * build.head_width
    depth = float(skull[2]) + 0.045
    cover = outfit.skin if outfit.hair_style == "bald" else outfit.hair
    head = [
        _head_disc(space, build, skull, (1.05, 1.04), shade(cover, 0.75), "other"),
        _head_disc(space, build, skull - 0.04 * high, (0.95, 0.95), cover, "other"),
    ]
    if forward[2] > 0.0:
        head += _face(space, build, outfit)
    if outfit.hair_style == "hat":
        head += _hat(space, build, outfit)
    groups: list[ShapeGroup] = [(depth, head)]
    for side in SIDES:
        ear = space[f"{side}_ear"]
        # An ear farther away than the centre of the head is behind it; from the front, both stick
        # out.
        near = depth + 0.5 * float(ear[2] - skull[2]) - 1e-4
        groups.append(
            (
                near,
                [
                    _head_disc(
                        space, build, ear, (0.2, 0.22), shade(outfit.skin, 0.8), f"{side}_ear"
                    )
                ],
            )
        )
    behind = depth - 0.3 * wide * float(forward[2])
    return [*groups, *((behind, lock) for lock in _hair_locks(space, build, outfit))]


def _head_disc(
    space: Space,
    build: Build,
    centre: np.ndarray,
    half_axes: tuple[float, float],
    colour: Colour,
    part: str,
) -> Shape:
    """An ellipse aligned with the head; its half axes across and along the head are fractions of
    those of the head.
    """
    down, (across, along) = space["head_down"], half_axes
    tilt = float(np.arctan2(down[1], down[0]) - np.pi / 2)
    return Shape(
        ellipse(centre, (across * build.head * build.head_width, along * build.head), tilt),
        colour,
        BODY_PARTS.index(part),
    )


def _face(space: Space, build: Build, outfit: Outfit) -> list[Shape]:
    skull, down, forward = (space[name] for name in ("skull", "head_down", "head_forward"))
    high, wide = build.head, build.head * build.head_width

    def disc(centre: np.ndarray, across: float, along: float, colour: Colour) -> Shape:
        return _head_disc(space, build, centre, (across, along), colour, "face")

    shapes = [
        disc(skull + 0.3 * wide * forward + 0.13 * high * down, 0.9, 0.86, outfit.skin),
        disc(
            skull + 0.85 * wide * forward + 0.52 * high * down, 0.3, 0.07, shade(outfit.skin, 0.5)
        ),  # mouth
        disc(space["nose"], 0.13, 0.14, shade(outfit.skin, 0.72)),
    ]
    for side in SIDES:
        eye = space[f"{side}_eye"]
        if eye[2] > skull[2]:
            brow = disc(eye - 0.24 * high * down, 0.2, 0.05, shade(outfit.hair, 0.8))
            shapes += [
                brow,
                disc(eye, 0.2, 0.15, (245, 245, 245)),
                disc(eye, 0.11, 0.11, (25, 20, 20)),
            ]
    return shapes


def _hat(space: Space, build: Build, outfit: Outfit) -> list[Shape]:
    skull, left, down, forward = (
        space[name] for name in ("skull", "head_left", "head_down", "head_forward")
    )
    high, wide = build.head, build.head * build.head_width
    band = skull - 0.52 * high * down
    crown = [
        (band + 0.7 * wide * sign * left - 0.25 * high * down, 0.33 * high)
        for sign in SIDES.values()
    ]
    brim = [
        (band + 0.35 * wide * forward + 0.8 * wide * sign * left, 0.11 * high)
        for sign in SIDES.values()
    ]
    other = BODY_PARTS.index("other")
    return [
        Shape(hull(crown), outfit.trim, other),
        Shape(hull(brim), shade(outfit.trim, 0.7), other),
    ]


def _hair_locks(space: Space, build: Build, outfit: Outfit) -> list[list[Shape]]:
    """Hair at the back of the head: long locks or a bun."""
    skull, left, down, forward = (
        space[name] for name in ("skull", "head_left", "head_down", "head_forward")
    )
    high, wide = build.head, build.head * build.head_width
    if outfit.hair_style == "bun":
        bun = skull - 0.7 * wide * forward - 0.75 * high * down
        return [_solid([(bun, 0.55 * wide)], outfit.hair, "other")]
    if outfit.hair_style == "long":
        roots = [
            skull - 0.3 * wide * forward + 0.55 * wide * sign * left for sign in SIDES.values()
        ]
        return [
            _solid(
                [(root, 0.55 * wide), (root + 1.6 * high * down, 0.4 * wide)], outfit.hair, "other"
            )
            for root in roots
        ]
    return []

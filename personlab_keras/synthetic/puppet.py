"""An articulated person: angles of the joints and proportions in, joint positions and painted parts
out.

The puppet is posed in three dimensions and seen from far away: x to the image's right, y down, z
towards the viewer; the projection drops z, which then says what hides what. Unless told otherwise,
lengths are shares of the person's standing height. At yaw 0 the puppet faces the viewer, so its own
left is the image's right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from personlab_keras.method.coordinates import flip_points
from personlab_keras.synthetic.canvas import Colour, Shape, ellipse, hull, shade

SIDES = {"left": 1.0, "right": -1.0}
"""The sign of each side along the puppet's own lateral axis."""

# Hair, hats and feet carry no keypoint: one part for all of them.
BODY_PARTS = (
    "other", "torso", "face",
    "left_ear", "left_upper_arm", "left_forearm", "left_thigh", "left_shin",
    "right_ear", "right_upper_arm", "right_forearm", "right_thigh", "right_shin",
)  # fmt: skip
"""Names of the parts by number, as `Shape.part` gives it."""


def _carriers() -> dict[str, tuple[str, ...]]:
    carriers: dict[str, tuple[str, ...]] = {"nose": ("face",)}
    for side in SIDES:
        one_side = {
            "eye": ("face",),
            "ear": (f"{side}_ear",),
            "shoulder": ("torso", f"{side}_upper_arm"),
            "elbow": (f"{side}_upper_arm", f"{side}_forearm"),
            "wrist": (f"{side}_forearm",),
            "hip": ("torso", f"{side}_thigh"),
            "knee": (f"{side}_thigh", f"{side}_shin"),
            "ankle": (f"{side}_shin",),
        }
        carriers |= {f"{side}_{joint}": parts for joint, parts in one_side.items()}
    return carriers


CARRIERS = _carriers()
"""Joint -> the parts on which it can be seen. Clothes belong to the part they cover: they hide no
joint.
"""


@dataclass(frozen=True)
class Limb:
    """An arm or a leg as two segments. Angles in radians: `out` from hanging down towards the
    person's own side (pi: straight up), `forward` from that plane to the front."""

    upper_out: float
    upper_forward: float
    lower_out: float
    lower_forward: float


@dataclass(frozen=True)
class Pose:
    """Angles in radians. `yaw` turns the person (0: towards the viewer, pi: away), `roll` the whole
    figure in the image plane (clockwise), `bend` the trunk forwards and `lean` sideways (clockwise
    when facing the viewer); the head's angles come on top."""

    yaw: float
    roll: float
    bend: float
    lean: float
    head_yaw: float
    head_nod: float
    head_tilt: float
    left_arm: Limb
    right_arm: Limb
    left_leg: Limb
    right_leg: Limb

    def mirrored(self) -> Pose:
        """The pose seen in a mirror."""
        return replace(
            self,
            yaw=-self.yaw, roll=-self.roll, lean=-self.lean, head_yaw=-self.head_yaw, head_tilt=-self.head_tilt,
            left_arm=self.right_arm, right_arm=self.left_arm, left_leg=self.right_leg, right_leg=self.left_leg,
        )  # fmt: skip


@dataclass(frozen=True)
class Build:
    """Proportions. `shoulders` and `hips` are half the distance between the two joints, `head` half
    its height; `girth` multiplies every thickness."""

    head: float = 0.085
    head_width: float = 0.82
    neck: float = 0.035
    shoulders: float = 0.125
    hips: float = 0.07
    torso: float = 0.29
    upper_arm: float = 0.165
    forearm: float = 0.145
    thigh: float = 0.235
    shin: float = 0.22
    girth: float = 1.1


@dataclass(frozen=True)
class Look:
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


@dataclass(frozen=True)
class Figure:
    """A puppet in the image plane.

    Attributes:
        joints: name -> (2,) float position; every name of `CARRIERS`.
        shapes: what to paint, farthest first.
    """

    joints: dict[str, np.ndarray]
    shapes: tuple[Shape, ...]

    @property
    def box(self) -> np.ndarray:
        """(4,) float [left, top, right, bottom] around everything painted."""
        points = np.concatenate([shape.polygon for shape in self.shapes])
        return np.concatenate([points.min(axis=0), points.max(axis=0)])

    def placed(self, scale: float, shift: np.ndarray) -> Figure:
        """The figure with every point at `scale * point + shift`."""
        return Figure(
            joints={name: scale * point + shift for name, point in self.joints.items()},
            shapes=tuple(shape.placed(scale, shift) for shape in self.shapes),
        )

    def mirrored(self, width: int) -> Figure:
        """The figure in the mirrored image of that width: what was painted of the left side is now
        of the right one.
        """
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


def make_figure(pose: Pose, build: Build, look: Look) -> Figure:
    """The figure of a person whose pelvis is at (0, 0) and who would stand about 1 tall: place it
    by `Figure.placed`.
    """
    space = _place_joints(pose, build)
    groups = [
        *_torso_groups(space, build, look),
        *_head_groups(space, build, look),
        *(group for side in SIDES for group in _arm_groups(space, build, look, side)),
        *(group for side in SIDES for group in _leg_groups(space, build, look, side)),
    ]
    nearest_last = sorted(groups, key=lambda group: group[0])
    return Figure(
        joints={name: space[name][:2] for name in CARRIERS},
        shapes=tuple(shape for _, shapes in nearest_last for shape in shapes),
    )


_Space = dict[str, np.ndarray]
"""Points and unit axes (3,) by name."""
_Group = tuple[float, list[Shape]]
"""How near it is (z), and what to paint there in this order."""


def _about_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def _about_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _place_joints(pose: Pose, build: Build) -> _Space:
    """Forward kinematics, from the pelvis outwards. The columns of a frame are the axes left, down
    and forward.
    """
    stand = _about_z(pose.roll) @ _about_y(pose.yaw)
    trunk = stand @ _about_z(pose.lean) @ _about_x(pose.bend)
    # The neck makes up for half of what the trunk bends: people look where they go.
    head = (
        stand
        @ _about_y(pose.head_yaw)
        @ _about_z(pose.head_tilt + 0.6 * pose.lean)
        @ _about_x(pose.head_nod + 0.5 * pose.bend)
    )
    chest = -build.torso * trunk[:, 1]
    skull = chest - build.neck * trunk[:, 1] - build.head * head[:, 1]
    half_width = build.head * build.head_width
    space = {
        "chest": chest, "skull": skull,
        "head_left": head[:, 0], "head_down": head[:, 1], "head_forward": head[:, 2],
        "nose": skull + half_width * head[:, 2] + 0.18 * build.head * head[:, 1],
    }  # fmt: skip
    for side, sign in SIDES.items():
        space[f"{side}_eye"] = (
            skull
            + half_width * (0.8 * head[:, 2] + 0.4 * sign * head[:, 0])
            - 0.12 * build.head * head[:, 1]
        )
        space[f"{side}_ear"] = skull + 1.08 * half_width * sign * head[:, 0]
        space[f"{side}_shoulder"] = chest + build.shoulders * sign * trunk[:, 0]
        space[f"{side}_hip"] = build.hips * sign * stand[:, 0]
        arm, leg = (
            (pose.left_arm, pose.left_leg) if side == "left" else (pose.right_arm, pose.right_leg)
        )
        _reach(
            space,
            trunk,
            sign,
            arm,
            (f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist"),
            (build.upper_arm, build.forearm),
        )
        _reach(
            space,
            stand,
            sign,
            leg,
            (f"{side}_hip", f"{side}_knee", f"{side}_ankle"),
            (build.thigh, build.shin),
        )
        # Feet point down and to the front; seen from the front they are short.
        space[f"{side}_toe"] = space[f"{side}_ankle"] + stand @ np.array(
            [0.012 * sign, 0.025, 0.05]
        )
    return space


def _reach(
    space: _Space,
    frame: np.ndarray,
    sign: float,
    limb: Limb,
    names: tuple[str, str, str],
    lengths: tuple[float, float],
) -> None:
    """Add the second and third joint of a limb to `space`, which holds the first."""
    root, middle, end = names
    space[middle] = space[root] + lengths[0] * frame @ _direction(
        limb.upper_out, limb.upper_forward, sign
    )
    space[end] = space[middle] + lengths[1] * frame @ _direction(
        limb.lower_out, limb.lower_forward, sign
    )


def _direction(out: float, forward: float, sign: float) -> np.ndarray:
    return np.array(
        [sign * np.sin(out) * np.cos(forward), np.cos(out) * np.cos(forward), np.sin(forward)]
    )


def _solid(circles: list[tuple[np.ndarray, float]], colour: Colour, part: str) -> list[Shape]:
    """The hull of circles with a dark rim and its light from the upper left: limbs stay apart from
    a trunk of the same colour.
    """
    number = BODY_PARTS.index(part)
    lit = [(centre[:2] - 0.12 * radius, 0.78 * radius) for centre, radius in circles]
    return [Shape(hull(circles), shade(colour, 0.68), number), Shape(hull(lit), colour, number)]


def _torso_groups(space: _Space, build: Build, look: Look) -> list[_Group]:
    g = build.girth
    shoulders = [space[f"{side}_shoulder"] for side in SIDES]
    hips = [space[f"{side}_hip"] for side in SIDES]
    # Narrower than a straight line from shoulder to hip.
    pinch = 0.12 * (shoulders[0] - shoulders[1])
    waist = [
        0.38 * shoulder + 0.62 * hip - sign * pinch
        for shoulder, hip, sign in zip(shoulders, hips, SIDES.values(), strict=True)
    ]
    depth = float(np.mean([point[2] for point in (*shoulders, *hips)]))
    pelvis = _solid([(point, 0.052 * g) for point in (*hips, *waist)], look.pants, "torso")
    chest = _solid(
        [(point, 0.036 * g) for point in shoulders] + [(point, 0.05 * g) for point in waist],
        look.shirt,
        "torso",
    )
    groups = [(depth, pelvis), (depth + 0.001, chest + _shirt_pattern(shoulders, waist, look))]
    if look.legwear == "skirt":
        hem = [0.35 * space[f"{side}_hip"] + 0.65 * space[f"{side}_knee"] for side in SIDES]
        skirt = _solid(
            [(point, 0.05 * g) for point in waist] + [(point, 0.07 * g) for point in hem],
            look.pants,
            "torso",
        )
        groups.append((max(depth, float(hem[0][2]), float(hem[1][2])), skirt))
    neck = _solid(
        [(space["chest"], 0.03 * g), (space["skull"], 0.03 * g)], shade(look.skin, 0.9), "other"
    )
    return [*groups, (depth + 0.01, neck)]


def _shirt_pattern(shoulders: list[np.ndarray], waist: list[np.ndarray], look: Look) -> list[Shape]:
    """Stripes from side to side or a patch on the middle of the shirt, inside its outline."""
    part = BODY_PARTS.index("torso")

    def across(down: float, reach: float) -> list[np.ndarray]:
        left, right = (
            (1.0 - down) * top + down * low for top, low in zip(shoulders, waist, strict=True)
        )
        return [0.5 * (left + right) + 0.5 * sign * reach * (left - right) for sign in (1.0, -1.0)]

    if look.pattern == "stripes":
        return [
            Shape(hull([(p, 0.012) for p in across(down, 1.0)]), look.trim, part)
            for down in (0.2, 0.5, 0.8)
        ]
    if look.pattern == "patch":
        return [
            Shape(
                hull([(p, 0.02) for down in (0.3, 0.55) for p in across(down, 0.35)]),
                look.trim,
                part,
            )
        ]
    return []


def _arm_groups(space: _Space, build: Build, look: Look, side: str) -> list[_Group]:
    g = build.girth
    shoulder, elbow, wrist = (space[f"{side}_{joint}"] for joint in ("shoulder", "elbow", "wrist"))
    upper = look.skin if look.sleeves == "none" else look.shirt
    lower = look.shirt if look.sleeves == "long" else look.skin
    hand = wrist + 0.16 * (wrist - elbow)
    return [
        # A hanging arm lies before the trunk it touches.
        (float(shoulder[2] + elbow[2]) / 2 + 0.03,
         _solid([(shoulder, 0.036 * g), (elbow, 0.03 * g)], upper, f"{side}_upper_arm")),
        (float(elbow[2] + wrist[2]) / 2 + 0.035,
         _solid([(elbow, 0.03 * g), (wrist, 0.024 * g)], lower, f"{side}_forearm")
         + _solid([(hand, 0.027 * g)], look.skin, f"{side}_forearm")),
    ]  # fmt: skip


def _leg_groups(space: _Space, build: Build, look: Look, side: str) -> list[_Group]:
    g = build.girth
    hip, knee, ankle, toe = (space[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle", "toe"))
    upper = look.skin if look.legwear == "skirt" else look.pants
    lower = look.pants if look.legwear == "trousers" else look.skin
    return [
        # The shirt hangs over the top of the thigh.
        (float(hip[2] + knee[2]) / 2 - 0.01, _solid([(hip, 0.055 * g), (knee, 0.042 * g)], upper, f"{side}_thigh")),
        (float(knee[2] + ankle[2]) / 2 - 0.015,
         _solid([(ankle, 0.022 * g), (toe, 0.026 * g)], look.shoes, "other")
         + _solid([(knee, 0.041 * g), (ankle, 0.028 * g)], lower, f"{side}_shin")),
    ]  # fmt: skip


def _head_groups(space: _Space, build: Build, look: Look) -> list[_Group]:
    skull, forward = space["skull"], space["head_forward"]
    high, wide = build.head, build.head * build.head_width
    depth = float(skull[2]) + 0.045
    cover = look.skin if look.hair_style == "bald" else look.hair
    head = [
        _head_disc(space, build, skull, (1.05, 1.04), shade(cover, 0.75), "other"),
        _head_disc(space, build, skull - 0.04 * high, (0.95, 0.95), cover, "other"),
    ]
    if forward[2] > 0.0:
        head += _face(space, build, look)
    if look.hair_style == "hat":
        head += _hat(space, build, look)
    groups: list[_Group] = [(depth, head)]
    for side in SIDES:
        ear = space[f"{side}_ear"]
        # The ear that is farther away than the head's middle is behind it; seen from straight ahead
        # both stick out.
        near = depth + 0.5 * float(ear[2] - skull[2]) - 1e-4
        groups.append(
            (
                near,
                [_head_disc(space, build, ear, (0.2, 0.22), shade(look.skin, 0.8), f"{side}_ear")],
            )
        )
    behind = depth - 0.3 * wide * float(forward[2])
    return [*groups, *((behind, lock) for lock in _hair_locks(space, build, look))]


def _head_disc(
    space: _Space,
    build: Build,
    centre: np.ndarray,
    half_axes: tuple[float, float],
    colour: Colour,
    part: str,
) -> Shape:
    """An ellipse upright in the head; half axes across and along it, in shares of the head's
    own.
    """
    down, (across, along) = space["head_down"], half_axes
    tilt = float(np.arctan2(down[1], down[0]) - np.pi / 2)
    return Shape(
        ellipse(centre, (across * build.head * build.head_width, along * build.head), tilt),
        colour,
        BODY_PARTS.index(part),
    )


def _face(space: _Space, build: Build, look: Look) -> list[Shape]:
    skull, down, forward = (space[name] for name in ("skull", "head_down", "head_forward"))
    high, wide = build.head, build.head * build.head_width

    def disc(centre: np.ndarray, across: float, along: float, colour: Colour) -> Shape:
        return _head_disc(space, build, centre, (across, along), colour, "face")

    shapes = [
        disc(skull + 0.3 * wide * forward + 0.13 * high * down, 0.9, 0.86, look.skin),
        disc(
            skull + 0.85 * wide * forward + 0.52 * high * down, 0.3, 0.07, shade(look.skin, 0.5)
        ),  # mouth
        disc(space["nose"], 0.13, 0.14, shade(look.skin, 0.72)),
    ]
    for side in SIDES:
        eye = space[f"{side}_eye"]
        if eye[2] > skull[2]:
            brow = disc(eye - 0.24 * high * down, 0.2, 0.05, shade(look.hair, 0.8))
            shapes += [
                brow,
                disc(eye, 0.2, 0.15, (245, 245, 245)),
                disc(eye, 0.11, 0.11, (25, 20, 20)),
            ]
    return shapes


def _hat(space: _Space, build: Build, look: Look) -> list[Shape]:
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
    return [Shape(hull(crown), look.trim, other), Shape(hull(brim), shade(look.trim, 0.7), other)]


def _hair_locks(space: _Space, build: Build, look: Look) -> list[list[Shape]]:
    """What hangs or sits at the back of the head."""
    skull, left, down, forward = (
        space[name] for name in ("skull", "head_left", "head_down", "head_forward")
    )
    high, wide = build.head, build.head * build.head_width
    if look.hair_style == "bun":
        bun = skull - 0.7 * wide * forward - 0.75 * high * down
        return [_solid([(bun, 0.55 * wide)], look.hair, "other")]
    if look.hair_style == "long":
        roots = [
            skull - 0.3 * wide * forward + 0.55 * wide * sign * left for sign in SIDES.values()
        ]
        return [
            _solid(
                [(root, 0.55 * wide), (root + 1.6 * high * down, 0.4 * wide)], look.hair, "other"
            )
            for root in roots
        ]
    return []

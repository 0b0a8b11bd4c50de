"""The body of an articulated person: pose and proportions in, joint positions out.

The puppet is posed in three dimensions and projected orthographically: x points to the image's
right, y down and z towards the viewer; z only decides which part hides another. Lengths are
fractions of the standing height unless stated otherwise. At yaw 0 the puppet faces the viewer, so
its own left is the image's right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

SIDES = {"left": 1.0, "right": -1.0}
"""The sign of each side along the puppet's own lateral axis."""

# Hair, hats and feet have no keypoints and share a part.
BODY_PARTS = (
    "other", "torso", "face",
    "left_ear", "left_upper_arm", "left_forearm", "left_thigh", "left_shin",
    "right_ear", "right_upper_arm", "right_forearm", "right_thigh", "right_shin",
)  # fmt: skip
"""Names of the parts; `Shape.part` is an index into them."""


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
"""The parts that show each joint. Clothes belong to the part they cover and hide no joint."""


@dataclass(frozen=True)
class Limb:
    """An arm or a leg of two segments. Angles are in radians: `out` from hanging down towards the
    person's own side (pi: straight up), `forward` from that plane to the front."""

    upper_out: float
    upper_forward: float
    lower_out: float
    lower_forward: float


@dataclass(frozen=True)
class Pose:
    """Angles of a figure in radians. `yaw` turns the person (0: towards the viewer, pi: away),
    `roll` the whole figure in the image plane (clockwise), `bend` the trunk forwards and `lean`
    sideways (clockwise when facing the viewer). The head's angles are relative to the trunk."""

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
        """The mirrored pose."""
        return replace(
            self,
            yaw=-self.yaw, roll=-self.roll, lean=-self.lean, head_yaw=-self.head_yaw, head_tilt=-self.head_tilt,
            left_arm=self.right_arm, right_arm=self.left_arm, left_leg=self.right_leg, right_leg=self.left_leg,
        )  # fmt: skip


@dataclass(frozen=True)
class Build:
    """Proportions of a body. `shoulders` and `hips` are half the distance between the joints,
    `head` is half its height; `girth` multiplies every thickness."""

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


Space = dict[str, np.ndarray]
"""Points and unit vectors (3,) by name."""


def _about_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def _about_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def place_joints(pose: Pose, build: Build) -> Space:
    """Computes all joints from the pelvis outwards (forward kinematics). The columns of a rotation
    are the axes left, down and forward.
    """
    stand = _about_z(pose.roll) @ _about_y(pose.yaw)
    trunk = stand @ _about_z(pose.lean) @ _about_x(pose.bend)
    # The neck compensates half of the trunk's bend: people look ahead.
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
    space: Space,
    frame: np.ndarray,
    sign: float,
    limb: Limb,
    names: tuple[str, str, str],
    lengths: tuple[float, float],
) -> None:
    """Adds the second and third joint of a limb to `space`, which holds the first."""
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

"""Draws random bodies, clothes and poses for the puppets of a scene."""

from __future__ import annotations

import math

import numpy as np

from personlab_keras.synthetic.body import Build, Limb, Pose
from personlab_keras.synthetic.body_shapes import Outfit
from personlab_keras.synthetic.canvas import HAIR_TONES, SKIN_TONES, draw_colour, draw_tone
from personlab_keras.synthetic.puppet import Figure, make_figure


def draw_figure(rng: np.random.Generator) -> Figure:
    """Draws a random person, about 1 tall when standing, with the pelvis at (0, 0)."""
    return make_figure(draw_pose(rng), draw_build(rng), draw_outfit(rng))


def draw_build(rng: np.random.Generator) -> Build:
    """Draws random proportions of a body whose shoulders are wider than its hips."""
    plain = Build()
    scale = {
        name: float(rng.normal(1.0, 0.05))
        for name in ("neck", "torso", "upper_arm", "forearm", "thigh", "shin")
    }
    return Build(
        **{name: getattr(plain, name) * float(np.clip(factor, 0.88, 1.12)) for name, factor in scale.items()},
        head=float(rng.uniform(0.078, 0.1)), head_width=float(rng.uniform(0.75, 0.9)),
        shoulders=float(rng.uniform(0.11, 0.14)), hips=float(rng.uniform(0.06, 0.08)), girth=float(rng.uniform(0.95, 1.35)),
    )  # fmt: skip


def draw_outfit(rng: np.random.Generator) -> Outfit:
    """Draws random colours and clothes."""
    shirt, pants, shoes, trim = (draw_colour(rng) for _ in range(4))
    return Outfit(
        skin=draw_tone(rng, SKIN_TONES), hair=draw_tone(rng, HAIR_TONES), shirt=shirt, pants=pants, shoes=shoes, trim=trim,
        hair_style=str(rng.choice(["short", "long", "bun", "bald", "hat"], p=[0.42, 0.22, 0.1, 0.08, 0.18])),
        sleeves=str(rng.choice(["none", "short", "long"], p=[0.2, 0.4, 0.4])),
        legwear=str(rng.choice(["trousers", "shorts", "skirt"], p=[0.58, 0.24, 0.18])),
        pattern=str(rng.choice(["plain", "stripes", "patch"], p=[0.55, 0.25, 0.2])),
    )  # fmt: skip


def draw_pose(rng: np.random.Generator) -> Pose:
    """Draws a random pose: mostly upright and facing the viewer, sometimes from behind, from the
    side or leaning over.
    """
    view = rng.random()
    if view < 0.72:
        yaw = float(np.clip(rng.normal(0.0, 22.0), -50.0, 50.0))
    elif view < 0.92:
        yaw = 180.0 + float(np.clip(rng.normal(0.0, 20.0), -45.0, 45.0))
    else:
        yaw = float(rng.uniform(45.0, 75.0) * rng.choice([-1.0, 1.0]))
    roll = (
        rng.uniform(-60.0, 60.0)
        if rng.random() < 0.05
        else np.clip(rng.normal(0.0, 8.0), -28.0, 28.0)
    )
    bend = rng.uniform(25.0, 65.0) if rng.random() < 0.1 else rng.uniform(-5.0, 15.0)
    lean, head_yaw, head_tilt = np.clip(
        rng.normal(0.0, (7.0, 15.0, 8.0)), (-20.0, -40.0, -20.0), (20.0, 40.0, 20.0)
    )
    left_arm, right_arm = _draw_arms(rng)
    left_leg, right_leg = _draw_legs(rng)
    return Pose(
        yaw=math.radians(yaw), roll=math.radians(roll), bend=math.radians(bend), lean=math.radians(lean),
        head_yaw=math.radians(head_yaw), head_nod=math.radians(rng.uniform(-8.0, 15.0)), head_tilt=math.radians(head_tilt),
        left_arm=left_arm, right_arm=right_arm, left_leg=left_leg, right_leg=right_leg,
    )  # fmt: skip


_Ranges = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""Ranges (low, high) in degrees of upper_out, upper_forward, lower_out and lower_forward."""

_ARMS: tuple[tuple[float, _Ranges], ...] = (
    (0.30, ((5, 25), (-15, 15), (-8, 20), (0, 30))),  # hanging
    (0.15, ((35, 55), (-20, 5), (-65, -40), (-5, 25))),  # hand on the hip
    (0.12, ((120, 170), (-10, 20), (130, 200), (-10, 25))),  # raised
    (0.12, ((60, 110), (-10, 20), (140, 195), (-5, 25))),  # waving
    (0.13, ((60, 110), (-10, 15), (55, 120), (-10, 20))),  # spread
    (0.10, ((0, 30), (30, 70), (-20, 40), (45, 80))),  # reaching to the front
    (0.08, ((5, 25), (-5, 20), (-110, -60), (10, 40))),  # folded before the chest
)
"""Positions of an arm with their probabilities, which sum to one."""

_STANDING: _Ranges = ((1, 9), (-6, 8), (-2, 6), (-14, 2))
_WIDE: _Ranges = ((12, 30), (-5, 15), (0, 24), (-20, 5))
_AHEAD: _Ranges = ((0, 10), (15, 40), (-2, 8), (-15, 10))
_BEHIND: _Ranges = ((0, 10), (-25, -5), (-2, 8), (-60, -25))
_SEATED: _Ranges = ((8, 30), (55, 82), (-5, 12), (-15, 10))
_CROUCHED: _Ranges = ((15, 45), (20, 50), (-12, 10), (-50, -20))
_LEGS: tuple[tuple[float, tuple[_Ranges, _Ranges]], ...] = (
    (0.40, (_STANDING, _STANDING)),
    (0.13, (_AHEAD, _BEHIND)),
    (0.12, (_BEHIND, _AHEAD)),
    (0.17, (_WIDE, _WIDE)),
    (0.10, (_SEATED, _SEATED)),
    (0.08, (_CROUCHED, _CROUCHED)),
)
"""Positions of the left and right leg with their probabilities, which sum to one."""


def _draw_arms(rng: np.random.Generator) -> tuple[Limb, Limb]:
    """Draws both arms; half of all people hold them alike."""
    first, second = rng.choice(len(_ARMS), size=2, p=[share for share, _ in _ARMS])
    if rng.random() < 0.5:
        second = first
    return _draw_limb(rng, _ARMS[first][1]), _draw_limb(rng, _ARMS[second][1])


def _draw_legs(rng: np.random.Generator) -> tuple[Limb, Limb]:
    left, right = _LEGS[rng.choice(len(_LEGS), p=[share for share, _ in _LEGS])][1]
    return _draw_limb(rng, left), _draw_limb(rng, right)


def _draw_limb(rng: np.random.Generator, ranges: _Ranges) -> Limb:
    return Limb(*(math.radians(rng.uniform(low, high)) for low, high in ranges))

"""What the decoder's tests compare with: perfect maps of hand-made people, and the formulas as slow
loops.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from personlab_keras.decoder import FramedMaps
from personlab_keras.method.coordinates import grid, map_side
from personlab_keras.method.frame import Frame
from personlab_keras.method.maps import Maps
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

RADIUS = 32.0

STANDING = np.array(
    [
        (0, -90),  # nose; then left before right, and the left of a person that faces the camera has the larger x
        (6, -96), (-6, -96),
        (13, -92), (-13, -92),
        (28, -62), (-28, -62),
        (42, -25), (-42, -25),
        (50, 8), (-50, 8),
        (18, 10), (-18, 10),
        (20, 58), (-20, 58),
        (21, 105), (-21, 105),
    ],
    dtype=float,
)  # fmt: skip
"""(17, 2) a person about 200 px tall around (0, 0)."""


PAIR = Skeleton(
    name="pair",
    keypoints=("left", "right"),
    edges=(("left", "right"),),
    sigmas=(0.05, 0.1),
    flip_pairs=(("left", "right"),),
)


def random_maps(
    rng: np.random.Generator, height: int, width: int, stride: int = 8, skeleton: Skeleton = PAIR
) -> Maps:
    count, reach = skeleton.keypoint_count, 2.0 * stride
    return Maps(
        heatmaps=rng.random((height, width, count)).astype(np.float32),
        short_offsets=rng.normal(0, reach, (height, width, count, 2)).astype(np.float32),
        mid_offsets=rng.normal(0, reach, (height, width, 2 * count - 2, 2)).astype(np.float32),
        long_offsets=rng.normal(0, reach, (height, width, count, 2)).astype(np.float32),
        segmentation=rng.random((height, width)).astype(np.float32),
        stride=stride,
    )


def standing(x: float, y: float, size: float = 1.0) -> np.ndarray:
    """(17, 2) a standing person around (x, y)."""
    return STANDING * size + (x, y)


def inside_body(person: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(...) bool: which points (..., 2) lie in the ellipse around a person's keypoints."""
    low, high = np.nanmin(person, axis=0), np.nanmax(person, axis=0)
    return (((points - (low + high) / 2) / ((high - low) * 0.6 + 1)) ** 2).sum(axis=-1) <= 1


def paint(
    people: list[np.ndarray],
    height: int,
    width: int,
    stride: int,
    radius: float = RADIUS,
    skeleton: Skeleton = COCO_PERSON,
) -> Maps:
    """Perfect maps of people (K, 2), NaN where not labelled: discs belong to the nearest, bodies to
    the last painted.
    """
    cells = grid(map_side(height, stride), map_side(width, stride), stride).astype(float)
    shape, count = cells.shape[:2], skeleton.keypoint_count
    heatmaps, short, long = (
        np.zeros((*shape, count)),
        np.zeros((*shape, count, 2)),
        np.zeros((*shape, count, 2)),
    )
    mid = np.zeros((*shape, skeleton.directed_edge_count, 2))
    nearest = np.full((*shape, count), np.inf)
    segmentation = np.zeros(shape)
    for person in people:
        away = np.linalg.norm(person - cells[:, :, None], axis=-1)
        mine = (away <= radius) & (away < nearest)
        nearest[mine] = away[mine]
        heatmaps[mine] = 1
        short[mine] = (person - cells[:, :, None])[mine]
        for edge, (source, target) in enumerate(skeleton.edge_indices):
            known = np.nan_to_num(person[target] - cells)
            mid[:, :, edge] = np.where(mine[:, :, source, None], known, mid[:, :, edge])
        body = inside_body(person, cells)
        segmentation[body] = 1
        long[body] = np.nan_to_num(person - cells[:, :, None])[body]
    arrays = (array.astype(np.float32) for array in (heatmaps, short, mid, long, segmentation))
    return Maps(*arrays, stride=stride)


def unsure(people: list[np.ndarray], side: int, seed: int, radius: float = RADIUS) -> Maps:
    """Maps of people (17, 2) as a network has them at stride 8; zeros where `paint` has them."""
    rng = np.random.default_rng(seed)
    maps = paint(people, side, side, 8, radius)

    def noisy(values: np.ndarray, spread: float) -> np.ndarray:
        return (values + rng.normal(0, spread, values.shape) * (values != 0)).astype(np.float32)

    heatmaps = maps.heatmaps * rng.uniform(0.3, 0.95, maps.heatmaps.shape)
    return replace(
        maps,
        heatmaps=heatmaps.astype(np.float32),
        short_offsets=noisy(maps.short_offsets, 2),
        mid_offsets=noisy(maps.mid_offsets, 4),
        long_offsets=noisy(maps.long_offsets, 6),
        segmentation=np.clip(noisy(maps.segmentation, 0.3), 0, 1),
    )


def mirrored(maps: Maps, skeleton: Skeleton = COCO_PERSON) -> Maps:
    """The maps of the mirrored image."""
    negate = np.array([-1, 1])
    assert maps.long_offsets is not None
    assert maps.segmentation is not None
    return Maps(
        heatmaps=maps.heatmaps[:, ::-1, skeleton.flip_order],
        short_offsets=maps.short_offsets[:, ::-1, skeleton.flip_order] * negate,
        mid_offsets=maps.mid_offsets[:, ::-1, skeleton.edge_flip_order] * negate,
        long_offsets=maps.long_offsets[:, ::-1, skeleton.flip_order] * negate,
        segmentation=maps.segmentation[:, ::-1],
        stride=maps.stride,
    )


def bilinear_loop(field: np.ndarray, x: float, y: float) -> np.ndarray:
    """A map (h, w, ...) at column x, row y, both within it: the tent of every cell."""
    value = np.zeros(field.shape[2:])
    for i in range(field.shape[0]):
        for j in range(field.shape[1]):
            weight = max(0.0, 1 - abs(x - j)) * max(0.0, 1 - abs(y - i))
            if weight:
                value = value + weight * field[i, j]
    return value


def hough_loop(maps: Maps, radius: float) -> np.ndarray:
    """(h, w, K): the Hough sum, cell by cell and voter by voter."""
    height, width, count = maps.heatmaps.shape
    scores = np.zeros((height, width, count))
    for i, j, k in np.ndindex(height, width, count):
        dx, dy = maps.short_offsets[i, j, k].astype(float)
        x, y = j + dx / maps.stride, i + dy / maps.stride
        for row, column in np.ndindex(height, width):
            tent = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
            scores[row, column, k] += maps.heatmaps[i, j, k] * tent
    return scores / (math.pi * radius**2 / maps.stride**2)


def expected_oks_loop(
    maps: Maps, point: np.ndarray, keypoint: int, scale: float, kappa: float, radius: float
) -> float:
    """E[exp(-d^2 / (2 scale^2 kappa^2))] over the votes that land within the radius of the
    point.
    """
    agreement = mass = 0.0
    height, width, _ = maps.heatmaps.shape
    for i, j in np.ndindex(height, width):
        landed = np.array([j, i]) * maps.stride + maps.short_offsets[i, j, keypoint].astype(float)
        away = math.dist(landed, point)
        if away < radius:  # and over the last pixel the vote fades
            p = float(maps.heatmaps[i, j, keypoint]) * min(1.0, radius - away)
            mass += p
            agreement += p * math.exp(-(away**2) / (2 * scale**2 * kappa**2))
    return agreement / mass if mass else 0.0


def embedding_loop(
    maps: Maps, row: int, column: int, keypoint: int, refinements: int
) -> np.ndarray:
    """(2, 2) where one cell believes its person's keypoint is: as its long-range offset says, and
    refined.
    """
    assert maps.long_offsets is not None
    guesses = []
    for steps in (0, refinements):
        point = np.array([column, row], float) * maps.stride
        for field in [maps.long_offsets] * (1 + steps) + [maps.short_offsets] * steps:
            cell = np.clip(point / maps.stride, 0, np.array(field.shape[1::-1]) - 1)
            point = cell * maps.stride + bilinear_loop(field[:, :, keypoint], *cell)
        guesses.append(point)
    return np.array(guesses)


def distance_loop(
    embedding: np.ndarray, keypoints: np.ndarray, weights: np.ndarray, scale: float
) -> float:
    """D_ij of one cell with guesses (K, 2, 2) to one person."""
    total = weight = 0.0
    for guesses, point, p in zip(embedding, keypoints, weights, strict=True):
        if np.isfinite(point).all():
            total += p * min(math.dist(guess, point) for guess in guesses) / scale
            weight += p
    return total / weight


def bridge_loop(
    people: np.ndarray,
    maps: Maps,
    refinements: int,
    threshold: float,
    agreement: float,
    least_support: float,
) -> np.ndarray:
    """The people with every gap filled by the best supported of the proposals of the found
    keypoints.
    """

    def reached(field: np.ndarray, point: np.ndarray) -> np.ndarray:
        height, width = maps.image_shape
        inside = np.clip(point, 0, (width - 1, height - 1))
        return inside + bilinear_loop(field, *(inside / maps.stride))

    bridged = people.copy()
    for person, keypoints in enumerate(people):
        found = [k for k in range(len(keypoints)) if np.isfinite(keypoints[k, 0])]
        for missing in set(range(len(keypoints))) - set(found):
            proposals = []
            for k in found:
                point = reached(maps.long_offsets[:, :, missing], keypoints[k])
                for _ in range(refinements):
                    point = reached(maps.short_offsets[:, :, missing], point)
                inside = np.clip(point, 0, (maps.image_shape[1] - 1, maps.image_shape[0] - 1))
                if (
                    bilinear_loop(maps.heatmaps[:, :, missing], *(inside / maps.stride))
                    >= threshold
                ):
                    proposals.append(
                        (
                            point,
                            bilinear_loop(maps.heatmaps[:, :, k], *(keypoints[k] / maps.stride)),
                        )
                    )
            if proposals:
                support = [
                    sum(w for q, w in proposals if np.linalg.norm(p - q) <= agreement)
                    for p, _ in proposals
                ]
                everybody = sum(
                    bilinear_loop(maps.heatmaps[:, :, k], *(keypoints[k] / maps.stride))
                    for k in found
                )
                if max(support) >= least_support * everybody:
                    bridged[person, missing] = proposals[int(np.argmax(support))][0]
    return bridged


def child_before_adult() -> list[FramedMaps]:
    """An image at two sizes: the larger shows only a child, the smaller only an adult behind it."""
    child, adult = standing(150, 230, 0.7), standing(150, 180, 1.7)
    passes = [
        FramedMaps(
            paint([person * scale + (0.1, 0.2)], round(400 * scale) + 1, round(400 * scale) + 1, 8),
            Frame(400, 400, (scale, scale), (0.1, 0.2)),
        )
        for person, scale in ((child, 1.0), (adult, 0.5))
    ]
    passes[1].maps.long_offsets[...] += 6  # no pixel is equally near to both
    return passes

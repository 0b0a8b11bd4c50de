"""What the decoder saw in one image, as a page to look into: `personlab explain`.

The page repeats the steps of `decoder.decode` with the decoder's own functions and holds everything
itself; it needs no network access."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import CANDIDATES_PER_PERSON
from personlab_keras.decoder.embedding import embed, embedding_distances
from personlab_keras.decoder.fusion import FramedMaps, by_size, finest_first, fuse
from personlab_keras.decoder.grouping import group, routes_of
from personlab_keras.decoder.merging import pool_readings, suits
from personlab_keras.decoder.reading import Readings, find_seeds, read_people
from personlab_keras.decoder.sampling import sample, step_among_votes
from personlab_keras.decoder.scoring import Scored, score_people
from personlab_keras.decoder.voting import vote_spread
from personlab_keras.inference.predict import Predictor
from personlab_keras.method.maps import Maps
from personlab_keras.method.skeleton import Skeleton

PAGE_SIDE = 1000  # pixels of the longer side of the image on the page
SHOWN_VOTES = 400  # strongest votes per keypoint
SHOWN_PEOPLE = 30  # readings, best first; everybody who is returned is among them

_TEMPLATE = Template((Path(__file__).parent / "explain.html").read_text(encoding="utf-8"))


def explain(predictor: Predictor, image: np.ndarray, title: str) -> str:
    """The HTML page of one image (H, W, 3) uint8 RGB.

    Args:
        predictor: whose network and settings are used.
        image: the image.
        title: heading of the page, such as the name of the file.

    Raises:
        InputError: as `Predictor.framed_maps`.
    """
    passes = predictor.framed_maps(image)
    story = told(passes, predictor.skeleton, predictor.decode_options, predictor.radius)
    ratio = min(1.0, PAGE_SIDE / max(image.shape[:2]))
    size = [max(1, round(side * ratio)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    story["image"] = {
        "width": image.shape[1],
        "height": image.shape[0],
        "source": _picture(small[:, :, ::-1], ".jpg"),
    }
    data = json.dumps(story, allow_nan=False).replace("</", "<\\/")
    safe = title.replace("&", "&amp;").replace("<", "&lt;")
    return _TEMPLATE.substitute(title=safe, data=data)


def told(
    passes: Sequence[FramedMaps], skeleton: Skeleton, options: DecodeConfig, radius: float
) -> dict[str, Any]:
    """Every step of `decode` on the maps of an image, as plain values for JSON, positions in pixels
    of the image.

    Args:
        passes, skeleton, options, radius: as for `decode`; the maps finite.

    Returns:
        keypoints, edges: of the skeleton.
        settings: those of the decoder.
        sizes: of each size at which the image was seen the maps as pictures, votes and peaks, and
            what became of each peak.
        people: readings with their walks, keypoints, bridges, scores and what became of them, the
            returned ones first.
        counts: how many were dropped by what.
    """
    sizes = by_size(finest_first(passes))
    maps = [fuse(size, skeleton) for size in sizes]
    limit = CANDIDATES_PER_PERSON * options.max_people
    shown, readings, seeds_of = [], [], []
    for i, (size, fused) in enumerate(zip(sizes, maps, strict=True)):
        each = read_people(size, fused, skeleton, options, radius, i)
        told_size, seeds = _size(size, fused, skeleton, options, radius, limit)
        shown.append(told_size)
        readings.append(each)
        seeds_of.append(seeds)
    kept = [
        suits(each.scales, i, len(sizes), options.scale_range) for i, each in enumerate(readings)
    ]
    origin = [(i, int(j)) for i, each in enumerate(kept) for j in np.flatnonzero(each)]
    pooled = pool_readings(readings, sizes, options.scale_range)
    scored = score_people(pooled, sizes, maps, skeleton, options)
    fates = [_fate(scored, j, options) for j in range(len(scored.order))]
    rank = {int(j): n for n, j in enumerate(scored.returned)}
    order = sorted(range(len(fates)), key=lambda j: (rank.get(j, len(fates)), -scored.scores[j]))
    people = []
    for j in order[: max(SHOWN_PEOPLE, len(rank))]:
        i, number = origin[scored.order[j]]
        person = _person(
            readings[i], number, seeds_of[i][number], sizes[i][0], maps[i], skeleton, options
        )
        person |= _scores(scored, j)
        people.append({**person, "fate": fates[j]})
    counts = {
        "peaks of the Hough map": sum(len(each["peaks"]) for each in shown),
        "people read": sum(map(len, readings)),
        "left to a size that suits them better (decode.scale_range)": sum(
            int((~each).sum()) for each in kept
        ),
    }
    for fate in fates:
        kind = fate.split(":")[0]
        counts[kind] = counts.get(kind, 0) + 1
    return {
        "keypoints": list(skeleton.keypoints),
        "edges": [list(map(int, edge)) for edge in skeleton.edge_indices[::1]],
        "settings": {
            name: getattr(options, name)
            for name in (
                "peak_threshold",
                "nms_radius",
                "keypoint_threshold",
                "bridge_support",
                "score_threshold",
                "copy_score",
                "segmentation_threshold",
                "embedding_threshold",
            )
        },
        "sizes": shown,
        "people": people,
        "counts": counts,
    }


def _size(
    size: Sequence[FramedMaps],
    fused: Maps,
    skeleton: Skeleton,
    options: DecodeConfig,
    radius: float,
    limit: int,
) -> tuple[dict[str, Any], list[tuple[np.ndarray, int]]]:
    """One size as plain values, and for each of its people the point and keypoint of the seed."""
    frame = size[0].frame
    votes, hough, seeds = find_seeds(size, fused, options, radius)
    people = group(seeds, fused, skeleton, options, radius, limit)
    starts: list[tuple[np.ndarray, int]] = []
    peaks = []
    for point, keypoint, score in zip(seeds.points, seeds.keypoints, seeds.scores, strict=True):
        so_far = people[: len(starts), keypoint]
        away = np.hypot(*(so_far - point).T)
        explained = np.flatnonzero(away <= options.nms_radius)
        if len(explained):
            verdict = f"within nms_radius of person {explained[0] + 1}"
        elif len(starts) == len(people):
            verdict = "finds no keypoint, or comes after the last person"
        else:
            one = replace(
                seeds,
                points=point[None],
                keypoints=np.array([keypoint]),
                scores=np.array([score]),
            )
            if len(group(one, fused, skeleton, options, radius, 1)):
                starts.append((point, int(keypoint)))
                verdict = f"starts person {len(starts)}"
            else:
                verdict = "finds no keypoint"
        peaks.append(
            [*_point(frame.to_image(point)), int(keypoint), round(float(score), 3), verdict]
        )
    shown_votes = []
    for k in range(skeleton.keypoint_count):
        own = np.flatnonzero(votes.keypoints == k)
        own = own[np.argsort(-votes.mass[own], kind="stable")[:SHOWN_VOTES]]
        shown_votes.append(
            [
                [*_point(frame.to_image(votes.points[n])), round(float(votes.mass[n]), 2)]
                for n in own
            ]
        )
    corners = frame.to_image(
        np.array([(-0.5, -0.5), np.array(fused.shape[::-1]) - 0.5]) * fused.stride
    )
    told_size = {
        "name": f"{fused.image_shape[1]} x {fused.image_shape[0]} pixels, stride {fused.stride}",
        "place": [*_point(corners[0]), *_point(corners[1] - corners[0])],
        "heat": [_light(fused.heatmaps[..., k]) for k in range(skeleton.keypoint_count)],
        "hough": [_light(hough[..., k]) for k in range(skeleton.keypoint_count)],
        "segmentation": None if fused.segmentation is None else _light(fused.segmentation),
        "votes": shown_votes,
        "peaks": peaks,
    }
    return told_size, starts


def _person(
    readings: Readings,
    number: int,
    seed: tuple[np.ndarray, int],
    framed: FramedMaps,
    maps: Maps,
    skeleton: Skeleton,
    options: DecodeConfig,
) -> dict[str, Any]:
    """One reading as plain values: its walk, keypoints, bridges and basin."""
    frame = framed.frame
    point, root = seed
    places: dict[int, np.ndarray] = {root: point}
    spread = vote_spread(maps)
    steps = []
    for edge, source, target in routes_of(skeleton)[root].tolist():
        path = [places[source]]
        hops = [(maps.mid_offsets, edge, source)]
        hops += [(maps.short_offsets, target, target)] * options.mid_refinements
        for field, channel, keypoint in hops:
            x, y = step_among_votes(
                field, channel, *path[-1], maps.stride, maps.short_offsets, keypoint, spread
            )
            path.append(np.array([x, y]))
        places[target] = path[-1]
        heat = float(
            np.nan_to_num(sample(maps.heatmaps, np.array([target]), path[-1][None], maps.stride)[0])
        )
        steps.append(
            {
                "source": source,
                "target": target,
                "path": [_point(frame.to_image(each)) for each in path if np.isfinite(each).all()],
                "probability": round(heat, 3),
                "found": heat >= options.keypoint_threshold,
            }
        )
    found = np.isfinite(readings.keypoints[number, :, 0])
    reached = {root} | {step["target"] for step in steps if step["found"]}
    basin = None
    if maps.long_offsets is not None and maps.segmentation is not None:
        cells = np.argwhere(maps.segmentation >= options.segmentation_threshold)
        near = np.zeros(maps.shape)
        embedding = embed(maps, cells[:, ::-1] * maps.stride, options.long_refinements)
        largest = 2 * options.embedding_threshold
        distances = embedding_distances(
            embedding,
            readings.own_keypoints[number],
            readings.heat[number],
            readings.scales[number],
            largest,
        )
        near[tuple(cells.T)] = 1 - distances / largest
        basin = _light(near)
    points = [
        _point(frame.to_image(each)) if ok else None
        for each, ok in zip(readings.keypoints[number], found, strict=True)
    ]
    return {
        "size": int(readings.sizes[number]),
        "seed": [*_point(frame.to_image(point)), root],
        "steps": steps,
        "points": points,
        "bridged": [k for k in np.flatnonzero(found).tolist() if k not in reached],
        "probabilities": np.round(readings.heat[number], 3).tolist(),
        "basin": basin,
    }


def _scores(scored: Scored, j: int) -> dict[str, Any]:
    """The scores of reading j as plain values."""
    return {
        "keypoint_scores": np.round(scored.people.keypoint_scores[j], 3).tolist(),
        "shared": scored.shared[j].tolist(),
        "suppressed": scored.suppressed[j].tolist(),
        "uncopied": round(float(scored.uncopied[j]), 3),
        "copy": round(float(scored.copies[j]), 3),
        "score": round(float(scored.scores[j]), 3),
    }


def _fate(scored: Scored, j: int, options: DecodeConfig) -> str:
    """What became of reading j; the kind before the colon."""
    if j in scored.returned:
        return "returned"
    threshold = f"decode.score_threshold {options.score_threshold:g}"
    if scored.uncopied[j] >= options.score_threshold and scored.copies[j] > 0:
        return (
            f"dropped as a copy: {scored.copies[j]:.0%} of a better person takes the score from "
            f"{scored.uncopied[j]:.2f} to {scored.scores[j]:.2f}, below {threshold}"
        )
    if scored.shared[j].any():
        return f"merged into a better reading: what it has alone scores {scored.scores[j]:.2f}"
    if scored.uncopied[j] >= options.score_threshold:
        return f"beyond decode.max_people: {options.max_people}"
    hidden = int(scored.suppressed[j].sum())
    return f"below {threshold}: {scored.scores[j]:.2f}; a better person covers {hidden} keypoints"


def _point(point: np.ndarray) -> list[float]:
    return [round(float(value), 1) for value in point]


def _light(values: np.ndarray) -> str:
    """A map (h, w) as a picture whose transparency is its strength."""
    strength = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    colour = cv2.applyColorMap(strength, cv2.COLORMAP_INFERNO)
    return _picture(
        np.dstack([colour, np.minimum(strength.astype(int) * 2, 255).astype(np.uint8)]), ".png"
    )


def _picture(pixels: np.ndarray, suffix: str) -> str:
    encoded = base64.b64encode(cv2.imencode(suffix, pixels)[1].tobytes()).decode("ascii")
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{encoded}"

"""Skeletons: keypoints, the tree of edges between them, mirror pairs, and the annotation precision
of each keypoint.

Everything that depends on the order of keypoints or edges is derived here from names, so that no
other module contains an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from personlab_keras.errors import InputError
from personlab_keras.io.files import Place, read_yaml


@dataclass(frozen=True, repr=False)
class Skeleton:
    """A kinematic tree.

    Attributes:
        name: its name in files.
        keypoints: names of the K keypoints, in channel order.
        edges: K - 1 pairs (parent, child) that form one tree over all keypoints.
        sigmas: per keypoint, the published COCO standard deviation of annotators relative to
            sqrt(area). COCO's evaluator, and `kappas`, use twice this value.
        flip_pairs: pairs of names that swap when an image is mirrored.

    Raises:
        ValueError: if there are fewer than two keypoints, names are unknown or repeated, a sigma is
            not positive, or the edges do not form a tree.

    >>> Skeleton("pointer", ("tip", "end"), (("tip", "end"),), (0.05, 0.05), ())
    Skeleton('pointer', 2 keypoints)
    """

    name: str
    keypoints: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]
    sigmas: tuple[float, ...]
    flip_pairs: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        known = set(self.keypoints)
        if len(known) < 2:
            raise ValueError(f"`keypoints` must be at least two names. Received: {self.keypoints}")
        if len(known) != len(self.keypoints):
            raise ValueError(f"`keypoints` must be distinct names. Received: {self.keypoints}")
        if len(self.sigmas) != len(self.keypoints):
            raise ValueError(
                f"`sigmas` must hold {len(self.keypoints)} values, one per keypoint. Received: {len(self.sigmas)}"
            )
        if not all(0.0 < sigma < float("inf") for sigma in self.sigmas):
            raise ValueError(f"`sigmas` must be above 0. Received: {self.sigmas}")
        for pair in (*self.edges, *self.flip_pairs):
            if len(pair) != 2 or not known.issuperset(pair):
                raise ValueError(
                    f"`edges` and `flip_pairs` must pair names of `keypoints`. Received: {pair}"
                )
        mirrored = [name for pair in self.flip_pairs for name in pair]
        if len(set(mirrored)) != len(mirrored):
            raise ValueError(
                f"`flip_pairs` must name each keypoint at most once. Received: {self.flip_pairs}"
            )
        reached = set(self.keypoints[:1])
        for _ in self.edges:
            reached |= {name for edge in self.edges if reached & set(edge) for name in edge}
        if len(self.edges) != len(self.keypoints) - 1 or reached != known:
            raise ValueError(
                f"`edges` must form one tree over all {len(known)} keypoints. Received: {self.edges}"
            )

    def __repr__(self) -> str:
        # Short, because it is a default in many signatures.
        return f"Skeleton({self.name!r}, {len(self.keypoints)} keypoints)"

    @property
    def keypoint_count(self) -> int:
        """K."""
        return len(self.keypoints)

    @property
    def directed_edge_count(self) -> int:
        """2E: every edge counts once in each direction."""
        return 2 * len(self.edges)

    def index(self, keypoint: str) -> int:
        """Channel of the keypoint of that name."""
        return self.keypoints.index(keypoint)

    @cached_property
    def edge_indices(self) -> np.ndarray:
        """(2E, 2) int: (from, to) of each directed edge; the E edges parent -> child first, then
        the same child -> parent.
        """
        forward = [(self.index(parent), self.index(child)) for parent, child in self.edges]
        return np.array(
            forward + [(child, parent) for parent, child in forward], dtype=np.int64
        ).reshape(-1, 2)

    @cached_property
    def flip_order(self) -> np.ndarray:
        """(K,) int: `mirrored[k] = original[flip_order[k]]`. Its own inverse."""
        partner = {a: b for pair in self.flip_pairs for a, b in (pair, pair[::-1])}
        return np.array(
            [self.index(partner.get(name, name)) for name in self.keypoints], dtype=np.int64
        )

    @cached_property
    def edge_flip_order(self) -> np.ndarray:
        """(2E,) int: `mirrored[e] = original[edge_flip_order[e]]`.

        Raises:
            ValueError: if mirroring turns an edge into a pair that is no edge.
        """
        position = {tuple(edge): e for e, edge in enumerate(self.edge_indices.tolist())}
        mirrored = [tuple(edge) for edge in self.flip_order[self.edge_indices].tolist()]
        missing = [edge for edge in mirrored if edge not in position]
        if missing:
            names = [(self.keypoints[a], self.keypoints[b]) for a, b in missing]
            raise ValueError(f"`edges` must stay edges when mirrored; these do not: {names}")
        return np.array([position[edge] for edge in mirrored], dtype=np.int64)

    @cached_property
    def kappas(self) -> np.ndarray:
        """(K,) float: the constants of object keypoint similarity, exp(-d^2 / (2 area kappa^2)).

        Twice the published sigmas, as pycocotools computes them (`vars = (sigmas * 2)**2`).
        """
        return 2.0 * np.asarray(self.sigmas, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, for JSON."""
        return {
            "name": self.name,
            "keypoints": list(self.keypoints),
            "edges": [list(edge) for edge in self.edges],
            "sigmas": list(self.sigmas),
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Skeleton:
        """The inverse of `to_dict`."""
        return cls(
            name=values["name"],
            keypoints=tuple(values["keypoints"]),
            edges=tuple((parent, child) for parent, child in values["edges"]),
            sigmas=tuple(float(sigma) for sigma in values["sigmas"]),
            flip_pairs=tuple((left, right) for left, right in values["flip_pairs"]),
        )


_FIELDS = ("name", "keypoints", "edges", "sigmas", "flip_pairs")
SHIPPED = Path(__file__).parents[1] / "skeletons"


def load_skeleton(path: str | Place) -> Skeleton:
    """A skeleton from a YAML file of name, keypoints, edges, sigmas and flip_pairs; or the name of
    a file in `personlab_keras/skeletons`.

    Raises:
        InputError: if the file does not exist, is no YAML, or has missing or unknown fields, or if
            they do not define a skeleton that can be mirrored.
    """
    return checked_skeleton(read_yaml(path, SHIPPED, "skeleton"), str(path))


def skeleton_to_yaml(skeleton: Skeleton) -> str:
    """The YAML text of a skeleton; inverse of `load_skeleton`."""
    return yaml.safe_dump(skeleton.to_dict(), sort_keys=False)


def checked_skeleton(values: Any, source: str) -> Skeleton:
    """Checks hand-written plain values and builds a skeleton; `source` is named in errors.

    Raises:
        InputError: if a field is malformed, or they do not define a skeleton that can be mirrored.
    """

    if not isinstance(values, dict) or set(values) != set(_FIELDS):
        came = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise InputError(f"{source}: must hold {', '.join(_FIELDS)}. Received: {came!s:.200}")

    def texts(field: str, items: Any) -> None:
        if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
            raise InputError(f"{source}: {field} must be a list of names. Received: {items!r:.100}")

    if not isinstance(values["name"], str) or not values["name"]:
        raise InputError(f"{source}: name must be a text. Received: {values['name']!r:.100}")
    texts("keypoints", values["keypoints"])
    for field in ("edges", "flip_pairs"):
        if not isinstance(values[field], list):
            raise InputError(
                f"{source}: {field} must be a list of pairs of names. Received: {values[field]!r:.100}"
            )
        for pair in values[field]:
            texts(f"every pair of {field}", pair)
    sigmas = values["sigmas"]
    if not isinstance(sigmas, list) or not all(type(sigma) in (int, float) for sigma in sigmas):
        raise InputError(f"{source}: sigmas must be a list of numbers. Received: {sigmas!r:.100}")
    try:
        skeleton = Skeleton.from_dict({**values, "sigmas": [float(sigma) for sigma in sigmas]})
        _ = skeleton.edge_flip_order
    except (ValueError, OverflowError) as error:
        raise InputError(f"{source}: {error}") from None
    return skeleton


def _coco_person() -> Skeleton:
    sigmas = {
        "nose": 0.026,
        "left_eye": 0.025, "right_eye": 0.025,
        "left_ear": 0.035, "right_ear": 0.035,
        "left_shoulder": 0.079, "right_shoulder": 0.079,
        "left_elbow": 0.072, "right_elbow": 0.072,
        "left_wrist": 0.062, "right_wrist": 0.062,
        "left_hip": 0.107, "right_hip": 0.107,
        "left_knee": 0.087, "right_knee": 0.087,
        "left_ankle": 0.089, "right_ankle": 0.089,
    }  # fmt: skip
    one_side = (
        ("nose", "{}_eye"), ("{}_eye", "{}_ear"), ("nose", "{}_shoulder"), ("{}_shoulder", "{}_elbow"),
        ("{}_elbow", "{}_wrist"), ("{}_shoulder", "{}_hip"), ("{}_hip", "{}_knee"), ("{}_knee", "{}_ankle"),
    )  # fmt: skip

    # Google's released networks number their edges like this: left and right eye first, then one
    # side after the other.
    def sided(side: str, edges: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple((parent.format(side), child.format(side)) for parent, child in edges)

    left, right = sided("left", one_side), sided("right", one_side)
    return Skeleton(
        name="coco_person",
        keypoints=tuple(sigmas),
        edges=left[:2] + right[:2] + left[2:] + right[2:],
        sigmas=tuple(sigmas.values()),
        flip_pairs=tuple(
            (name, name.replace("left_", "right_")) for name in sigmas if name.startswith("left_")
        ),
    )


COCO_PERSON = _coco_person()
"""The 17 keypoints of COCO, its sigmas, and the tree of the authors' released networks."""

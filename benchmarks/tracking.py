"""Compares trackers on walking figures whose truth is known.

    pip install trackeval && python benchmarks/tracking.py
    python benchmarks/tracking.py --video walk.mp4    # the tracked people drawn, to look at

People walk across the picture at different depths, cross each other, stop, leave and return. What a
network would find of them is imitated: keypoints jitter, those behind a nearer person are missing,
a person who is mostly hidden is not found, some are missed and some found where nobody is. MOTA,
IDF1 and HOTA come from TrackEval. Leaving for longer than two seconds counts as a new person.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from trackeval import metrics

from personlab_keras.inference.video import OverlayFile
from personlab_keras.method.person import Person
from personlab_keras.results import Result
from personlab_keras.tracking.similarity import box_overlap
from personlab_keras.tracking.tracker import Tracker

WIDTH, HEIGHT, RATE = 960, 540, 25.0


@dataclass(frozen=True)
class Walker:
    """A figure that walks: its height and depth, where it is at what time, its gait."""

    number: int
    height: float
    ground: float
    path: tuple[tuple[float, float], ...]  # (seconds, x)
    phase: float

    def x(self, at: float) -> float:
        times, places = zip(*self.path, strict=True)
        return float(np.interp(at, times, places, left=np.nan, right=np.nan))

    def pose(self, at: float) -> np.ndarray:
        """(17, 2) keypoints in COCO's order."""
        h, x, y = self.height, self.x(at), self.ground
        way = np.sign(self.x(min(at + 0.04, self.path[-1][0])) - x) or 1.0
        swing = np.sin(2 * np.pi * 0.9 * at + self.phase) * 0.14
        lift = abs(np.cos(2 * np.pi * 0.9 * at + self.phase)) * 0.03

        def at_height(dx: float, up: float) -> tuple[float, float]:
            return x + dx * h, y - up * h

        half = 0.09 * way
        points = {
            0: (0.05 * way, 0.93), 1: (0.06 * way, 0.95), 2: (0.03 * way, 0.95),
            3: (0.02 * way, 0.94), 4: (-0.02 * way, 0.94),
            5: (half, 0.82), 6: (-half, 0.82),
            7: (half - swing * 0.6, 0.66), 8: (-half + swing * 0.6, 0.66),
            9: (half - swing, 0.52), 10: (-half + swing, 0.52),
            11: (half * 0.6, 0.52), 12: (-half * 0.6, 0.52),
            13: (half * 0.6 + swing * 0.7, 0.27), 14: (-half * 0.6 - swing * 0.7, 0.27),
            15: (half * 0.6 + swing, 0.02 + lift), 16: (-half * 0.6 - swing, 0.05 - lift),
        }  # fmt: skip
        return np.array([at_height(*points[k]) for k in range(17)])


def walkers() -> list[Walker]:
    """Twelve people in twenty seconds: crossings, a stop, a pair, two who leave and return."""
    cross = [(0, -60), (10, 1020)], [(0, 1020), (10, -60)]
    return [
        Walker(1, 240, 470, tuple(cross[0]), 0.0),
        Walker(2, 230, 462, tuple(cross[1]), 1.0),
        Walker(3, 200, 440, ((1, -50), (6, 480), (9, 480), (16, 1010)), 2.0),
        Walker(4, 210, 446, ((2, 1010), (14, -50)), 0.5),
        Walker(5, 260, 490, ((6, -60), (15, 1020)), 1.5),
        Walker(6, 255, 486, ((6.4, -60), (15.4, 1020)), 2.5),  # side by side with 5
        Walker(7, 180, 420, ((0, 200), (7, 760), (20, 240)), 0.3),
        Walker(8, 185, 424, ((0, 760), (8, 200), (20, 800)), 0.9),
        Walker(9, 250, 478, ((8, 1020), (20, -60)), 1.2),
        Walker(10, 190, 430, ((5, 1000), (11, 520), (20, 900)), 2.2),
        Walker(11, 245, 474, ((3, 900), (6, 1010), (7, 1010), (12, 500), (20, 480)), 0.1),
        Walker(12, 225, 458, ((4, 80), (6, -40), (7, -40), (13, 520), (20, 560)), 2.8),
    ]


def frames(seed: int = 0) -> Iterator[tuple[float, dict[int, Person], list[Person]]]:
    """For each frame: its time, the truth by number, and what a network might find."""
    rng = np.random.default_rng(seed)
    people = walkers()
    for i in range(int(20 * RATE)):
        at = i / RATE
        present = {w: w.pose(at) for w in people if np.isfinite(w.x(at))}
        truth = {
            w.number: Person(pose, np.ones(17), 1.0)
            for w, pose in present.items()
            if 0 < pose[:, 0].mean() < WIDTH
        }
        found = []
        for walker, pose in present.items():
            if walker.number not in truth:
                continue
            nearer = [other for other in present if other.ground > walker.ground]
            hidden = np.zeros(17, bool)
            for other in nearer:
                body = present[other][5:]
                low, high = body.min(axis=0), present[other].max(axis=0)
                hidden |= ((pose > low) & (pose < high)).all(axis=1)
            hidden |= (pose[:, 0] < 0) | (pose[:, 0] >= WIDTH)
            if hidden.mean() > 0.7 or rng.random() < 0.05:
                continue
            seen = pose + rng.normal(0, 0.012 * walker.height, pose.shape)
            seen[hidden | (rng.random(17) < 0.05)] = np.nan
            scores = np.where(np.isfinite(seen[:, 0]), 0.8, 0.0)
            score = float(np.clip(0.9 - 0.7 * hidden.mean() + rng.normal(0, 0.05), 0.05, 1))
            found.append(Person(seen, scores, score))
        if rng.random() < 0.05:  # somebody where nobody is
            place = rng.uniform((0, 100), (WIDTH, HEIGHT))
            pose = people[0].pose(1.0) * 0.5
            found.append(Person(pose - pose.mean(axis=0) + place, np.full(17, 0.3), 0.35))
        yield at, truth, found


def figures(tracker: Tracker, seed: int = 0) -> dict[str, float]:
    """HOTA, MOTA, IDF1 and the number of exchanged ids of a tracker."""
    pairs = []
    for at, truth, found in frames(seed):
        named = [person for person in tracker.update(found, at) if person.id is not None]
        pairs.append((truth, {person.id: person for person in named}))
    numbers = [sorted({n for pair in pairs for n in pair[side]}) for side in (0, 1)]
    ids = [
        [np.array([numbers[s].index(n) for n in pair[s]], int) for pair in pairs] for s in (0, 1)
    ]
    data = {
        "num_timesteps": len(pairs),
        "gt_ids": ids[0],
        "tracker_ids": ids[1],
        "num_gt_ids": len(numbers[0]),
        "num_tracker_ids": len(numbers[1]),
        "num_gt_dets": sum(map(len, ids[0])),
        "num_tracker_dets": sum(map(len, ids[1])),
        "similarity_scores": [
            box_overlap(_corners(truth.values()), _corners(named.values()))
            for truth, named in pairs
        ],
    }
    clear, identity, hota = (
        metric({"PRINT_CONFIG": False, "THRESHOLD": 0.3}).eval_sequence(data)
        for metric in (metrics.CLEAR, metrics.Identity, _Hota)
    )
    return {
        "hota": float(np.mean(hota["HOTA"])),
        "mota": float(clear["MOTA"]),
        "idf1": float(identity["IDF1"]),
        "exchanged": float(clear["IDSW"]),
    }


def _Hota(_: dict) -> metrics.HOTA:
    return metrics.HOTA()


def _corners(people: Iterable[Person]) -> np.ndarray:
    boxes = np.array([person.box for person in people]).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def film(path: Path) -> None:
    overlay = OverlayFile(path, RATE)
    tracker = Tracker(RATE)
    for at, _, found in frames():
        overlay.add(
            Result(tracker.update(found, at), np.full((HEIGHT, WIDTH, 3), 235, np.uint8)).draw()
        )
    overlay.finish()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of random seeds")
    parser.add_argument("--video", type=Path, help="draw the tracked people of one seed")
    options = parser.parse_args()
    if options.video is not None:
        film(options.video)
    print("| weight of the pose | HOTA | MOTA | IDF1 | exchanged ids |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for weight in (0.0, 0.25, 0.5, 0.75):
        rows = [figures(Tracker(RATE, pose_weight=weight), seed) for seed in range(options.seeds)]
        mean = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
        print(
            f"| {weight} | {mean['hota']:.3f} | {mean['mota']:.3f} | {mean['idf1']:.3f} "
            f"| {mean['exchanged']:.1f} |"
        )


if __name__ == "__main__":
    main()

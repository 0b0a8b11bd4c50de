"""The pictures of docs/decoder.md: every step of the decoder on one synthetic scene.

    python scripts/draw_decoder.py --out docs/images/decoder

The maps are the targets of the scene with some noise, the more the farther an offset reaches, as
networks have it. The pictures are drawn from what the decoder's own functions return, and are the
same at every run."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np

from data_prep.baking import gather_people, view_targets
from data_prep.inspection import dense_maps
from personlab_keras.annotations.dataset import AnnotatedImage, Annotation
from personlab_keras.annotations.masks import compress_segmentation
from personlab_keras.annotations.reasons import Tally
from personlab_keras.config import DecodeConfig, TargetsConfig
from personlab_keras.data.geometry import whole_image
from personlab_keras.data.records import Meta
from personlab_keras.decoder import decode
from personlab_keras.decoder.bridging import bridge_gaps
from personlab_keras.decoder.embedding import embed, embedding_distances
from personlab_keras.decoder.grouping import follow_tree
from personlab_keras.decoder.peaks import Seeds, find_peaks
from personlab_keras.decoder.voting import Votes, cast_votes, hough_scores
from personlab_keras.drawing import Colour, draw, person_colour
from personlab_keras.io.files import write_atomically
from personlab_keras.method.coordinates import grid, resize_points
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.synthetic import Scene, SceneOptions, draw_scene

SEED = 7
SIDE = 641
TARGETS = TargetsConfig(radius=28.0, stride=8)
OPTIONS = DecodeConfig()
SCENE = SceneOptions(people=(3, 3), height=(0.6, 0.8), occluders=0.0, fully_labelled=True)
NOISE = {"short_offsets": 3.0, "mid_offsets": 10.0, "long_offsets": 10.0}
"""Standard deviation in pixels of dx and dy of every cell."""
UNLABELLED = "left_hip"
"""The keypoint that the maps of the best person lack, so that the tree ends before its knee."""
VOTED = "left_elbow"
"""The keypoint whose votes are drawn."""
WALKED = "left_wrist"
"""The walk starts from the best seed of this keypoint: an end of the tree, far from the other
ends.
"""

WHITE: Colour = (255, 255, 255)
DARK: Colour = (20, 20, 24)
WARM: Colour = (255, 176, 59)
COOL: Colour = (96, 205, 255)
RED: Colour = (255, 110, 110)
BITS = 4
"""Binary places of OpenCV's coordinates."""


class Canvas:
    """A picture of the scene, greyed and maybe enlarged, with things drawn over it at points of the
    scene.
    """

    def __init__(self, image: np.ndarray, brightness: float = 0.45, zoom: int = 1) -> None:
        self.zoom = zoom
        grey = cv2.resize(
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
            None,
            fx=zoom,
            fy=zoom,
            interpolation=cv2.INTER_CUBIC,
        )
        self.pixels = np.repeat(
            np.rint(grey * brightness + 25).astype(np.uint8)[..., None], 3, axis=2
        )

    def line(self, start: np.ndarray, end: np.ndarray, colour: Colour, width: int = 1) -> None:
        cv2.line(
            self.pixels, self._place(start), self._place(end), colour, width, cv2.LINE_AA, BITS
        )

    def arrow(self, start: np.ndarray, end: np.ndarray, colour: Colour, width: int = 2) -> None:
        self.line(start, end, DARK, width + 2)
        self.line(start, end, colour, width)
        back = start - end
        length = float(np.hypot(*back))
        if length > 14:
            for turn in (-0.45, 0.45):
                c, s = np.cos(turn), np.sin(turn)
                barb = end + np.array([[c, -s], [s, c]]) @ back * (9 / length)
                self.line(end, barb, colour, width)

    def dot(self, point: np.ndarray, radius: float, colour: Colour, rim: bool = False) -> None:
        if rim:
            cv2.circle(
                self.pixels,
                self._place(point),
                round((radius + 1.5) * (1 << BITS)),
                DARK,
                -1,
                cv2.LINE_AA,
                BITS,
            )
        cv2.circle(
            self.pixels,
            self._place(point),
            round(radius * (1 << BITS)),
            colour,
            -1,
            cv2.LINE_AA,
            BITS,
        )

    def ring(self, point: np.ndarray, radius: float, colour: Colour, width: int = 1) -> None:
        cv2.circle(
            self.pixels,
            self._place(point),
            round(radius * (1 << BITS)),
            colour,
            width,
            cv2.LINE_AA,
            BITS,
        )

    def text(
        self, words: str, point: np.ndarray, colour: Colour = WHITE, leftward: bool = False
    ) -> None:
        """Words beside a point of the scene, to the right of it or to the left."""
        (width, height), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        x, y = (value >> BITS for value in self._place(point))
        place = (x - 14 - width if leftward else x + 14, y + height // 2)
        # The rim is the same words moved about: thicker letters are wider in some versions of
        # OpenCV.
        rim = [((place[0] + dx, place[1] + dy), DARK) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        for where, shade in (*rim, (place, colour)):
            cv2.putText(
                self.pixels, words, where, cv2.FONT_HERSHEY_SIMPLEX, 0.5, shade, 1, cv2.LINE_AA
            )

    def glow(self, strength: np.ndarray) -> None:
        """Strengths (H, W) in [0, 1] as light: from nothing over violet and orange to pale
        yellow.
        """
        light = cv2.applyColorMap(np.rint(255 * strength).astype(np.uint8), cv2.COLORMAP_INFERNO)[
            ..., ::-1
        ]
        share = np.sqrt(strength)[..., None]
        self.pixels = np.rint(self.pixels * (1 - share) + light * share).astype(np.uint8)

    def _place(self, point: np.ndarray) -> tuple[int, int]:
        """OpenCV's coordinates of a point of the scene."""
        enlarged = resize_points(np.clip(point, -SIDE, 2 * SIDE), (1, 1), (self.zoom, self.zoom))
        x, y = np.rint(enlarged * (1 << BITS)).astype(int).tolist()
        return x, y


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the pictures; made if missing"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of the scene and the noise")
    options = parser.parse_args(arguments)
    scene = draw_scene(SIDE, np.random.default_rng(options.seed), options=SCENE)
    whole = noisy_maps(scene, np.random.default_rng(options.seed))
    gap = noisy_maps(hide(scene, nearest=-1), np.random.default_rng(options.seed))
    votes = cast_votes(whole)
    hough = hough_scores(votes, whole.heatmaps.shape, whole.stride, TARGETS.radius)
    seeds = find_peaks(hough, whole.stride, OPTIONS.peak_threshold)
    people = decode(whole, options=OPTIONS, radius=TARGETS.radius)
    photo = cv2.medianBlur(scene.image, 3)  # without its grain, which pictures pay for
    window = around(
        np.concatenate(
            [keypoints_of(scene, person)[:, :2] for person in range(len(scene.annotations))]
        ),
        margin=40,
    )
    pictures = {
        "votes": draw_votes(photo, whole, votes),
        "hough": draw_hough(photo, hough, seeds)[window],
        "walk": draw_walk(photo, whole, seeds)[window],
        "bridge": draw_bridge(photo, keypoints_of(scene, -1), gap)[window],
        "embedding": draw_embedding(photo, whole, people)[window],
        "basins": draw_basins(photo, whole, people, window),
        "people": draw(photo, people)[window],
    }
    for name, picture in pictures.items():
        _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 84])
        write_atomically(options.out / f"{name}.jpg", encoded.tobytes())


def around(points: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the scene that show all points (N, 2), with a margin."""
    low = np.clip(points.min(axis=0) - margin, 0, SIDE).astype(int)
    high = np.clip(points.max(axis=0) + margin, 0, SIDE).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def keypoints_of(scene: Scene, person: int) -> np.ndarray:
    """(K, 3) [x, y, v]."""
    return np.array(scene.annotations[person]["keypoints"]).reshape(-1, 3)


def hide(scene: Scene, nearest: int) -> Scene:
    """The scene with one keypoint of one person unlabelled; people come from far to near."""
    keypoints = keypoints_of(scene, nearest)
    keypoints[COCO_PERSON.index(UNLABELLED)] = 0
    changed = {**scene.annotations[nearest], "keypoints": keypoints.reshape(-1).tolist()}
    return replace(scene, annotations=(*scene.annotations[:nearest], changed))


def noisy_maps(scene: Scene, rng: np.random.Generator) -> Maps:
    """The targets of the scene as maps, with noise on all offsets."""
    annotations = tuple(
        Annotation(
            i,
            keypoints_of(scene, i),
            np.array(entry["bbox"]),
            entry["area"],
            compress_segmentation(entry["segmentation"]),
            crowd=False,
        )
        for i, entry in enumerate(scene.annotations)
    )
    people = gather_people(AnnotatedImage(0, "", SIDE, SIDE, annotations), COCO_PERSON, Tally())
    targets = view_targets(people, whole_image(SIDE, SIDE, SIDE), TARGETS, COCO_PERSON)
    maps = dense_maps(
        asdict(targets),
        Meta(SIDE, TARGETS.stride, TARGETS.radius, COCO_PERSON, 1, (), 1, {}, {}, {}),
    )
    noisy = {
        name: getattr(maps, name) + rng.normal(0.0, spread, getattr(maps, name).shape)
        for name, spread in NOISE.items()
    }
    return replace(maps, **{name: values.astype(np.float32) for name, values in noisy.items()})


def draw_votes(image: np.ndarray, maps: Maps, votes: Votes, zoom: int = 2) -> np.ndarray:
    """Every cell of the discs of one keypoint, with a line to where its vote lands."""
    canvas = Canvas(image, zoom=zoom)
    k = COCO_PERSON.index(VOTED)
    cells = grid(*maps.shape, maps.stride)[maps.heatmaps[..., k] > 0]
    landed = votes.points[votes.keypoints == k]
    for start, end in zip(cells, landed, strict=True):
        canvas.line(start, end, (74, 128, 168))
    for start in cells:
        canvas.dot(start, 2.5, COOL)
    for end in landed:
        canvas.dot(end, 2.5, WARM)
    rows, columns = around(cells, margin=16)
    return canvas.pixels[
        rows.start * zoom : rows.stop * zoom, columns.start * zoom : columns.stop * zoom
    ]


def draw_hough(image: np.ndarray, hough: np.ndarray, seeds: Seeds) -> np.ndarray:
    """The best Hough score of any keypoint, and the seeds in it, the first of them numbered."""
    canvas = Canvas(image, brightness=0.3)
    strongest = np.sqrt(np.clip(hough.max(axis=2) / hough.max(), 0, 1)).astype(np.float32)
    columns, rows = np.meshgrid(*[np.arange(SIDE, dtype=np.float32) / TARGETS.stride] * 2)
    canvas.glow(cv2.remap(strongest, columns, rows, cv2.INTER_LINEAR))
    for point in seeds.points:
        canvas.ring(point, 9, COOL)
    for number, point in enumerate(seeds.points[:5], start=1):
        canvas.ring(point, 9, WHITE, 2)
        canvas.text(str(number), point)
    return canvas.pixels


def draw_walk(image: np.ndarray, maps: Maps, seeds: Seeds) -> np.ndarray:
    """The walk from a seed, with refinement and, for comparison, without."""
    canvas = Canvas(image)
    seed = int(np.flatnonzero(seeds.keypoints == COCO_PERSON.index(WALKED))[0])
    start, keypoint = seeds.points[seed], int(seeds.keypoints[seed])
    raw, refined = (
        follow_tree(start[None], np.array([keypoint]), maps, COCO_PERSON, refinements)[0]
        for refinements in (0, OPTIONS.mid_refinements)
    )
    for source, target in outward(keypoint):
        canvas.line(raw[source], raw[target], RED)
        canvas.ring(raw[target], 4, RED)
    for source, target in outward(keypoint):
        canvas.arrow(refined[source], refined[target], WARM)
    for point in refined:
        canvas.dot(point, 3, WARM, rim=True)
    canvas.dot(start, 6, WHITE, rim=True)
    canvas.text(f"seed: {WALKED.replace('_', ' ')}", start, leftward=bool(start[0] > SIDE / 2))
    return canvas.pixels


def outward(seed: int) -> list[tuple[int, int]]:
    """The edges of the tree in the order in which a walk from a keypoint takes them."""
    reached, steps = [seed], []
    for source in reached:  # grows as it is read
        for start, end in COCO_PERSON.edge_indices.tolist():
            if start == source and end not in reached:
                reached.append(end)
                steps.append((source, end))
    return steps


def draw_bridge(image: np.ndarray, keypoints: np.ndarray, maps: Maps) -> np.ndarray:
    """What a walk from the nose finds where a hip is not labelled, what the long offsets propose,
    and what is taken of it.
    """
    canvas = Canvas(image)
    nose = COCO_PERSON.index("nose")
    start = keypoints[nose, :2]
    walked = follow_tree(start[None], np.array([nose]), maps, COCO_PERSON, OPTIONS.mid_refinements)
    rows, columns = np.clip(
        np.rint(walked[0, :, ::-1] / maps.stride).astype(int), 0, maps.shape[0] - 1
    ).T
    walked[0, maps.heatmaps[rows, columns, np.arange(len(rows))] < OPTIONS.keypoint_threshold] = (
        np.nan
    )
    bridged = bridge_gaps(walked, maps, OPTIONS)[0]
    found, filled = np.isfinite(walked[0, :, 0]), np.isfinite(bridged[:, 0])
    assert maps.long_offsets is not None
    for k in np.flatnonzero(found):
        for gap in np.flatnonzero(filled & ~found):
            proposed = walked[0, k] + maps.long_offsets[rows[k], columns[k], gap]
            canvas.line(walked[0, k], proposed, (66, 118, 158))
            canvas.dot(proposed, 2.5, COOL)
    for source, target in outward(nose):
        if filled[source] and filled[target]:
            both = found[source] and found[target]
            canvas.arrow(bridged[source], bridged[target], WARM if both else COOL)
    for k in np.flatnonzero(filled):
        canvas.dot(bridged[k], 4 if found[k] else 6, WARM if found[k] else COOL, rim=True)
        if not found[k]:
            canvas.text(COCO_PERSON.keypoints[k].replace("_", " "), bridged[k], COOL, leftward=True)
    hidden = keypoints[COCO_PERSON.index(UNLABELLED), :2]
    canvas.ring(hidden, 9, RED, 2)
    canvas.text(UNLABELLED.replace("_", " "), hidden, RED, leftward=True)
    return canvas.pixels


def draw_embedding(image: np.ndarray, maps: Maps, people: Sequence[Person]) -> np.ndarray:
    """Cells of people, each with a line to the mean of its first guesses at its person's
    keypoints.
    """
    canvas = Canvas(image)
    cells, embedding = embedded(maps)
    centres = embedding[:, :, 0].mean(axis=1)
    wanted = [np.nanmean(person.keypoints, axis=0) for person in people]
    owners = np.argmin([np.hypot(*(centres - centre).T) for centre in wanted], axis=0)
    sparse = (cells % 2 == 0).all(axis=1)
    for cell, centre, owner in zip(cells[sparse], centres[sparse], owners[sparse], strict=True):
        colour = person_colour(int(owner))
        canvas.line(cell[::-1] * maps.stride, centre, tuple(value // 2 for value in colour))
    for cell, owner in zip(cells[sparse], owners[sparse], strict=True):
        canvas.dot(cell[::-1] * maps.stride, 2, person_colour(int(owner)))
    for number, centre in enumerate(wanted):
        canvas.dot(centre, 6, person_colour(number), rim=True)
        canvas.ring(centre, 7.5, WHITE)
    return canvas.pixels


def draw_basins(
    image: np.ndarray,
    maps: Maps,
    people: Sequence[Person],
    window: tuple[slice, slice],
    width: int = 690,
) -> np.ndarray:
    """A panel for each person: D_ij of the cells that show somebody. Bright at 0, faint at t, grey
    beyond.
    """
    cells, embedding = embedded(maps)
    panels = []
    for number, person in enumerate(people):
        scale = float(np.sqrt(np.ptp(person.keypoints[person.found], axis=0).prod()))
        distances = embedding_distances(
            embedding,
            person.keypoints,
            person.found.astype(float),
            scale,
            2 * OPTIONS.embedding_threshold,
        )
        canvas = Canvas(image, brightness=0.3)
        for cell, share in zip(cells, distances / OPTIONS.embedding_threshold, strict=True):
            colour = (
                np.array(person_colour(number)) * (1.15 - 0.75 * share)
                if share <= 1
                else np.full(3, 120.0)
            )
            corner = cell[::-1] * maps.stride - maps.stride // 2
            opposite, shade = corner + maps.stride - 2, np.clip(colour, 0, 255)
            cv2.rectangle(canvas.pixels, corner.tolist(), opposite.tolist(), shade.tolist(), -1)
        panels.append(canvas.pixels[window])
    height = round(panels[0].shape[0] * width / (len(panels) * panels[0].shape[1]))
    return cv2.resize(np.concatenate(panels, axis=1), (width, height), interpolation=cv2.INTER_AREA)


def embedded(maps: Maps) -> tuple[np.ndarray, np.ndarray]:
    """(A, 2) row and column of the cells that show somebody, and (A, K, 2, 2) where they believe
    the keypoints to be.
    """
    assert maps.segmentation is not None
    cells = np.argwhere(maps.segmentation >= OPTIONS.segmentation_threshold)
    return cells, embed(maps, cells[:, ::-1] * maps.stride, OPTIONS.long_refinements)


if __name__ == "__main__":
    main()

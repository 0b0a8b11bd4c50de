"""What a SavedModel holds, against the NumPy decoder and the readers of images that it stands
for.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from concurrent import futures
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from decode_oracles import (
    PAIR,
    RADIUS,
    child_before_adult,
    paint,
    random_maps,
    standing,
    unsure,
)
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import Frame, FramedMaps, decode
from personlab_keras.decoder_graph.fields import Frame as GraphFrame
from personlab_keras.decoder_graph.fields import fields_of, mirrored
from personlab_keras.decoder_graph.masks import find_masks
from personlab_keras.decoder_graph.poses import find_poses
from personlab_keras.export.export import export_source
from personlab_keras.export.saved_model.images import decode_bytes, fit
from personlab_keras.export.saved_model.signatures import (
    BYTES,
    BYTES_SIGNATURE,
    IMAGE,
    PEOPLE_SIGNATURE,
)
from personlab_keras.export.saved_model.tf_serving import (
    BATCHING_FILE,
    WARMUP_FILE,
    predict_request,
)
from personlab_keras.inference.input_fit import fit_for
from personlab_keras.inference.predict import load
from personlab_keras.io.images import MAX_PIXELS, decode_image, read_image
from personlab_keras.method.maps import Maps, pack
from personlab_keras.method.person import Person, decode_mask
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton
from personlab_keras.model_directory import read_model_directory

pytestmark = pytest.mark.slow

GREY = (128, 128, 128)
FEW = DecodeConfig(score_threshold=0.0, max_people=12)
AT_TWO_SIZES = DecodeConfig(score_threshold=0.05, max_people=12, scale_range=(60.0, 230.0))


@cache
def graph(
    skeleton: Skeleton,
    options: DecodeConfig,
    stride: int,
    radius: float,
    sizes: int = 1,
    passes: int = 1,
):
    """The whole decoder of one image, for maps of any size."""
    count = skeleton.keypoint_count
    channels = {
        "heatmaps": count,
        "short_offsets": 2 * count,
        "mid_offsets": 4 * (count - 1),
        "long_offsets": 2 * count,
        "segmentation": 1,
    }
    outputs = {
        name: tf.TensorSpec([None, None, number], tf.float32) for name, number in channels.items()
    }
    numbers = tf.TensorSpec([2], tf.float64)
    signature = [
        [[outputs] * passes] * sizes,
        tf.TensorSpec([2], tf.int32),
        [(numbers, numbers)] * sizes,
    ]

    @tf.function(input_signature=signature, autograph=False)
    def run(views, size, places):
        frames = [GraphFrame(size, scale, offset) for scale, offset in places]
        read = []
        for each in views:
            plain, *others = (fields_of(outputs, stride) for outputs in each)
            read.append([plain, *(mirrored(other, skeleton) for other in others)])
        people, scores, maps = find_poses(
            read, frames, skeleton, options, radius, 2 * options.max_people
        )
        points = frames[0].inside_image(people.keypoints)
        return points, people.keypoint_scores, scores, *find_masks(people, maps, frames, options)

    return run


def people_in_graph(
    maps: Maps | list[list[Maps]],
    skeleton: Skeleton,
    options: DecodeConfig,
    frame: Frame | list[Frame],
    radius: float,
) -> list[Person]:
    """The people in maps, or in those of several sizes, each plain and maybe as the network gives
    them for the mirrored input.
    """
    sizes, frames = ([[maps]], [frame]) if isinstance(maps, Maps) else (maps, frame)
    run = graph(skeleton, options, sizes[0][0].stride, radius, len(sizes), len(sizes[0]))
    views = [
        [
            {name: tf.constant(array, tf.float32) for name, array in pack(each).items()}
            for each in size
        ]
        for size in sizes
    ]
    height, width = frames[0].height, frames[0].width
    places = [
        (tf.constant(each.scale, tf.float64), tf.constant(each.offset, tf.float64))
        for each in frames
    ]
    keypoints, keypoint_scores, scores, masks, boxes, _ = run(
        views, tf.constant([height, width]), places
    )
    found = []
    for j in range(len(scores)):
        rle = {"size": [height, width], "counts": masks[j].numpy().decode()}
        person = Person(keypoints[j].numpy(), keypoint_scores[j].numpy(), float(scores[j]), rle)
        if decode_mask(rle).any():
            np.testing.assert_array_equal(boxes[j], person.box)
        found.append(person)
    return found


def check_same(ours: list[Person], reference: list[Person]) -> None:
    # What float64 tells from nothing, float32 need not.
    ours, reference = (
        [person for person in people if person.score > 1e-6] for people in (ours, reference)
    )
    assert len(ours) == len(reference)
    for one, other in zip(ours, reference, strict=True):
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=0.5)
        np.testing.assert_allclose(one.keypoint_scores, other.keypoint_scores, atol=1e-3)
        assert abs(one.score - other.score) < 1e-3
        disagreeing = (one.mask != other.mask).sum()
        assert disagreeing <= 1e-3 * one.mask.size, disagreeing


FRAME = Frame(300, 437, (1.1, 1.05), (0.05, 0.025))


@pytest.fixture
def eagerly():
    """Runs the steps one by one: tracing them takes half a minute for each set of settings. The
    tests of painted people and of noise trace them.
    """
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize(
    "people",
    [
        [],
        [standing(200, 150)],
        [standing(120, 150), standing(165, 160), standing(330, 150, 0.6), standing(410, 300)],
    ],
    ids=["nobody", "one", "a crowd, one at the border"],
)
def test_painted_people_are_the_same(people):
    maps = paint(people, 321, 481, 8)
    reference = decode(maps, COCO_PERSON, FEW, FRAME, RADIUS)
    assert len(reference) >= len(people)
    check_same(people_in_graph(maps, COCO_PERSON, FEW, FRAME, RADIUS), reference)


def test_neighbours_are_told_apart_in_the_graph():
    people = [standing(200, 150), standing(220, 162), standing(330, 150, 0.6)]
    maps = paint(people, 321, 481, 16)
    maps.short_offsets[4, 9] = np.nan
    reference = decode(maps, COCO_PERSON, FEW, FRAME, RADIUS)
    unsure = replace(maps, heatmaps=maps.heatmaps * np.float32(0.49))  # nobody shown, none agree
    assert len(decode(unsure, COCO_PERSON, FEW, FRAME, RADIUS)) != len(reference)
    check_close(people_in_graph(maps, COCO_PERSON, FEW, FRAME, RADIUS), reference)


def test_people_of_unsure_maps_are_the_same():
    rng = np.random.default_rng(3)
    maps = paint([standing(120, 150), standing(165, 160), standing(330, 150, 0.6)], 321, 481, 8)
    blurred = np.clip(
        maps.heatmaps * rng.uniform(0.3, 1, maps.heatmaps.shape)
        + rng.uniform(0, 0.02, maps.heatmaps.shape),
        0,
        1,
    )
    maps = replace(
        maps,
        heatmaps=blurred.astype(np.float32),
        short_offsets=(maps.short_offsets + rng.normal(0, 2, maps.short_offsets.shape)).astype(
            np.float32
        ),
        mid_offsets=(maps.mid_offsets + rng.normal(0, 4, maps.mid_offsets.shape)).astype(
            np.float32
        ),
        long_offsets=(maps.long_offsets + rng.normal(0, 6, maps.long_offsets.shape)).astype(
            np.float32
        ),
        segmentation=np.clip(
            maps.segmentation + rng.normal(0, 0.3, maps.segmentation.shape), 0, 1
        ).astype(np.float32),
    )
    maps.short_offsets[5, 7] = np.nan  # says nothing
    maps.heatmaps[9, 9, 0] = np.inf
    reference = decode(maps, COCO_PERSON, FEW, FRAME, RADIUS)
    assert len(reference) >= 3
    check_same(people_in_graph(maps, COCO_PERSON, FEW, FRAME, RADIUS), reference)


CHANGED = [
    {"hough": False, "vote_refinements": 2, "score_power": 1.0},
    {"peak_threshold": 0.1, "nms_radius": 6.0, "keypoint_threshold": 0.3, "mid_refinements": 2},
    {"bridge": False, "expected_oks": False, "long_refinements": 0, "segmentation_threshold": 0.7},
    {"bridge_support": 0.7, "soft_nms": False, "copy_score": 0.2, "embedding_threshold": 0.15},
    {"scale_range": (120.0, 160.0), "max_people": 3, "score_threshold": 0.2},
    {"exclusive_masks": True},
    {"merge": True},
]
"""Another value than the default of every setting of the decoder but `masks`, by which the graph
has masks or not."""


@pytest.mark.usefixtures("eagerly")
def test_keypoints_beyond_the_image_are_at_its_edge_in_the_graph():
    person = standing(40, 260)
    maps = [
        paint([person * scale], int(320 * scale) + 1, int(240 * scale) + 1, 8) for scale in (1, 0.5)
    ]
    frames = [Frame(321, 241, (scale, scale)) for scale in (1.0, 0.5)]
    passes = [FramedMaps(each, frame) for each, frame in zip(maps, frames, strict=True)]
    mirrored_ones = [[each, each.mirrored(COCO_PERSON)] for each in maps]
    options = DecodeConfig(scale_range=(20.0, 350.0))
    (reference,) = decode(passes, COCO_PERSON, options, radius=RADIUS)
    (found,) = people_in_graph(mirrored_ones, COCO_PERSON, options, frames, RADIUS)
    np.testing.assert_allclose(found.keypoints, reference.keypoints, atol=0.01)
    beyond = (person < 0) | (person > (240, 320))
    assert beyond.sum() >= 4
    np.testing.assert_array_equal(found.keypoints[beyond], np.clip(person, 0, (240, 320))[beyond])


@cache
def two_sizes() -> tuple[list[Maps], list[Frame]]:
    """Maps of three people at two sizes: a pair and a child that lacks an elbow."""
    pair = [standing(150, 180, 1.4), standing(190, 185, 1.3)]
    child = standing(310, 250, 0.7)
    child[COCO_PERSON.index("left_elbow")] = np.nan
    frames = [Frame(400, 400, (scale, scale), (0.1, 0.2)) for scale in (1.0, 0.5)]
    maps = [
        unsure([each * scale + (0.1, 0.2) for each in (*pair, child)], side, seed)
        for seed, (scale, side) in enumerate(((1.0, 401), (0.5, 201)))
    ]
    return maps, frames


def check_close(ours: list[Person], reference: list[Person]) -> None:
    """Keypoints within a hundredth of a pixel, scores within 1e-4, masks but for single pixels."""
    assert len(ours) == len(reference)
    for one, other in zip(ours, reference, strict=True):
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=0.01)
        np.testing.assert_allclose(one.keypoint_scores, other.keypoint_scores, atol=1e-4)
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert (one.mask != other.mask).sum() <= 1e-4 * one.mask.size


def as_decoded(people: list[Person]) -> list[tuple]:
    return [(p.keypoints.tolist(), p.keypoint_scores.tolist(), p.score, p.rle) for p in people]


def test_all_settings_are_varied():
    varied = [name for changes in CHANGED for name in changes]
    assert sorted([*varied, "masks"]) == sorted(field.name for field in fields(DecodeConfig))


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("changes", [{}, *CHANGED], ids=lambda changes: " ".join(changes) or "none")
def test_every_setting_is_heeded_at_two_sizes(changes):
    maps, frames = two_sizes()
    passes = [FramedMaps(each, frame) for each, frame in zip(maps, frames, strict=True)]
    sizes = [[each] for each in maps]
    if "merge" in changes:  # is always on with two sizes
        passes, sizes, frames = passes[:1], sizes[:1], frames[:1]

    def people(**changes) -> list[Person]:
        return decode(passes, COCO_PERSON, replace(AT_TWO_SIZES, **changes), radius=RADIUS)

    assert people()
    for name, value in changes.items():  # each alone changes something here
        assert as_decoded(people(**{name: value})) != as_decoded(people()), name
    found = people_in_graph(sizes, COCO_PERSON, replace(AT_TWO_SIZES, **changes), frames, RADIUS)
    check_close(found, people(**changes))


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("exclusive", [False, True])
def test_nobody_is_found_at_two_sizes(exclusive):
    maps, frames = two_sizes()
    sizes = [[replace(each, heatmaps=np.zeros_like(each.heatmaps))] for each in maps]
    options = replace(AT_TWO_SIZES, exclusive_masks=exclusive)
    assert people_in_graph(sizes, COCO_PERSON, options, frames, RADIUS) == []


@pytest.mark.usefixtures("eagerly")
def test_mirrored_passes_are_fused_in_the_graph():
    maps, frames = two_sizes()
    others = [unsure([standing(150, 180, 1.4)], 401, 7), unsure([standing(75, 90, 0.7)], 201, 8)]
    options = DecodeConfig(score_threshold=0.05, max_people=12)
    passes = [
        FramedMaps(each, frame)
        for pair, frame in zip(zip(maps, others, strict=True), frames, strict=True)
        for each in pair
    ]
    reference = decode(passes, COCO_PERSON, options, radius=RADIUS)
    assert len(reference) >= 2
    sizes = [
        [plain, other.mirrored(COCO_PERSON)] for plain, other in zip(maps, others, strict=True)
    ]
    check_close(people_in_graph(sizes, COCO_PERSON, options, frames, RADIUS), reference)


@pytest.mark.parametrize(
    "change", [{}, {"hough": False}, {"bridge": False}, {"merge": True}, {"exclusive_masks": True}]
)
def test_maps_of_noise_are_decoded_alike(change):
    options = replace(FEW, **change)
    people = 0
    for seed in range(4):
        maps = random_maps(np.random.default_rng(seed), 9, 12)
        # Half of the cells are empty, so that people are few.
        maps.heatmaps[np.random.default_rng(seed).random(maps.heatmaps.shape) < 0.8] = 0
        reference = decode(maps, PAIR, options, Frame(65, 89), RADIUS)
        check_same(people_in_graph(maps, PAIR, options, Frame(65, 89), RADIUS), reference)
        people += len(reference)
    assert people >= 4


@pytest.mark.usefixtures("eagerly")
def test_readings_merge_in_the_graph_as_outside():
    people = [standing(150, 150), standing(161, 150), standing(320, 160, 0.8)]
    maps = paint(people, 305, 433, 8)
    noise = np.random.default_rng(5).normal(0, 4, maps.short_offsets.shape)
    maps = replace(maps, short_offsets=(maps.short_offsets + noise).astype(np.float32))
    options = replace(FEW, merge=True)
    reference = decode(maps, COCO_PERSON, options, FRAME, RADIUS)
    apart = decode(maps, COCO_PERSON, FEW, FRAME, RADIUS)
    assert abs(sum(p.score for p in reference) - sum(p.score for p in apart)) > 0.1
    check_same(people_in_graph(maps, COCO_PERSON, options, FRAME, RADIUS), reference)


@pytest.mark.usefixtures("eagerly")
def test_bridge_support_counts_in_the_graph():
    elbow = COCO_PERSON.index("left_elbow")
    person = standing(152, 154)  # the nose on a cell: the first seed
    person[elbow] = np.nan
    maps = paint([person], 305, 433, 8)
    # Only the keypoints of the upper body point at the same wrist.
    wrist = COCO_PERSON.index("left_wrist")
    maps.long_offsets[19:, :, wrist] += 60
    found = []
    for support in (0.3, 0.95):
        options = replace(FEW, bridge_support=support, mid_refinements=0)
        reference = decode(maps, COCO_PERSON, options, FRAME, RADIUS)
        check_same(people_in_graph(maps, COCO_PERSON, options, FRAME, RADIUS), reference)
        found.append([bool(person.found[wrist]) for person in reference])
    assert found == [[True], [True, False]]  # the second time its own seed starts another person


@pytest.mark.usefixtures("eagerly")
def test_exclusive_masks_share_nothing_in_the_graph():
    person = standing(200, 150)
    maps = paint([person + (6, 0), person - (6, 0)], 305, 433, 8)
    y, x = np.mgrid[0:39, 0:55] * 8
    maps.long_offsets[...] = person - np.stack([x, y], axis=-1)[:, :, None]
    shared = []
    for exclusive in (False, True):
        options = replace(FEW, long_refinements=0, exclusive_masks=exclusive)
        first, second = people_in_graph(maps, COCO_PERSON, options, FRAME, RADIUS)[:2]
        shared.append(int((first.mask & second.mask).sum()))
    assert shared[0] > 1000
    assert shared[1] == 0


@pytest.mark.usefixtures("eagerly")
def test_exclusive_masks_share_nothing_across_sizes_in_the_graph():
    passes = child_before_adult()
    options = replace(AT_TWO_SIZES, exclusive_masks=True)
    reference = decode(passes, COCO_PERSON, options, radius=RADIUS)
    sizes, frames = [[each.maps] for each in passes], [each.frame for each in passes]
    found = people_in_graph(sizes, COCO_PERSON, options, frames, RADIUS)
    check_close(found, reference)
    assert not (found[0].mask & found[1].mask).any()


def test_masks_are_sampled_at_the_middles_of_pixels():
    """By hand: where the logit of the segmentation is linear, a mask ends where it is zero."""
    person = standing(200, 150)
    maps = paint([person], 305, 433, 8)
    y, x = np.mgrid[0:39, 0:55] * 8.0
    maps.long_offsets[...] = person - np.stack([x, y], axis=-1)[:, :, None]
    frame = Frame(152, 216, (2.0, 2.0), (0.5, 0.5))  # an image of half the size, resized
    for border, first in ((80.4, 40), (80.6, 41)):  # pixel 40 lies at 2 * 40 + 0.5 = 80.5
        maps = replace(maps, segmentation=(1 / (1 + np.exp((border - x) / 20))).astype(np.float32))
        reference = decode(maps, COCO_PERSON, FEW, frame, RADIUS)
        for people in (reference, people_in_graph(maps, COCO_PERSON, FEW, frame, RADIUS)):
            columns = np.flatnonzero(people[0].mask.any(axis=0))
            assert columns[0] == first
        turned = replace(
            maps, segmentation=(1 / (1 + np.exp((border - y) / 20))).astype(np.float32)
        )
        reference = decode(turned, COCO_PERSON, FEW, frame, RADIUS)
        for people in (reference, people_in_graph(turned, COCO_PERSON, FEW, frame, RADIUS)):
            assert np.flatnonzero(people[0].mask.any(axis=1))[0] == first


@pytest.mark.usefixtures("eagerly")
def test_places_of_pixels_are_more_exact_than_float32():
    """On COCO images one pixel at the very border of a mask moved mask AP by .002."""
    person = standing(500, 150)
    maps = paint([person], 305, 801, 8)
    y, x = np.mgrid[0:39, 0:101] * 8.0
    maps.long_offsets[...] = person - np.stack([x, y], axis=-1)[:, :, None]
    frame = Frame(240, 640, (801 / 640, 801 / 640), (0.1257, 0.1257))
    _, places = frame.cells(maps.shape, maps.stride)
    moved = np.float32(places) - places
    column = 300 + int(np.argmax(moved[300:500]))
    border = 8 * (places[column] + moved[column] / 2)  # beyond the pixel, before its float32 place
    shown = 1 / (1 + np.exp((border - x) / 20))
    maps = replace(maps, segmentation=shown.astype(np.float32))
    reference = decode(maps, COCO_PERSON, FEW, frame, RADIUS)
    for people in (reference, people_in_graph(maps, COCO_PERSON, FEW, frame, RADIUS)):
        assert np.flatnonzero(people[0].mask.any(axis=0))[0] == column + 1


# Images


@pytest.fixture(scope="module")
def read():
    return tf.function(
        lambda data: decode_bytes(data, GREY),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )


def encoded(mode: str, kind: str, orientation: int) -> bytes:
    rows, columns = np.mgrid[0:40, 0:60]
    pixels = np.stack([rows * 6, columns * 4, (rows + columns) * 2], axis=-1).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode == "RGBA":
        image.putalpha(Image.fromarray((columns * 4).astype(np.uint8)))
    elif mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(
        file, kind, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {})
    )
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("I;16", "PNG"),
    ],
)
def test_bytes_become_the_pixels_that_opencv_reads(read, mode, kind, orientation):
    data = encoded(mode, kind, orientation)
    np.testing.assert_allclose(
        np.int64(read(data)), np.int64(decode_image(data, "it", background=GREY)), atol=1
    )


def header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


def animated_gif() -> bytes:
    frames, file = [Image.new("L", (30, 20), shade) for shade in (10, 200)], io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


HOSTILE = {
    "empty": (b"", "must be a JPEG or PNG"),
    "text": (b"hello", "must be a JPEG or PNG"),
    "animated GIF": (animated_gif(), "must be a JPEG or PNG"),
    "cut JPEG": (encoded("RGB", "JPEG", 6)[:-60], "Invalid JPEG"),
    "cut PNG": (encoded("RGB", "PNG", 6)[:-60], "Invalid PNG"),
    "JPEG of three bytes": (b"\xff\xd8\xff", "Invalid JPEG"),
    "PNG of eight bytes": (b"\x89PNG\r\n\x1a\n", "at least one pixel"),
    "900 megapixels in 33 bytes": (header(30_000, 30_000), f"at most {MAX_PIXELS}"),
    "no pixel": (header(0, 5), "at least one pixel"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_are_refused(read, what):
    data, words = HOSTILE[what]
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        read(data)


def test_damaged_files_never_do_worse_than_fail(read):
    rng = np.random.default_rng(0)
    for mode, kind in (("RGB", "JPEG"), ("RGBA", "PNG")):
        whole = np.frombuffer(encoded(mode, kind, 6), np.uint8)
        for _ in range(150):
            damaged = whole.copy()
            damaged[rng.integers(len(damaged), size=rng.integers(1, 8))] = rng.integers(256)
            with contextlib.suppress(tf.errors.InvalidArgumentError):
                assert read(damaged.tobytes()).shape[2] == 3


@pytest.mark.parametrize(
    ("width", "height"), [(640, 480), (50, 97), (401, 300), (8000, 10), (1, 1)]
)
@pytest.mark.parametrize("upscale", [True, False])
def test_images_are_fitted_as_opencv_does(width, height, upscale):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    expected = fit_for(width, height, 401, 16, upscale, (1, 2, 3))
    fitted, frame = fit(image[None], 401, 16, upscale, (1, 2, 3))
    np.testing.assert_allclose(fitted[0], expected.apply(image), atol=1)
    assert np.abs(fitted[0] - np.float32(expected.apply(image))).mean() < 0.25
    np.testing.assert_allclose(frame.scale, expected.frame.scale, rtol=1e-12)
    np.testing.assert_allclose(frame.offset, expected.frame.offset, rtol=1e-12)


# The SavedModel


@pytest.fixture(scope="module")
def served(model_directory, tmp_path_factory) -> Path:
    """Version 2 of a model of which nothing is sure, so that it finds many people."""
    changes = [
        f"decode.{name}=0" for name in ("score_threshold", "peak_threshold", "keypoint_threshold")
    ]
    changes += ["decode.max_people=6", "predict.scales=[0.5,1.0]", "predict.flip=true"]
    return export_source(
        model_directory, tmp_path_factory.mktemp("served") / "personlab" / "2", changes
    )


@pytest.fixture(scope="module")
def signatures(served):
    return tf.saved_model.load(str(served)).signatures


def test_people_from_bytes_in_a_process_that_has_only_tensorflow(served, scenes, tmp_path):
    script = """
import sys
for name in ("keras", "scipy", "cv2", "numba", "pycocotools", "personlab_keras"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
find = tf.saved_model.load(sys.argv[1]).signatures["people_from_bytes"]
found = find(image_bytes=tf.constant([open(path, "rb").read() for path in sys.argv[3:]]))
np.savez(sys.argv[2], **{name: value.numpy() for name, value in found.items()})
"""
    photos = sorted((scenes / "images").iterdir())[:3]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [
        sys.executable,
        "-c",
        script,
        str(served),
        str(tmp_path / "found.npz"),
        *map(str, photos),
    ]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    found = np.load(tmp_path / "found.npz", allow_pickle=True)
    predictor = load(served)
    assert found["keypoints"].shape == (3, 6, 17, 3)
    assert "cell_masks" not in found.files
    for i, photo in enumerate(photos):
        image = read_image(photo)
        people = predictor(image)
        assert found["count"][i] == len(people) > 0
        assert found["size"][i].tolist() == list(image.shape[:2])
        np.testing.assert_allclose(
            found["scores"][i][: len(people)], [person.score for person in people], atol=2e-3
        )
        for j, person in enumerate(people):
            ours = found["keypoints"][i][j]
            np.testing.assert_array_equal(ours[:, 2] > 0, person.found)
            # Resizing may differ by one step of 255, and this network's maps are noise.
            assert np.median(np.abs(ours[person.found, :2] - person.keypoints[person.found])) < 0.5
            mask = decode_mask(
                {"size": list(image.shape[:2]), "counts": found["masks"][i][j].decode()}
            )
            assert (mask != person.mask).mean() < 0.02


def test_images_of_both_types_and_any_size_are_taken(served):
    module = tf.saved_model.load(str(served))
    image = np.random.default_rng(0).integers(0, 256, (2, 50, 71, 3), np.uint8)
    assert module.maps(image)["heatmaps"].shape == (2, 8, 10, 17)  # padded to 57 x 73
    one, other = module.people(image), module.people(image.astype(np.float32))
    assert one["cell_masks"].shape[:2] == (2, 6)
    assert one["size"].numpy().tolist() == [[50, 71]] * 2
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_one_broken_image_fails_the_call_and_not_the_model(signatures, scenes):
    photo = next((scenes / "images").iterdir()).read_bytes()
    find = signatures[BYTES_SIGNATURE]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be a JPEG or PNG"):
        find(image_bytes=tf.constant([photo, b"hello"]))
    for odd in (encoded("RGB", "PNG", 1), encoded("L", "JPEG", 8)):
        assert find(image_bytes=tf.constant([odd]))["count"].shape == (1,)


def test_the_latest_version_is_the_model(served):
    assert read_model_directory(served.parent).folder == served


def test_requests_to_warm_up_with_can_be_answered(served, signatures):
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(served / WARMUP_FILE))
    ]
    requests = [log.predict_log.request for log in logs]
    assert {request.model_spec.signature_name for request in requests} == set(signatures)
    for request in requests:
        inputs = {
            name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
        }
        assert signatures[request.model_spec.signature_name](**inputs)
    assert "max_batch_size { value: 4 }" in (served / BATCHING_FILE).read_text()


def test_protos_travel_by_grpc(signatures, scenes):
    """A server of the same protocol as TensorFlow Serving's, which answers by the SavedModel."""

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            inputs = {
                name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
            }
            try:
                outputs = signatures[request.model_spec.signature_name](**inputs)
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            response = predict_pb2.PredictResponse(model_spec=request.model_spec)
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return response

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            client = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            photo = next((scenes / "images").iterdir())
            answer = client.Predict(
                predict_request(BYTES_SIGNATURE, BYTES, [photo.read_bytes()]), timeout=60
            )
            found = {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}
            image = read_image(photo)
            again = client.Predict(
                predict_request(PEOPLE_SIGNATURE, IMAGE, image[None]), timeout=60
            )
            assert found["count"] == tf.make_ndarray(again.outputs["count"]) > 0
            counts = found["masks"][0, 0].decode()
            assert (
                decode_mask({"size": found["size"][0].tolist(), "counts": counts}).shape
                == image.shape[:2]
            )
            with pytest.raises(grpc.RpcError, match="must be a JPEG or PNG"):
                client.Predict(predict_request(BYTES_SIGNATURE, BYTES, [b"hello"]), timeout=60)
    finally:
        server.stop(None)

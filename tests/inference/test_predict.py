"""From images to people: the fit to the network, the predictor around any network, and the files it
writes.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personlab_keras.cli import main
from personlab_keras.config import Config, DataConfig, DecodeConfig, ModelConfig, PredictConfig
from personlab_keras.decoder import Frame, decode
from personlab_keras.errors import InputError
from personlab_keras.inference.input_fit import fit_for
from personlab_keras.inference.predict import Predictor, load
from personlab_keras.inference.predict_files import output_names, predict_files
from personlab_keras.method.coordinates import grid
from personlab_keras.method.maps import Maps, pack
from personlab_keras.method.person import decode_mask
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

STRIDE = 8
RED = (250, 10, 10)
BODY = np.array([(7.0 * (k % 5), 9.0 * (k // 5)) for k in range(COCO_PERSON.keypoint_count)])
"""Keypoints of the person that `RedNetwork` sees, relative to its nose, in network pixels."""


def person_maps(person: np.ndarray | None, height: int, width: int) -> Maps:
    """Perfect maps of one person with these keypoints, or without people."""
    cells = grid(height, width, STRIDE)[:, :, None]
    points = person if person is not None else np.zeros((COCO_PERSON.keypoint_count, 2))
    toward = points - cells
    near = (np.linalg.norm(toward, axis=-1) <= 32) & (person is not None)
    targets = COCO_PERSON.edge_indices[:, 1]
    low, high = points.min(axis=0), points.max(axis=0)
    inside = ((cells[:, :, 0] >= low) & (cells[:, :, 0] <= high)).all(axis=-1) & (
        person is not None
    )
    return Maps(
        near.astype(float), toward, toward[:, :, targets], toward, inside.astype(float), STRIDE
    )


class RedNetwork:
    """Finds one person, with the nose where the input is red."""

    def __init__(self):
        self.shapes = []

    def predict_on_batch(self, inputs):
        assert inputs.dtype == np.float32
        self.shapes.append(inputs.shape)
        outputs = [
            pack(
                person_maps(
                    self.find(image), *((side - 1) // STRIDE + 1 for side in image.shape[:2])
                )
            )
            for image in inputs
        ]
        return {name: np.stack([each[name] for each in outputs]) for name in outputs[0]}

    def find(self, image):
        nose = red_centre(image)
        return None if nose is None else BODY + nose


class EquivariantNetwork(RedNetwork):
    """Sees the person grow and turn with the image: a blue spot lies 40 px beside the red one, on
    the person's left.
    """

    def find(self, image):
        nose, spot = red_centre(image), red_centre(image[..., ::-1])
        size = (spot[0] - nose[0]) / 40
        turned = (BODY * (-1, 1))[COCO_PERSON.flip_order] if size < 0 else BODY
        return turned * abs(size) + nose


def red_centre(image: np.ndarray) -> np.ndarray | None:
    """Centre (x, y) of the red in an image on grey, weighted by how red each pixel is."""
    redness = np.clip(image[..., 0].astype(float) - image[..., 2], 0, None)
    if redness.max() < 20:
        return None
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    return np.array([(x * redness).sum(), (y * redness).sum()]) / redness.sum()


def image_with_red(width: int, height: int, nose: tuple[int, int], half: int = 4) -> np.ndarray:
    image = np.full((height, width, 3), 127, np.uint8)
    x, y = nose
    image[y - half : y + half + 1, x - half : x + half + 1] = RED
    return image


def image_with_red_and_blue(
    width: int, height: int, nose: tuple[int, int], apart: int = 40
) -> np.ndarray:
    image = image_with_red(width, height, nose)
    return np.where(
        image == RED, image, image_with_red(width, height, (nose[0] + apart, nose[1]))[..., ::-1]
    )


@pytest.fixture
def predictor():
    return Predictor(
        RedNetwork(), stride=STRIDE, options=PredictConfig(longer_side=321, batch_size=2)
    )


sides = st.integers(1, 3000)


@given(sides, sides, st.integers(1, 1500), st.sampled_from([8, 16, 32]), st.booleans())
@settings(deadline=None, max_examples=80)
def test_fit_properties(width, height, longer_side, stride, upscale):
    fit = fit_for(width, height, longer_side, stride, upscale)
    assert (fit.input_width - 1) % stride == 0
    assert (fit.input_height - 1) % stride == 0
    assert 0 <= fit.input_width - fit.resized_width < stride or fit.input_width == stride + 1
    assert 0 <= fit.input_height - fit.resized_height < stride or fit.input_height == stride + 1
    expected = longer_side if upscale else min(longer_side, max(width, height))
    assert max(fit.resized_width, fit.resized_height) == expected
    points = np.array(
        [[0, 0], [width - 1, height - 1], [width / 3, height / 7], [-20, height + 30]]
    )
    np.testing.assert_allclose(fit.to_image(fit.to_input(points)), points, atol=1e-3)
    # The image's edges, half a pixel beyond its outermost centres, land on the edges of the resized
    # image.
    np.testing.assert_allclose(fit.to_input(np.array([-0.5, -0.5])), [-0.5, -0.5], atol=1e-9)
    corner = np.array([fit.resized_width - 0.5, fit.resized_height - 0.5])
    np.testing.assert_allclose(
        fit.to_input(np.array([width - 0.5, height - 0.5])), corner, atol=1e-9
    )


def test_fit_of_a_worked_example():
    fit = fit_for(640, 480, longer_side=321, stride=16)
    assert (fit.resized_width, fit.resized_height) == (321, 241)
    assert (fit.input_width, fit.input_height) == (321, 241)
    smaller = fit_for(640, 480, longer_side=320, stride=16)
    assert (smaller.input_width, smaller.input_height) == (321, 241)
    # Exactly half the size: pixels 0 and 1 become pixel 0, whose centre lay at 0.5.
    np.testing.assert_allclose(smaller.to_image(np.array([0.0, 0.0])), [0.5, 0.5])
    assert smaller.frame == Frame(480, 640, (0.5, 0.5), (-0.25, -0.25))


@given(
    st.integers(60, 700),
    st.integers(60, 700),
    st.integers(100, 600),
    st.floats(0.1, 0.9),
    st.floats(0.1, 0.9),
)
@settings(deadline=None, max_examples=60)
def test_a_painted_spot_and_its_keypoint_land_together(width, height, longer_side, across, down):
    half = 5
    x, y = (
        half + round(share * (side - 2 * half - 1))
        for share, side in ((across, width), (down, height))
    )
    fit = fit_for(width, height, longer_side, STRIDE)
    fitted = fit.apply(image_with_red(width, height, (x, y), half))
    assert fitted.shape == (fit.input_height, fit.input_width, 3)
    # Rounding to whole grey levels is what keeps this from being exact.
    np.testing.assert_allclose(
        red_centre(fitted), fit.to_input(np.array([x, y])), atol=0.08 * max(1, fit.frame.scale[0])
    )


def test_apply_pads_right_and_below_and_leaves_an_image_of_the_right_size_alone():
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    before = image.copy()
    fit = fit_for(60, 40, longer_side=60, stride=16, pad_colour=(1, 2, 3))
    fitted = fit.apply(image)
    assert fitted.shape == (49, 65, 3)
    np.testing.assert_array_equal(fitted[:40, :60], image)
    assert (fitted[40:] == (1, 2, 3)).all()
    assert (fitted[:, 60:] == (1, 2, 3)).all()
    np.testing.assert_array_equal(image, before)


def test_shrinking_averages():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    np.testing.assert_array_equal(
        fit_for(64, 64, 16, 8).apply(stripes)[:16, :16], np.full((16, 16, 3), 100)
    )


def test_small_images_are_enlarged_only_on_request():
    assert fit_for(100, 50, 801, 8, upscale=False).frame.scale == (1.0, 1.0)
    assert fit_for(100, 50, 801, 8, upscale=True).frame.scale == (8.01, 8.0)
    assert fit_for(1000, 50, 801, 8, upscale=False).resized_width == 801


class BrokenNetwork(RedNetwork):
    """Gives a number that is not finite in one map."""

    def __init__(self, name, value):
        super().__init__()
        self.name, self.value = name, value

    def predict_on_batch(self, inputs):
        outputs = super().predict_on_batch(inputs)
        outputs[self.name][0, 0, 0, 0] = self.value
        return outputs


@pytest.mark.parametrize("name", ["heatmaps", "long_offsets"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_an_error_and_not_nobody(name, value):
    predictor = Predictor(BrokenNetwork(name, value), stride=STRIDE)
    with pytest.raises(InputError, match=f"the network's {name} are not finite"):
        predictor(image_with_red(160, 120, (50, 60)))


def test_a_network_of_another_description_is_an_error():
    class Poor(RedNetwork):
        def predict_on_batch(self, inputs):
            outputs = super().predict_on_batch(inputs)
            return outputs | {"mid_offsets": outputs["mid_offsets"][..., :4]}

    with pytest.raises(InputError, match="do not fit its description"):
        Predictor(Poor(), stride=STRIDE)(image_with_red(160, 120, (50, 60)))


def test_invalid_sizes_are_refused():
    with pytest.raises(InputError, match="at least one pixel"):
        fit_for(0, 10, 801, 8)
    with pytest.raises(InputError, match=r"predict\.longer_side"):
        fit_for(10, 10, 0, 8)
    with pytest.raises(ValueError, match="must be"):
        fit_for(10, 12, 100, 8).apply(np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(InputError, match=r"predict\.batch_size"):
        Predictor(RedNetwork(), options=PredictConfig(batch_size=0))


@pytest.mark.parametrize(
    ("width", "height", "nose"),
    [(640, 480, (200, 100)), (240, 300, (120, 90)), (333, 1000, (150, 300))],
)
def test_people_come_back_in_the_frame_of_the_image(predictor, width, height, nose):
    (person,) = predictor(image_with_red(width, height, nose))
    scale = 321 / max(width, height)
    np.testing.assert_allclose(person.keypoints, BODY / scale + nose, atol=1.0 / scale)
    assert person.mask.shape == (height, width)
    # The painted body reaches from the nose 28 pixels to the right and 27 down in network pixels.
    x, y, w, h = person.box
    np.testing.assert_allclose(
        [x, y, w, h], [nose[0], nose[1], 28 / scale, 27 / scale], atol=1.2 * STRIDE / scale
    )


def test_an_image_without_people_gives_an_empty_list(predictor):
    assert predictor(np.full((50, 70, 3), 127, np.uint8)) == []


def test_maps_are_in_the_frame_of_the_input(predictor):
    maps = predictor.maps(image_with_red(640, 480, (200, 100)))
    assert maps.image_shape == (241, 321)
    # The nose at half the coordinates: cell (row 6, column 12) is the input point (96, 48).
    fit = fit_for(640, 480, 321, STRIDE)
    np.testing.assert_allclose(
        maps.short_offsets[6, 12, 0], fit.to_input(np.array([200, 100])) - (96, 48), atol=0.2
    )


def test_a_batch_gives_what_single_images_give_in_their_order(predictor):
    images = [
        image_with_red(640, 480, (200, 100)),
        image_with_red(300, 400, (120, 90)),
        np.full((480, 640, 3), 127, np.uint8),
        image_with_red(1280, 960, (700, 500)),
        image_with_red(640, 480, (400, 300)),
    ]
    single = [predictor(image) for image in images]
    predictor.model.shapes.clear()
    together = predictor.batch(images)
    # Four images share one shape, two at a time.
    assert sorted(shape[0] for shape in predictor.model.shapes) == [1, 2, 2]
    assert [len(people) for people in together] == [1, 1, 0, 1, 1]
    for alone, batched in zip(single, together, strict=True):
        for a, b in zip(alone, batched, strict=True):
            np.testing.assert_array_equal(a.keypoints, b.keypoints)
            np.testing.assert_array_equal(a.mask, b.mask)
    assert predictor.batch([]) == []


# Scales and flip


@pytest.mark.parametrize(
    ("width", "height", "nose"),
    [(640, 480, (200, 100)), (317, 240, (120, 90)), (240, 500, (120, 300))],
)
def test_people_do_not_move_with_scales_and_flip(width, height, nose):
    # They would move if offsets were not divided by the scale, left and right not swapped, or the
    # padding not mirrored.
    image = image_with_red_and_blue(width, height, nose)
    predictor = Predictor(
        EquivariantNetwork(), stride=STRIDE, options=PredictConfig(longer_side=321)
    )
    (alone,) = predictor(image)
    scale = 321 / max(width, height)
    np.testing.assert_allclose(alone.keypoints, BODY + nose, atol=0.5 / scale)
    for options in (
        {"flip": True},
        {"scales": (1.0, 0.5)},
        {"scales": (0.75, 1.0, 1.5), "flip": True},
    ):
        (person,) = replace(predictor, options=replace(predictor.options, **options))(image)
        np.testing.assert_allclose(
            person.keypoints, alone.keypoints, atol=0.5 / scale, err_msg=str(options)
        )
        assert person.score == pytest.approx(alone.score, abs=0.05)
        assert person.mask.shape == (height, width)


def test_framed_maps_have_one_frame_per_input(predictor):
    predictor = replace(predictor, options=replace(predictor.options, scales=(1.0, 0.5), flip=True))
    image = image_with_red(640, 480, (200, 100))
    passes = predictor.framed_maps(image)
    assert [each.maps.image_shape for each in passes] == [(241, 321)] * 2 + [(121, 161)] * 2
    assert [each.frame.scale[0] for each in passes] == [321 / 640] * 2 + [160 / 640] * 2
    # Two inputs of each shape, in one batch.
    assert predictor.model.shapes == [(2, 241, 321, 3), (2, 121, 161, 3)]
    np.testing.assert_allclose(decode(passes)[0].keypoints, predictor(image)[0].keypoints)


def test_inputs_of_several_images_scales_and_flips_share_batches(predictor):
    images = [
        image_with_red_and_blue(640, 480, (200, 100)),
        image_with_red_and_blue(320, 240, (200, 100)),
    ]
    predictor = Predictor(
        EquivariantNetwork(),
        stride=STRIDE,
        options=PredictConfig(longer_side=321, batch_size=3, scales=(1.0, 0.5), flip=True),
    )
    together = predictor.batch(images)
    assert [shape[0] for shape in predictor.model.shapes] == [3, 1, 3, 1]
    for image, people in zip(images, together, strict=True):
        np.testing.assert_array_equal(people[0].keypoints, predictor(image)[0].keypoints)


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0), (float("nan"),), (float("inf"),)])
def test_invalid_scales_are_refused(scales):
    with pytest.raises(InputError, match=r"predict\.scales must be a list of 1 to 16 values"):
        Predictor(RedNetwork(), options=PredictConfig(scales=scales))


def test_scales_are_relative_to_the_image_where_it_is_not_enlarged():
    fits = [fit_for(100, 50, 801, 8, upscale=False, scale=scale) for scale in (1.0, 0.5, 2.0)]
    assert [fit.resized_width for fit in fits] == [100, 50, 200]
    assert fit_for(100, 50, 801, 8, scale=1e-9).resized_width == 1


def test_timed_measures_every_stage(predictor):
    people, seconds = predictor.timed(image_with_red(640, 480, (200, 100)))
    assert len(people) == 1
    assert list(seconds) == ["fit", "network", "decode"]
    assert all(value > 0 for value in seconds.values())


def test_the_image_is_not_modified(predictor):
    image = image_with_red(640, 480, (200, 100))
    before = image.copy()
    predictor(image)
    np.testing.assert_array_equal(image, before)
    image.flags.writeable = False
    assert len(predictor(image[:, ::-1])) == 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((1, 10, 10, 3), np.uint8),
    ],
)
def test_arrays_of_other_shapes_and_types_are_refused(predictor, image):
    for use in (predictor, predictor.maps, lambda each: predictor.batch([each])):
        with pytest.raises(InputError, match=r"must be \(H, W, 3\) uint8 RGB. Received"):
            use(image)
    with pytest.raises(InputError, match="Received: list"):
        predictor([[1, 2], [3, 4]])


def test_settings_reach_the_decoder(predictor):
    image = image_with_red(640, 480, (200, 100))
    assert replace(predictor, decode_options=DecodeConfig(masks=False))(image)[0].mask is None
    assert replace(predictor, decode_options=DecodeConfig(max_people=0))(image) == []


def test_sides_serve_the_coarsest_features(predictor):
    coarse = replace(predictor, input_stride=32)
    fit = coarse.fit(np.zeros((100, 330, 3), np.uint8))
    assert ((fit.input_width - 1) % 32, (fit.input_height - 1) % 32) == (0, 0)
    assert len(coarse(image_with_red(640, 480, (200, 100)))) == 1


def test_a_network_of_another_stride_is_refused(predictor):
    with pytest.raises(ValueError, match="stride 16"):
        replace(predictor, stride=16)(image_with_red(640, 480, (200, 100)))


@dataclass(frozen=True)
class StoredNetwork:
    """The part of a `ModelDirectory` that `load` reads."""

    config: Config
    skeleton: Skeleton = COCO_PERSON
    radius: float = 24.0
    stride: int = STRIDE

    @property
    def model(self):
        return RedNetwork()


def test_overrides_replace_settings_of_the_directory(monkeypatch, tmp_path):
    config = Config(
        data=DataConfig(pad_colour=(1, 2, 3)),
        model=ModelConfig(output_stride=32),
        decode=DecodeConfig(max_people=7),
        predict=PredictConfig(longer_side=321),
    )
    monkeypatch.setattr(
        "personlab_keras.inference.predict.read_model_directory",
        {tmp_path: StoredNetwork(config)}.__getitem__,
    )
    predictor = load(tmp_path, ["decode.masks=false", "predict.longer_side=161"])
    assert (predictor.stride, predictor.input_stride, predictor.radius) == (STRIDE, 32, 24.0)
    assert predictor.pad_colour == (1, 2, 3)
    assert predictor.decode_options == DecodeConfig(max_people=7, masks=False)
    assert predictor.options == PredictConfig(longer_side=161)
    with pytest.raises(InputError, match=r"decode\.mask\."):
        load(tmp_path, ["decode.mask=false"])


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def test_every_image_gets_a_json_and_an_overlay(predictor, tmp_path):
    path = write_image(tmp_path / "in" / "x.png", image_with_red(640, 480, (200, 100)))
    seen = []
    summary = predict_files(
        predictor,
        path,
        tmp_path / "out" / "deep",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (summary.done, summary.people, summary.failed) == (1, 1, ())
    assert seen == [(1, 1)]
    assert sorted(file.name for file in (tmp_path / "out" / "deep").iterdir()) == [
        "x.json",
        "x.overlay.jpg",
    ]
    written = json.loads((tmp_path / "out" / "deep" / "x.json").read_text())
    assert {key: written[key] for key in ("image", "width", "height")} == {
        "image": "x.png",
        "width": 640,
        "height": 480,
    }
    (person,) = written["people"]
    np.testing.assert_allclose(person["keypoints"][0][:2], (200, 100), atol=1)
    assert decode_mask(person["mask"]).shape == (480, 640)
    overlay = cv2.imread(str(tmp_path / "out" / "deep" / "x.overlay.jpg"))[..., ::-1]
    assert overlay.shape == (480, 640, 3)
    difference = np.abs(overlay.astype(int) - image_with_red(640, 480, (200, 100))).max(axis=2)
    assert difference[120:140, 205:250].mean() > 40  # the body, drawn over
    assert difference[300:, 400:].max() < 10  # nothing there


def test_one_bad_image_does_not_stop_the_others(predictor, tmp_path):
    for name in ("a.png", "c.png", "d.png"):
        write_image(tmp_path / "in" / name, image_with_red(640, 480, (200, 100)))
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:200])
    summary = predict_files(predictor, tmp_path / "in", tmp_path / "out", overlays=False)
    assert (summary.done, summary.people) == (3, 3)
    (failed,) = summary.failed
    assert failed.startswith(f"{tmp_path / 'in' / 'b.png'}: must be a whole image")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "a.json",
        "c.json",
        "d.json",
    ]


def test_images_of_one_name_keep_their_results_apart(predictor, tmp_path):
    first = write_image(tmp_path / "a" / "x.png", image_with_red(640, 480, (200, 100)))
    second = write_image(tmp_path / "b" / "x.png", np.full((48, 64, 3), 127, np.uint8))
    predict_files(predictor, [first, second], tmp_path / "out", overlays=False)
    widths = {
        name: json.loads((tmp_path / "out" / name).read_text())["width"]
        for name in ("a/x.png.json", "b/x.png.json")
    }
    assert widths == {"a/x.png.json": 640, "b/x.png.json": 64}


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([], []),
        (["x.jpg"], ["x"]),
        (["a/x.jpg", "b/y.jpg"], ["x", "y"]),
        (["a/x.jpg", "a/x.png", "a/y.png"], ["x.jpg", "x.png", "y"]),
        (["a/x.jpg", "a/X.png"], ["x.jpg", "X.png"]),
        (["a/x.jpg", "b/x.png", "b/x.jpg.png"], ["a/x.jpg", "x.png", "x.jpg.png"]),
        (["p/a/x.jpg", "p/b/x.jpg", "p/y.jpg"], ["a/x.jpg", "b/x.jpg", "y"]),
        (["p/a/x.jpg", "p/a/../x.jpg"], ["a/x.jpg", "x.jpg"]),
    ],
)
def test_output_names_are_the_shortest_that_differ(paths, names):
    assert output_names([Path(path) for path in paths]) == names


def test_files_that_are_not_read_are_named(shared, model_directory, tmp_path, capsys):
    folder = shared / "data" / "odd-files" / "folder"
    assert (
        main(["predict", str(folder), "--model", str(model_directory), "--out", str(tmp_path)]) == 0
    )
    said = capsys.readouterr()
    assert "5 images" in said.out
    assert "skipped 1 other file that looks like an image or video: f.HEIC" in said.err
    read = {path.stem for path in tmp_path.glob("*.json")}
    assert read == {"a", "b", "c", "d", "e"}


def test_an_overlay_that_cannot_be_written_does_not_stop_the_json(predictor, tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, image_with_red(640, 480, (200, 100)))
    (tmp_path / "out" / "a.overlay.jpg").mkdir(parents=True)
    summary = predict_files(predictor, tmp_path / "in", tmp_path / "out")
    assert (summary.done, summary.people) == (2, 2)
    (failed,) = summary.failed
    assert failed.startswith(f"{tmp_path / 'out' / 'a.overlay.jpg'}: cannot be written")
    assert {"a.json", "b.json", "b.overlay.jpg"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_an_overlay_larger_than_jpeg_allows_does_not_stop_the_json(predictor, tmp_path):
    write_image(tmp_path / "in" / "long.png", np.full((4, 70_000, 3), 127, np.uint8))
    summary = predict_files(predictor, tmp_path / "in", tmp_path / "out")
    assert summary.done == 1
    (failed,) = summary.failed
    assert "long.overlay.jpg: cannot be encoded as JPEG: 70000 x 4 pixels" in failed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["long.json"]


def test_an_image_is_never_replaced_by_a_result(predictor, tmp_path):
    write_image(tmp_path / "x.png", image_with_red(640, 480, (200, 100)))
    predict_files(predictor, tmp_path / "x.png", tmp_path)
    before = (tmp_path / "x.overlay.jpg").read_bytes()
    with pytest.raises(InputError, match=r"x\.overlay\.jpg: must not be both"):
        predict_files(predictor, tmp_path, tmp_path)
    assert (tmp_path / "x.overlay.jpg").read_bytes() == before


def test_results_go_to_a_folder(predictor, tmp_path):
    path = write_image(tmp_path / "x.png", image_with_red(64, 48, (20, 10)))
    with pytest.raises(InputError, match="must be a folder"):
        predict_files(predictor, path, path)

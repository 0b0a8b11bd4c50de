"""Drawings: that things appear where they are and nowhere else, whatever they hold."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest

from personlab_keras.drawing import draw, draw_parts, draw_targets, person_colour
from personlab_keras.drawing.strokes import distinct_colours
from personlab_keras.method.coordinates import grid
from personlab_keras.method.maps import PARTS, Maps
from personlab_keras.method.person import Person, encode_mask
from personlab_keras.method.skeleton import COCO_PERSON

GREY = 120
NOSE, SHOULDER, HIP = (COCO_PERSON.index(name) for name in ("nose", "left_shoulder", "left_hip"))


def grey_image(height: int = 200, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def person_with(
    points: dict[int, tuple[float, float]], score: float = 0.9, mask: np.ndarray | None = None
) -> Person:
    keypoints = np.full((COCO_PERSON.keypoint_count, 2), np.nan)
    scores = np.zeros(COCO_PERSON.keypoint_count)
    for k, point in points.items():
        keypoints[k], scores[k] = point, score
    return Person(keypoints, scores, score, None if mask is None else encode_mask(mask))


def changed(image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return (image != drawn).any(axis=-1)


def rectangle(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((200, 300), bool)
    mask[rows, columns] = True
    return mask


def test_nobody_leaves_a_copy():
    image = grey_image()
    drawn = draw(image, [])
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_a_limb_is_drawn_between_its_ends_and_nowhere_else():
    image = grey_image()
    drawn = changed(image, draw(image, [person_with({SHOULDER: (60, 50), HIP: (60, 150)})]))
    assert drawn[50:151, 60].all()
    assert not drawn[:, :50].any()
    assert not drawn[:, 71:].any()
    assert not drawn[:40].any()
    assert not drawn[161:].any()


def test_ends_that_no_edge_joins_stay_apart():
    image = grey_image()
    drawn = changed(image, draw(image, [person_with({NOSE: (60, 50), HIP: (60, 150)})]))
    assert drawn[50, 60]
    assert drawn[150, 60]
    assert not drawn[70:130].any()


def test_the_sides_of_the_body_differ_in_colour():
    both = {
        COCO_PERSON.index(f"{side}_{part}"): (x, y)
        for side, x in (("left", 60), ("right", 200))
        for part, y in (("hip", 40), ("knee", 140))
    }
    drawn = draw(grey_image(), [person_with(both)])
    red, _, blue = np.moveaxis(drawn.astype(int), -1, 0)
    assert (red - blue)[90, 60] > 60
    assert (red - blue)[90, 200] < -60


def test_keypoints_below_the_threshold_are_left_out():
    image = grey_image()
    person = person_with({SHOULDER: (60, 50), HIP: (60, 150)}, score=0.3)
    assert changed(image, draw(image, [person], min_keypoint_score=0.3)).any()
    assert not changed(image, draw(image, [person], min_keypoint_score=0.31)).any()


def test_a_mask_is_translucent_and_in_the_colour_of_its_person():
    image = grey_image()
    image[:, 150:] = 200
    mask = rectangle(slice(40, 160), slice(100, 200))
    drawn = draw(image, [person_with({}, mask=mask)])
    inside = drawn[60:140, 110:190].astype(int)
    np.testing.assert_array_equal(
        np.sign(inside[0, 0] - GREY), np.sign(np.array(person_colour(0)) - GREY)
    )
    # What lies below still shows.
    assert (inside[0, -1] > inside[0, 0]).all()
    # The contour may reach a pixel or two beyond.
    outside = ~rectangle(slice(36, 164), slice(96, 204))
    np.testing.assert_array_equal(drawn[outside], image[outside])


def test_a_hole_in_a_mask_stays_open_and_is_outlined():
    image = grey_image()
    mask = rectangle(slice(40, 160), slice(100, 200)) & ~rectangle(slice(80, 120), slice(130, 170))
    drawn = draw(image, [person_with({}, mask=mask)])
    assert not changed(image, drawn)[90:110, 140:160].any()
    np.testing.assert_allclose(drawn[79, 150].astype(int), person_colour(0), atol=20)


def test_people_have_colours_of_their_own_that_stay():
    masks = [rectangle(slice(20, 60), slice(20 + 70 * i, 70 + 70 * i)) for i in range(3)]
    drawn = draw(grey_image(), [person_with({}, mask=mask) for mask in masks])
    colours = [tuple(drawn[40, 45 + 70 * i].tolist()) for i in range(3)]
    assert len(set(colours)) == 3
    alone = draw(grey_image(), [person_with({}, mask=masks[0])])
    assert tuple(alone[40, 45].tolist()) == colours[0]


def test_the_first_of_twelve_colours_are_far_apart():
    colours = np.array([person_colour(i) for i in range(12)], float)
    distances = np.linalg.norm(colours[:, None] - colours, axis=-1)
    assert distances[~np.eye(12, dtype=bool)].min() > 30


def test_neighbours_differ_in_hue_and_people_apart_keep_their_colours():
    def hue(colour):
        return colorsys.rgb_to_hls(*(value / 255 for value in colour))[0]

    rng = np.random.default_rng(0)
    together = distinct_colours(np.tile([10.0, 10, 50, 100], (5, 1)))
    for i, first in enumerate(together):
        for second in together[:i]:
            assert abs((hue(first) - hue(second) + 0.5) % 1 - 0.5) > 0.05
    places = rng.permutation(12) * 500.0
    apart = np.stack([places, places, np.full(12, 50), np.full(12, 100)], axis=1)
    assert distinct_colours(apart) == [person_colour(i) for i in range(12)]


def test_shoulders_and_hips_are_joined():
    for part in ("shoulder", "hip"):
        left, right = (COCO_PERSON.index(f"{side}_{part}") for side in ("left", "right"))
        image = grey_image()
        drawn = changed(image, draw(image, [person_with({left: (60, 50), right: (160, 50)})]))
        assert drawn[50, 60:161].all()
    elbows = {
        COCO_PERSON.index(f"{side}_elbow"): (x, 50) for side, x in (("left", 60), ("right", 160))
    }
    assert not changed(grey_image(), draw(grey_image(), [person_with(elbows)]))[50, 90:130].any()


def test_lines_are_as_wide_as_the_image_asks():
    def width(side: int) -> int:
        image = np.full((side, side, 3), GREY, np.uint8)
        small = person_with({SHOULDER: (100, 80), HIP: (100, 140)})
        return int(changed(image, draw(image, [small]))[110].sum())

    assert width(2560) > width(640)


def test_a_tracked_person_keeps_its_colour_and_shows_its_number():
    limb = {SHOULDER: (150.0, 60.0), HIP: (150.0, 140.0)}
    mask = rectangle(slice(60, 140), slice(100, 200))
    colours = set()
    for others in range(3):
        people = [person_with({}, mask=rectangle(slice(5, 20), slice(5, 20)))] * others
        tracked = replace(person_with(limb, mask=mask), id=4)
        drawn = draw(grey_image(), [*people, tracked])
        colours.add(tuple(drawn[130, 110].tolist()))
    assert len(colours) == 1
    unnamed = draw(grey_image(), [replace(tracked, id=None)])
    # The plate at the top left of the box.
    assert changed(unnamed, drawn)[45:60, 100:115].any()
    np.testing.assert_allclose(drawn[58, 101].astype(int), person_colour(4), atol=40)


def test_the_best_person_is_drawn_on_top():
    mask = rectangle(slice(40, 160), slice(100, 200))
    limb = {SHOULDER: (150.0, 60.0), HIP: (150.0, 140.0)}
    other = {
        COCO_PERSON.index("right_shoulder"): (110.0, 100.0),
        COCO_PERSON.index("right_hip"): (190.0, 100.0),
    }
    first = draw(grey_image(), [person_with(limb), person_with(other)])
    only = draw(grey_image(), [person_with(limb)])
    np.testing.assert_array_equal(first[95:105, 150], only[95:105, 150])
    # Limbs lie above all masks, whoever owns them.
    covered = draw(grey_image(), [person_with({}, mask=mask), person_with(limb)])
    np.testing.assert_array_equal(covered[100, 150], only[100, 150])


def test_larger_people_have_thicker_limbs():
    def thickness(height: int) -> int:
        image = grey_image(1000, 1400)
        drawn = changed(
            image,
            draw(
                image,
                [person_with({SHOULDER: (700, 500 - height / 2), HIP: (700, 500 + height / 2)})],
            ),
        )
        return int(drawn[500].sum())

    assert thickness(60) < thickness(400) < thickness(900)


def test_strange_people_do_no_harm():
    image = grey_image()
    far = person_with({SHOULDER: (1e12, -1e12), HIP: (60, 150), NOSE: (np.inf, 3)})
    empty = person_with({}, mask=np.zeros((200, 300), bool))
    assert changed(image, draw(image, [far, empty])).any()
    tiny = np.zeros((1, 1, 3), np.uint8)
    assert draw(
        tiny, [person_with({SHOULDER: (0, 0), HIP: (0, 0)}, mask=np.ones((1, 1), bool))]
    ).shape == (1, 1, 3)


def maps_with_parts(height: int = 3, width: int = 4, stride: int = 8) -> Maps:
    """Everybody everywhere in the two left columns: part 2 above, part 13 below."""
    segmentation = np.zeros((height, width), np.float32)
    segmentation[:, :2] = 1
    parts = np.zeros((height, width, len(PARTS)), np.float32)
    parts[0, :, 2] = 1
    parts[1:, :, 13] = 1
    return Maps(
        np.zeros((height, width, 17)),
        np.zeros((height, width, 17, 2)),
        np.zeros((height, width, 32, 2)),
        None,
        segmentation,
        stride,
        parts,
    )


def test_parts_have_colours_of_their_own_where_somebody_is():
    maps = maps_with_parts()
    image = grey_image(*maps.image_shape)
    drawn = draw_parts(image, maps).astype(int)
    # Probability falls from 1 to 0 between the cells at x = 8 and 16, and one part gives way to the
    # other between y = 0 and 8.
    assert (drawn != image).any(axis=2).all(axis=0).tolist() == [x <= 12 for x in range(25)]
    for rows, part in ((slice(0, 4), 2), (slice(5, 17), 13)):
        expected = np.rint(image[0, 0] * 0.35 + np.array(person_colour(part)) * 0.65)
        assert (drawn[rows, :13] == expected).all()


def test_parts_ask_for_maps_that_have_them():
    maps = maps_with_parts()
    with pytest.raises(ValueError, match=r"`image` must be \(17, 25\)"):
        draw_parts(grey_image(17, 17), maps)
    with pytest.raises(ValueError, match="must have part heatmaps"):
        draw_parts(grey_image(17, 25), replace(maps, part_heatmaps=None))


def test_inputs_are_not_modified():
    image, mask = grey_image(), rectangle(slice(40, 160), slice(100, 200))
    person = person_with({SHOULDER: (60, 50), HIP: (60, 150)}, mask=mask)
    before = image.copy(), person.keypoints.copy(), mask.copy()
    draw(image, [person])
    for array, kept in zip((image, person.keypoints, mask), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_a_reversed_view_is_drawn_as_it_looks():
    image = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    person = person_with({SHOULDER: (60, 50), HIP: (60, 150)})
    np.testing.assert_array_equal(draw(image[::-1], [person]), draw(image[::-1].copy(), [person]))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 3)),
        np.zeros((0, 9, 3), np.uint8),
    ],
)
def test_other_images_are_refused(image):
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8 RGB"):
        draw(image, [])


def test_people_of_another_frame_or_skeleton_are_refused():
    with pytest.raises(ValueError, match=r"masks must be \(200, 300\)"):
        draw(grey_image(), [person_with({}, mask=np.ones((300, 200), bool))])
    with pytest.raises(ValueError, match="17 keypoints"):
        draw(grey_image(), [Person(np.zeros((5, 2)), np.zeros(5), 0.5)])


SIZE, STRIDE, PANEL = 161, 8, 161
TITLE = 26


def one_person_targets() -> tuple[Maps, np.ndarray]:
    """Targets of a person with three labelled keypoints, on a view of 161 x 161; and its keypoints
    (1, K, 3).
    """
    keypoints = np.zeros((1, COCO_PERSON.keypoint_count, 3), np.float32)
    for k, point in ((NOSE, (40, 32)), (SHOULDER, (48, 72)), (HIP, (48, 120))):
        keypoints[0, k] = (*point, 1)
    cells = grid(21, 21, STRIDE)[:, :, None]
    labelled = keypoints[0, :, 2:]
    toward = (keypoints[0, :, :2] - cells) * labelled
    near = (np.linalg.norm(keypoints[0, :, :2] - cells, axis=-1) <= 20) & (labelled[:, 0] > 0)
    start, end = COCO_PERSON.edge_indices.T
    inside = np.zeros((21, 21))
    inside[3:17, 4:9] = 1
    maps = Maps(
        near.astype(np.float32),
        toward * near[..., None],
        toward[:, :, end] * near[:, :, start, None],
        toward * inside[..., None, None],
        inside,
        STRIDE,
    )
    return maps, keypoints


def panel_of(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    height = sheet.shape[0] // 2
    return sheet[row * height + TITLE : (row + 1) * height, column * PANEL : (column + 1) * PANEL]


def colourful(panel: np.ndarray) -> np.ndarray:
    return panel.max(axis=2).astype(int) - panel.min(axis=2) > 40


@pytest.fixture
def view():
    return grey_image(SIZE, SIZE)


def test_the_sheet_has_six_titled_panels(view):
    maps, _ = one_person_targets()
    sheet = draw_targets(view, maps, panel_width=PANEL)
    assert (sheet.shape, sheet.dtype) == ((2 * (SIZE + TITLE), 3 * PANEL, 3), np.uint8)
    for row in range(2):
        for column in range(3):
            title = sheet[
                row * (SIZE + TITLE) : row * (SIZE + TITLE) + TITLE,
                column * PANEL : (column + 1) * PANEL,
            ]
            assert (title > 150).any()


def test_heatmap_discs_lie_on_their_keypoints(view):
    maps, _ = one_person_targets()
    disc = colourful(panel_of(draw_targets(view, maps, panel_width=PANEL), 0, 1))
    for x, y in ((40, 32), (48, 72), (48, 120)):
        assert disc[y - 8 : y + 9, x - 8 : x + 9].all()
    assert not disc[:, 80:].any()


def test_arrows_point_from_cells_to_keypoints(view):
    maps, _ = one_person_targets()
    sheet = draw_targets(view, maps, panel_width=PANEL)
    short, mid, long = (
        colourful(panel_of(sheet, 0, 2)),
        colourful(panel_of(sheet, 1, 0)),
        colourful(panel_of(sheet, 1, 1)),
    )
    assert short[32, 25:40].any()
    assert not short[:, 75:].any()
    # Nose to shoulder and shoulder to hip are edges of the tree: the lines between them are drawn.
    assert mid[52, 40:49].any()
    assert mid[96, 46:51].any()
    assert not mid[130:].any()
    # Every fifth keypoint from the nose on is drawn: nose and left shoulder.
    assert long[32, 40]
    assert long[72, 48]
    assert not long[:, 80:].any()


def test_undefined_offsets_are_not_drawn(view):
    maps, _ = one_person_targets()
    nothing = replace(
        maps,
        short_offsets=np.full_like(maps.short_offsets, np.nan),
        mid_offsets=np.zeros_like(maps.mid_offsets),
    )
    sheet = draw_targets(view, nothing, panel_width=PANEL)
    assert not colourful(panel_of(sheet, 0, 2)).any()
    assert not colourful(panel_of(sheet, 1, 0)).any()


def test_instances_and_segmentation_lie_on_their_cells(view):
    maps, keypoints = one_person_targets()
    instance = np.asarray(maps.segmentation, np.uint8)
    sheet = draw_targets(view, maps, instance=instance, panel_width=PANEL)
    for panel in (panel_of(sheet, 0, 0), panel_of(sheet, 1, 2)):
        # Rows 3 to 16 and columns 4 to 8: the points 24 to 128 and 32 to 64, and half a cell
        # around.
        assert colourful(panel)[26:126, 34:62].all()
        assert not colourful(panel)[:18].any()
        assert not colourful(panel)[:, 71:].any()
    with_keypoints = panel_of(
        draw_targets(view, maps, keypoints=keypoints, panel_width=PANEL), 0, 0
    )
    assert changed(view, with_keypoints)[32, 40]
    assert changed(view, with_keypoints)[96, 48]
    assert not changed(view, with_keypoints)[:, 70:].any()


def test_ignored_cells_are_hatched(view):
    maps, _ = one_person_targets()
    ignore = np.zeros((21, 21), np.uint8)
    ignore[:, 15:] = 2
    sheet = draw_targets(view, maps, ignore=ignore, panel_width=PANEL)
    for panel in (panel_of(sheet, 0, 0), panel_of(sheet, 0, 1), panel_of(sheet, 1, 2)):
        share = colourful(panel)[:, 125:].mean()
        assert 0.1 < share < 0.6
        assert not colourful(panel)[:, 80:114].any()


def test_maps_without_masks_leave_those_panels_empty(view):
    maps, _ = one_person_targets()
    sheet = draw_targets(
        view, replace(maps, long_offsets=None, segmentation=None), panel_width=PANEL
    )
    assert not colourful(panel_of(sheet, 1, 1)).any()
    assert not colourful(panel_of(sheet, 1, 2)).any()


def test_targets_are_not_modified_and_must_fit_the_image(view):
    maps, keypoints = one_person_targets()
    instance = np.asarray(maps.segmentation, np.uint8)
    before = [
        array.copy() for array in (view, maps.heatmaps, maps.mid_offsets, keypoints, instance)
    ]
    draw_targets(view, maps, instance=instance, ignore=instance, keypoints=keypoints)
    for array, kept in zip(
        (view, maps.heatmaps, maps.mid_offsets, keypoints, instance), before, strict=True
    ):
        np.testing.assert_array_equal(array, kept)
    with pytest.raises(ValueError, match=r"must be \(161, 161\) for these maps"):
        draw_targets(grey_image(160, 161), maps)
    with pytest.raises(ValueError, match="`ignore` must be"):
        draw_targets(view, maps, ignore=np.zeros((20, 21), np.uint8))

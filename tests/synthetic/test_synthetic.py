import contextlib
import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from personlab_keras.errors import InputError
from personlab_keras.method.person import decode_mask
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.synthetic import SceneOptions, draw_scene, write_dataset
from personlab_keras.synthetic.body import BODY_PARTS, CARRIERS, Build, Limb, Pose
from personlab_keras.synthetic.body_shapes import Outfit
from personlab_keras.synthetic.canvas import Canvas, Shape, photograph
from personlab_keras.synthetic.casting import draw_build, draw_figure, draw_outfit, draw_pose
from personlab_keras.synthetic.puppet import make_figure

HANGING = Limb(0.15, 0.0, 0.1, 0.1)
STRAIGHT = Limb(0.08, 0.0, 0.03, 0.0)
UPRIGHT = Pose(
    yaw=0.0, roll=0.0, bend=0.0, lean=0.0, head_yaw=0.0, head_nod=0.0, head_tilt=0.0,
    left_arm=HANGING, right_arm=HANGING, left_leg=STRAIGHT, right_leg=STRAIGHT,
)  # fmt: skip
PLAIN = Outfit(
    skin=(200, 150, 120), hair=(60, 40, 30), shirt=(200, 40, 40), pants=(40, 40, 200), shoes=(20, 20, 20), trim=(0, 200, 0)
)  # fmt: skip


def scenes_of(count, size=129, seed=0, **options):
    for i in range(count):
        yield draw_scene(size, np.random.default_rng([seed, i]), options=SceneOptions(**options))


def people_of(scene):
    return [annotation for annotation in scene.annotations if not annotation["iscrowd"]]


def keypoints_of(annotation):
    return np.array(annotation["keypoints"]).reshape(-1, 3)


def point(annotation, name):
    return keypoints_of(annotation)[COCO_PERSON.index(name), :2]


def seen(annotation, *names):
    return all(keypoints_of(annotation)[COCO_PERSON.index(name), 2] == 2 for name in names)


# --- the canvas ---


def test_a_painted_square_covers_its_pixels():
    canvas = Canvas(np.zeros((12, 14, 3), np.uint8))
    # Pixels 3..8 across and 2..5 down, edges half a pixel around their centres.
    square = np.array([(2.75, 1.75), (8.25, 1.75), (8.25, 5.25), (2.75, 5.25)])
    canvas.paint([Shape(square, (250, 0, 0))], layer=3)
    rows, columns = np.nonzero(canvas.owners() == 3)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (3, 8, 2, 5)
    assert (canvas.image()[..., 0] > 120).sum() == len(rows) == 24


def test_a_pixel_belongs_to_the_layer_that_covers_half_of_it():
    canvas = Canvas(np.zeros((9, 9, 3), np.uint8))
    quarter = np.array([(-0.25, -0.25)] * 3)
    half = np.array([(-0.25, -0.25), (0.25, -0.25), (0.25, -0.25)])
    canvas.paint([Shape(quarter + (2, 4), (255, 0, 0)), Shape(half + (6, 4), (255, 0, 0))], layer=1)
    assert np.argwhere(canvas.owners() == 1).tolist() == [[4, 6]]
    assert canvas.image()[4, [2, 6], 0].tolist() == [64, 128]


def test_a_pixel_belongs_to_the_last_painted_layer():
    canvas = Canvas(np.zeros((20, 20, 3), np.uint8))
    square = np.array([(2, 2), (12, 2), (12, 12), (2, 12)], float)
    canvas.paint([Shape(square, (255, 0, 0), part=4)], layer=1)
    canvas.paint([Shape(square + 5, (0, 255, 0), part=7)], layer=2)
    canvas.paint([Shape(square + (0, 12), (0, 0, 255))])
    layers, parts = canvas.surface_at(np.array([(4.0, 4.0), (9.0, 9.0), (9.0, 15.0), (18.0, 1.0)]))
    assert layers.tolist() == [1, 2, 0, 0]
    assert parts[:2].tolist() == [4, 7]
    assert [canvas.owners()[y, x] for x, y in ((4, 4), (9, 9), (9, 15), (18, 1))] == [1, 2, 0, 0]


def test_the_photograph_moves_nothing():
    spots = np.zeros((41, 41, 3), np.uint8)
    spots[10, 30] = spots[33, 7] = 255
    for seed in range(20):
        picture = photograph(spots, np.random.default_rng(seed)).astype(float).sum(axis=-1)
        brightest = np.unravel_index(np.argsort(picture.reshape(-1))[-2:], picture.shape)
        assert {tuple(map(int, spot)) for spot in zip(*brightest, strict=True)} == {
            (10, 30),
            (33, 7),
        }


# --- the puppet ---


def test_the_left_side_is_right_in_the_image_from_the_front_and_left_from_behind():
    front = make_figure(UPRIGHT, Build(), PLAIN).joints
    back = make_figure(replace(UPRIGHT, yaw=np.pi), Build(), PLAIN).joints
    for joint in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        assert front[f"left_{joint}"][0] > 0 > front[f"right_{joint}"][0]
        assert back[f"left_{joint}"][0] < 0 < back[f"right_{joint}"][0]


def test_anatomy_of_a_standing_person():
    figure = make_figure(UPRIGHT, Build(), PLAIN)
    down = [
        figure.joints[f"left_{joint}"][1]
        for joint in ("eye", "shoulder", "elbow", "wrist", "knee", "ankle")
    ]
    assert down == sorted(down)
    assert figure.joints["left_shoulder"][0] > 1.3 * figure.joints["left_hip"][0]
    left, top, right, bottom = figure.box
    assert 0.9 < bottom - top < 1.1
    assert right - left < 0.6 * (bottom - top)


def test_segments_never_appear_longer_than_they_are():
    rng = np.random.default_rng(3)
    for _ in range(50):
        build = draw_build(rng)
        joints = make_figure(draw_pose(rng), build, PLAIN).joints
        assert np.linalg.norm(joints["left_elbow"] - joints["left_wrist"]) <= build.forearm + 1e-9
        assert np.linalg.norm(joints["right_hip"] - joints["right_knee"]) <= build.thigh + 1e-9
        assert (
            np.linalg.norm(joints["right_shoulder"] - joints["left_shoulder"])
            <= 2 * build.shoulders + 1e-9
        )


def test_a_mirrored_pose_gives_the_mirrored_figure():
    rng = np.random.default_rng(4)
    for _ in range(20):
        pose, build = draw_pose(rng), draw_build(rng)
        mirrored_pose = make_figure(pose.mirrored(), build, PLAIN).joints
        mirrored_figure = make_figure(pose, build, PLAIN).mirrored(width=1).joints
        for name in CARRIERS:
            np.testing.assert_allclose(mirrored_pose[name], mirrored_figure[name], atol=1e-9)


def test_raised_bent_and_seated_poses_move_the_joints_they_should():
    plain = make_figure(UPRIGHT, Build(), PLAIN).joints
    raised = make_figure(replace(UPRIGHT, left_arm=Limb(2.6, 0.0, 2.9, 0.0)), Build(), PLAIN).joints
    assert raised["left_wrist"][1] < plain["nose"][1] < plain["left_wrist"][1]
    assert np.array_equal(raised["right_wrist"], plain["right_wrist"])
    seated = make_figure(replace(UPRIGHT, left_leg=Limb(0.1, 1.3, 0.0, 0.0)), Build(), PLAIN).joints
    assert seated["left_knee"][1] - seated["left_hip"][1] < 0.4 * (
        plain["left_knee"][1] - plain["left_hip"][1]
    )
    bent = make_figure(replace(UPRIGHT, bend=1.0), Build(), PLAIN).joints
    assert bent["nose"][1] > plain["nose"][1] + 0.1
    to_the_right = replace(UPRIGHT, yaw=1.0)
    upright, bent = (
        make_figure(replace(to_the_right, bend=bend), Build(), PLAIN).joints for bend in (0.0, 1.0)
    )
    assert bent["nose"][0] > upright["nose"][0] + 0.1
    rolled = make_figure(replace(UPRIGHT, roll=np.pi / 2), Build(), PLAIN).joints
    # A quarter turn clockwise lays the head to the right.
    np.testing.assert_allclose(rolled["nose"], [-plain["nose"][1], plain["nose"][0]], atol=1e-9)


def test_eyes_and_hands_are_painted_where_the_joints_are():
    canvas = Canvas(np.full((241, 161, 3), 128, np.uint8))
    outfit = replace(PLAIN, sleeves="none", hair_style="bald", skin=(0.0, 220.0, 0.0))
    figure = make_figure(UPRIGHT, Build(), outfit).placed(220.0, np.array([80.3, 120.6]))
    canvas.paint(figure.shapes, layer=1)
    image = canvas.image().astype(int)
    dark = np.argwhere(image.max(axis=-1) < 60)[:, ::-1]
    white = np.argwhere(image.min(axis=-1) > 200)[:, ::-1]
    for side in ("left", "right"):
        eye = figure.joints[f"{side}_eye"]
        pupil = dark[np.abs(dark - eye).max(axis=1) < 4]
        assert np.abs(pupil.mean(axis=0) - eye).max() < 0.5
        around = np.concatenate([pupil, white[np.abs(white - eye).max(axis=1) < 6]])
        assert np.abs(around.mean(axis=0) - eye).max() < 0.5
        column, row = np.round(figure.joints[f"{side}_wrist"]).astype(int)
        assert image[row, column].tolist() == [0, 220, 0]


def test_every_joint_of_a_spread_out_person_is_on_a_part_that_carries_it():
    canvas = Canvas(np.zeros((301, 301, 3), np.uint8))
    pose = replace(UPRIGHT, left_arm=Limb(1.3, 0.0, 1.6, 0.0), right_arm=Limb(1.5, 0.0, 1.2, 0.0))
    figure = make_figure(pose, Build(), replace(PLAIN, hair_style="bald")).placed(
        250.0, np.array([150.0, 150.0])
    )
    canvas.paint(figure.shapes, layer=5)
    for name, joint in figure.joints.items():
        layers, parts = canvas.surface_at(joint[None])
        assert layers[0] == 5, name
        assert BODY_PARTS[parts[0]] in CARRIERS[name], name


def test_figures_vary():
    rng = np.random.default_rng(0)
    wrists = np.array([draw_figure(rng).joints["left_wrist"] for _ in range(100)])
    assert (wrists.std(axis=0) > 0.1).all()
    assert len({draw_outfit(rng).hair_style for _ in range(100)}) == 5


# --- scenes ---


def test_a_scene_is_a_function_of_its_generator():
    first, again, other = (draw_scene(97, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert first.annotations == again.annotations
    assert not np.array_equal(first.image, other.image)


def test_image_and_annotations_have_the_size_asked_for():
    scene = draw_scene(
        (97, 161), np.random.default_rng(0), options=SceneOptions(people=(2, 2), empty=0.0)
    )
    assert scene.image.shape == (97, 161, 3)
    assert scene.image.dtype == np.uint8
    assert people_of(scene)
    assert all(annotation["segmentation"]["size"] == [97, 161] for annotation in scene.annotations)


def test_masks_are_disjoint_and_agree_with_area_box_and_count():
    crowds = 0
    for scene in scenes_of(25, empty=0.0, crowd=0.5, unannotated=0.3, people=(2, 4)):
        masks = [decode_mask(annotation["segmentation"]) for annotation in scene.annotations]
        assert np.sum(masks, axis=0).max() <= 1
        for annotation, mask in zip(scene.annotations, masks, strict=True):
            rows, columns = np.nonzero(mask)
            assert annotation["area"] == len(rows) > 0
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == pytest.approx(box)
            keypoints = keypoints_of(annotation)
            assert annotation["num_keypoints"] == (keypoints[:, 2] > 0).sum()
            assert (keypoints[keypoints[:, 2] == 0] == 0).all()
            crowds += annotation["iscrowd"]
    assert crowds > 3


def test_visible_joints_lie_on_the_own_mask_and_joints_hidden_by_others_do_not():
    visible, hidden_by_others, hidden_by_oneself = [], 0, 0
    for scene in scenes_of(40, size=193, people=(2, 3), occluders=1.0, empty=0.0):
        masks = [decode_mask(annotation["segmentation"]) for annotation in scene.annotations]
        for annotation, mask in zip(scene.annotations, masks, strict=True):
            near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
            for x, y, v in keypoints_of(annotation):
                row, column = round(y), round(x)
                if v == 2:
                    visible.append(near[row, column])
                elif v == 1:
                    hidden_by_others += not near[row, column]
                    hidden_by_oneself += bool(mask[row, column])
    assert np.mean(visible) == 1.0
    assert hidden_by_others > 20
    assert hidden_by_oneself > 20


def test_a_joint_behind_another_person_is_hidden_and_keeps_its_place():
    options = SceneOptions(people=(2, 3), fully_labelled=True, occluders=0.0)
    covered = 0
    for i in range(30):
        scene = draw_scene(193, np.random.default_rng([8, i]), options=options)
        for annotation in scene.annotations:
            for other in scene.annotations:
                if other is annotation:
                    continue
                inner = cv2.erode(
                    decode_mask(other["segmentation"]).astype(np.uint8), np.ones((3, 3), np.uint8)
                )
                for x, y, v in keypoints_of(annotation):
                    if inner[round(y), round(x)]:
                        assert v == 1
                        covered += 1
    assert covered > 10


def test_crowds_unannotated_and_cut_people_occur_as_often_as_asked():
    scenes = list(scenes_of(60, crowd=0.5, unannotated=0.5, cut=0.5, empty=0.2, people=(1, 2)))
    crowds = [
        annotation for scene in scenes for annotation in scene.annotations if annotation["iscrowd"]
    ]
    people = [annotation for scene in scenes for annotation in people_of(scene)]
    unannotated = [annotation for annotation in people if annotation["num_keypoints"] == 0]
    cut = [annotation for annotation in people if 0 < annotation["num_keypoints"] < 17]
    assert 10 < len(crowds) < 45
    assert 10 < len(unannotated) < 45
    assert len(cut) > 10
    assert 2 < sum(not scene.annotations for scene in scenes) < 30
    assert all(annotation["num_keypoints"] == 0 for annotation in crowds)
    for scene in scenes_of(20, crowd=0.0, unannotated=0.0, cut=0.0, empty=0.0):
        assert scene.annotations
        assert all(a["num_keypoints"] == 17 and not a["iscrowd"] for a in scene.annotations)


def test_fully_labelled_overrides_every_probability():
    for scene in scenes_of(
        20, fully_labelled=True, crowd=1.0, unannotated=1.0, cut=1.0, empty=1.0, people=(1, 3)
    ):
        assert scene.annotations
        for annotation in scene.annotations:
            assert annotation["iscrowd"] == 0
            assert annotation["num_keypoints"] == 17


def test_isolated_people_do_not_touch():
    several = 0
    for scene in scenes_of(
        30, size=193, isolated=True, fully_labelled=True, people=(2, 3), height=(0.3, 0.5)
    ):
        boxes = [np.array(annotation["bbox"]) for annotation in scene.annotations]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                several += 1
                overlap = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
                assert (overlap <= 0).any()
    assert several > 20


def test_upright_people_whose_face_is_seen_have_their_left_on_the_right():
    facing = away = 0
    for scene in scenes_of(60, size=161, fully_labelled=True, people=(1, 2)):
        for annotation in people_of(scene):
            trunk = point(annotation, "left_hip") + point(annotation, "right_hip")
            trunk = trunk - point(annotation, "left_shoulder") - point(annotation, "right_shoulder")
            if trunk[1] < 1.5 * abs(trunk[0]) or trunk[1] < 0.3 * annotation["bbox"][3]:
                continue
            left_is_right = (
                point(annotation, "left_shoulder")[0] > point(annotation, "right_shoulder")[0]
            )
            if seen(annotation, "nose", "left_eye", "right_eye"):
                assert left_is_right
                facing += 1
            elif not (
                seen(annotation, "nose")
                or seen(annotation, "left_eye")
                or seen(annotation, "right_eye")
            ):
                away += not left_is_right
    assert facing > 15
    assert away > 5


def test_a_skeleton_chooses_and_orders_the_keypoints():
    keep = ("right_wrist", "nose", "left_wrist")
    small = replace(
        COCO_PERSON,
        keypoints=keep, edges=(("nose", "left_wrist"), ("nose", "right_wrist")),
        sigmas=(0.1, 0.1, 0.1), flip_pairs=(("left_wrist", "right_wrist"),),
    )  # fmt: skip
    options = SceneOptions(people=(1, 1), fully_labelled=True)
    whole, part = (
        draw_scene(97, np.random.default_rng(5), skeleton, options)
        for skeleton in (COCO_PERSON, small)
    )
    expected = keypoints_of(whole.annotations[0])[[COCO_PERSON.index(name) for name in keep]]
    np.testing.assert_array_equal(keypoints_of(part.annotations[0]), expected)


def test_invalid_scenes_are_refused_with_the_rule():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="at least 33 pixels"):
        draw_scene(16, rng)
    with pytest.raises(InputError, match=r"no joints \['tail'\]"):
        draw_scene(
            97,
            rng,
            replace(
                COCO_PERSON,
                keypoints=("nose", "tail"),
                edges=(("nose", "tail"),),
                sigmas=(1.0, 1.0),
                flip_pairs=(),
            ),
        )
    with pytest.raises(InputError, match="`people`"):
        SceneOptions(people=(3, 1))
    with pytest.raises(InputError, match="`people` must be at most 14"):
        SceneOptions(people=(1, 15))
    with pytest.raises(InputError, match="`cut` must be a probability"):
        SceneOptions(cut=1.5)


# --- files ---


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    counts = []
    files = write_dataset(folder, scenes=12, size=97, seed=3, workers=1, progress=counts.append)
    return files, counts


def test_pycocotools_loads_what_was_written(written):
    files, counts = written
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(files.annotations))
    assert counts == list(range(1, 13))
    assert sorted(coco.imgs) == counts
    assert files.people == len(coco.getAnnIds(iscrowd=False)) > 5
    assert coco.cats[1]["keypoints"] == list(COCO_PERSON.keypoints)
    # Nose to left eye, counted from one.
    assert [1, 2] in coco.cats[1]["skeleton"]
    assert np.array(coco.cats[1]["skeleton"]).min() == 1
    for annotation in coco.anns.values():
        assert coco.annToMask(annotation).sum() == annotation["area"]
        assert annotation["image_id"] in coco.imgs


def test_written_images_show_the_scenes(written):
    files, _ = written
    document = json.loads(files.annotations.read_text())
    differences, swapped = [], []
    for entry in document["images"]:
        image = cv2.imread(str(files.images / entry["file_name"]))[..., ::-1]
        scene = draw_scene(97, np.random.default_rng([3, entry["id"]]))
        assert image.shape == (entry["height"], entry["width"], 3)
        found = [
            annotation
            for annotation in document["annotations"]
            if annotation["image_id"] == entry["id"]
        ]
        assert [annotation["keypoints"] for annotation in found] == [
            annotation["keypoints"] for annotation in scene.annotations
        ]
        # JPEG halves the resolution of colour: compare what it keeps.
        read, drawn = (
            cv2.resize(picture, (24, 24), interpolation=cv2.INTER_AREA).astype(int)
            for picture in (image, scene.image)
        )
        differences.append(np.abs(read - drawn).mean())
        swapped.append(np.abs(read[..., ::-1] - drawn).mean())
    assert max(differences) < 4
    assert np.mean(swapped) > 10


def test_neither_the_workers_nor_the_count_change_a_scene(written, tmp_path):
    files, _ = written
    more = write_dataset(tmp_path, scenes=14, size=97, seed=3, workers=2)
    first, second = (
        json.loads(written_files.annotations.read_text()) for written_files in (files, more)
    )
    assert second["annotations"][: len(first["annotations"])] == first["annotations"]
    for file in files.images.iterdir():
        assert file.read_bytes() == (more.images / file.name).read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_a_data_set_is_never_overwritten(written):
    files, _ = written
    before = files.annotations.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write_dataset(files.annotations.parent, scenes=1, size=97)
    assert files.annotations.read_bytes() == before


def test_the_seed_matters(written, tmp_path):
    files, _ = written
    other = write_dataset(tmp_path, scenes=1, size=97, seed=4, workers=1)
    assert (other.images / "000001.jpg").read_bytes() != (files.images / "000001.jpg").read_bytes()


def test_write_dataset_refuses_impossible_counts(tmp_path):
    with pytest.raises(InputError, match="`scenes` must be at least 1"):
        write_dataset(tmp_path, scenes=0)

import re

import numpy as np
import pytest

from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton, load_skeleton, skeleton_to_yaml


def test_coco_numbers_known_by_heart():
    assert COCO_PERSON.keypoint_count == 17
    assert COCO_PERSON.directed_edge_count == 32
    # Edge ids of the authors' released networks: parent and child of each.
    released = "0-1 1-3 0-2 2-4 0-5 5-7 7-9 5-11 11-13 13-15 0-6 6-8 8-10 6-12 12-14 14-16"
    assert " ".join(f"{a}-{b}" for a, b in COCO_PERSON.edge_indices[:16]) == released
    assert COCO_PERSON.edge_indices[16:].tolist() == COCO_PERSON.edge_indices[:16, ::-1].tolist()


def test_sigmas_and_kappas_are_those_of_pycocotools():
    from pycocotools.cocoeval import Params

    np.testing.assert_allclose(COCO_PERSON.sigmas, Params("keypoints").kpt_oks_sigmas)
    # COCOeval.computeOks: vars = (sigmas * 2)**2
    np.testing.assert_allclose(COCO_PERSON.kappas**2, (Params("keypoints").kpt_oks_sigmas * 2) ** 2)


def test_flip_orders_are_involutions_that_agree_with_each_other():
    flip, edge_flip = COCO_PERSON.flip_order, COCO_PERSON.edge_flip_order
    assert flip[flip].tolist() == list(range(17))
    assert edge_flip[edge_flip].tolist() == list(range(32))
    assert flip[COCO_PERSON.index("left_wrist")] == COCO_PERSON.index("right_wrist")
    np.testing.assert_array_equal(
        flip[COCO_PERSON.edge_indices], COCO_PERSON.edge_indices[edge_flip]
    )


def test_dict_round_trip():
    assert Skeleton.from_dict(COCO_PERSON.to_dict()) == COCO_PERSON


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keypoints": ("a", "a", "c")}, "distinct"),
        ({"sigmas": (0.1,)}, "3 values"),
        ({"edges": (("a", "b"), ("b", "d"))}, "pair names"),
        ({"edges": (("a", "b"), ("b", "a"))}, "one tree"),
        ({"edges": (("a", "b"),)}, "one tree"),
        ({"flip_pairs": (("a", "b"), ("b", "c"))}, "at most once"),
    ],
)
def test_impossible_skeletons_are_refused(changes, words):
    values = {
        "name": "s", "keypoints": ("a", "b", "c"), "edges": (("a", "b"), ("b", "c")), "sigmas": (0.1,) * 3, "flip_pairs": (),
    }  # fmt: skip
    Skeleton(**values)
    with pytest.raises(ValueError, match=words):
        Skeleton(**{**values, **changes})


def test_an_edge_without_mirror_image_is_named():
    lopsided = Skeleton("s", ("l", "r", "m"), (("l", "m"), ("l", "r")), (0.1,) * 3, (("l", "r"),))
    with pytest.raises(ValueError, match=r"'r', 'm'"):
        _ = lopsided.edge_flip_order


BEETLE = """
name: beetle
keypoints: [head, left_wing, right_wing, tail]
edges: [[head, left_wing], [head, right_wing], [head, tail]]
sigmas: [0.05, 0.08, 0.08, 1]
flip_pairs: [[left_wing, right_wing]]
"""


def test_a_skeleton_comes_from_a_file_and_goes_back(tmp_path):
    (tmp_path / "beetle.yaml").write_text(BEETLE)
    beetle = load_skeleton(tmp_path / "beetle.yaml")
    assert beetle.keypoints == ("head", "left_wing", "right_wing", "tail")
    assert beetle.sigmas == (0.05, 0.08, 0.08, 1.0)
    assert beetle.flip_order.tolist() == [0, 2, 1, 3]
    (tmp_path / "again.yaml").write_text(skeleton_to_yaml(beetle))
    assert load_skeleton(tmp_path / "again.yaml") == beetle


def test_shipped_skeletons():
    assert load_skeleton("coco_person") == COCO_PERSON
    crowdpose, mpii = load_skeleton("crowdpose"), load_skeleton("mpii.yaml")
    feet = load_skeleton("coco_body_feet")
    assert [other.keypoint_count for other in (crowdpose, mpii, feet)] == [14, 16, 23]
    for other in (crowdpose, mpii, feet):
        for name in set(other.keypoints) & set(COCO_PERSON.keypoints):
            assert other.sigmas[other.index(name)] == COCO_PERSON.sigmas[COCO_PERSON.index(name)]


def test_published_sigmas_of_other_data_sets():
    # CrowdPose's evaluation divides these by 10; COCO-WholeBody's lists the six of the feet.
    crowdpose = [0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79]
    np.testing.assert_allclose(load_skeleton("crowdpose").sigmas, np.array(crowdpose) / 10)
    feet = load_skeleton("coco_body_feet")
    assert feet.keypoints[:17] == COCO_PERSON.keypoints
    assert feet.sigmas[:17] == COCO_PERSON.sigmas
    assert feet.sigmas[17:] == (0.068, 0.066, 0.066, 0.092, 0.094, 0.094)


@pytest.mark.parametrize("name", ["crowdpose", "mpii", "coco_body_feet", "coco_person"])
def test_mirroring_exchanges_left_and_right(name):
    skeleton = load_skeleton(name)
    for keypoint, mirrored in enumerate(skeleton.flip_order):
        here, there = skeleton.keypoints[keypoint], skeleton.keypoints[mirrored]
        side, _, joint = there.partition("_")
        opposite = {"left": "right_" + joint, "right": "left_" + joint}
        assert here == opposite.get(side, there)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: beetle", "name: 7", "name must be a text. Received: 7"),
        (
            "name: beetle",
            "",
            "must hold name, keypoints, edges, sigmas, flip_pairs. Received: ['edges', 'flip_pairs'",
        ),
        ("name: beetle", "name: beetle\nlegs: 6", "must hold name, keypoints"),
        (
            "[head, left_wing, right_wing, tail]",
            "head",
            "keypoints must be a list of names. Received: 'head'",
        ),
        ("[head, left_wing, right_wing, tail]", "[head, 3]", "keypoints must be a list of names"),
        ("[head, left_wing, right_wing, tail]", "[head]", "`keypoints` must be at least two names"),
        ("[head, left_wing, right_wing, tail]", "[head, head, left_wing, tail]", "distinct names"),
        ("[head, tail]]", "[left_wing, right_wing]]", "`edges` must form one tree"),
        (
            "[head, tail]]",
            "[head, horn]]",
            "must pair names of `keypoints`. Received: ('head', 'horn')",
        ),
        ("[head, tail]]", "[head, tail, head]]", "too many values"),
        ("[head, tail]]", "head]", "every pair of edges must be a list of names. Received: 'head'"),
        (
            "[[head, left_wing], [head, right_wing], [head, tail]]",
            "tree",
            "edges must be a list of pairs of names. Received: 'tree'",
        ),
        (
            "[head, right_wing], [head, tail]",
            "[left_wing, right_wing], [right_wing, tail]",
            "must stay edges when mirrored",
        ),
        ("[0.05, 0.08, 0.08, 1]", "[0.05, 0.08, 0.08]", "`sigmas` must hold 4 values"),
        ("[0.05, 0.08, 0.08, 1]", "[0.05, 0.08, 0, 1]", "`sigmas` must be above 0"),
        ("[0.05, 0.08, 0.08, 1]", "[0.05, 0.08, .nan, 1]", "`sigmas` must be above 0"),
        ("[0.05, 0.08, 0.08, 1]", "[0.05, 0.08, '0.08', 1]", "sigmas must be a list of numbers"),
        (
            "[[left_wing, right_wing]]",
            "[[left_wing, right_wing], [right_wing, tail]]",
            "each keypoint at most once",
        ),
        ("name: beetle", "name: [", "not valid YAML"),
        ("name: beetle", "name: \x00", "not valid YAML"),
    ],
)
def test_bad_skeleton_files_get_one_line(tmp_path, old, new, words):
    path = tmp_path / "skeleton.yaml"
    assert old in BEETLE
    path.write_text(BEETLE.replace(old, new))
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        load_skeleton(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_skeleton_files_that_are_not_there(tmp_path):
    with pytest.raises(
        InputError,
        match="no such skeleton file, and none shipped of that name. Shipped: coco_body_feet, coco_person, crowdpose",
    ):
        load_skeleton(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[]")
    with pytest.raises(InputError, match="must hold name, .* Received: list"):
        load_skeleton(tmp_path / "list.yaml")

import numpy as np
import pytest

from personlab_keras.skeleton import COCO_PERSON, Skeleton


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
    np.testing.assert_array_equal(flip[COCO_PERSON.edge_indices], COCO_PERSON.edge_indices[edge_flip])


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

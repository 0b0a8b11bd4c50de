"""COCO metrics: against cases worked by hand, real annotations, and pycocotools' own summary."""

import contextlib
import copy
import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from personlab_keras.errors import InputError
from personlab_keras.evaluation import evaluate, evaluate_results, summarize_timings
from personlab_keras.method.person import Person, encode_mask
from personlab_keras.method.skeleton import COCO_PERSON

SHARED = Path(os.environ.get("PERSONLAB_SHARED", Path(__file__).parents[2] / ".." / "shared"))
SAMPLE = SHARED / "data" / "coco-sample" / "annotations" / "person_keypoints_train2017.json"
needs_sample = pytest.mark.skipif(
    not SAMPLE.is_file(), reason=f"the COCO sample is absent: {SAMPLE} (set PERSONLAB_SHARED)"
)

HEIGHT, WIDTH = 240, 320


def square(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def person_at(x: int, y: int, side: int = 100, score: float = 0.9) -> Person:
    """A square person whose keypoints lie on its diagonal."""
    points = np.array([x, y]) + np.linspace(0.1, 0.9, COCO_PERSON.keypoint_count)[:, None] * side
    return Person(points, np.full(len(points), 0.8), score, encode_mask(square(x, y, side)))


def annotations_of(people: dict[int, list[Person]]) -> dict:
    """A COCO file with those people on images of those ids."""
    entries = []
    for image_id, members in people.items():
        for person in members:
            points = np.concatenate(
                [person.keypoints, np.full((COCO_PERSON.keypoint_count, 1), 2)], axis=1
            )
            x, y, w, h = person.box
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": float(person.mask.sum()),
                    "bbox": [x + 0.5, y + 0.5, w, h],
                    "keypoints": points.reshape(-1).tolist(),
                    "num_keypoints": COCO_PERSON.keypoint_count,
                    "segmentation": encode_mask(person.mask),
                }
            )
    images = [
        {"id": image_id, "file_name": f"{image_id}.png", "height": HEIGHT, "width": WIDTH}
        for image_id in people
    ]
    return {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "person"}]}


def results_of(people: dict[int, list[Person]]) -> tuple[list[dict], list[dict]]:
    entries = [
        entry
        for image_id, members in people.items()
        for person in members
        for entry in person.to_coco(image_id)
    ]
    return [e for e in entries if "keypoints" in e], [e for e in entries if "segmentation" in e]


def measure(truth: dict[int, list[Person]], found: dict[int, list[Person]], **options) -> dict:
    return evaluate_results(annotations_of(truth), *results_of(found), **options)


TRUTH = {1: [person_at(20, 30)], 2: [person_at(150, 100)]}


def test_finding_everybody_scores_one():
    metrics = measure(TRUTH, TRUTH)
    assert metrics["keypoints"] == {
        **dict.fromkeys(
            ("AP", "AP50", "AP75", "APl", "AR", "AR50", "AR75", "ARl"), pytest.approx(1.0)
        ),
        # Squares of 100 x 100 pixels are large: nobody is of medium size.
        **dict.fromkeys(("APm", "ARm"), None),
        "max_detections": 20,
    }
    assert metrics["segmentation"] == {
        **dict.fromkeys(
            ("AP", "AP50", "AP75", "APl", "AR", "AR50", "AR75", "ARl"), pytest.approx(1.0)
        ),
        **dict.fromkeys(("APs", "APm", "ARs", "ARm"), None),
        "max_detections": 100,
    }


def test_a_false_one_before_a_true_one_and_one_missed():
    found = {1: [person_at(200, 10, score=0.95), person_at(20, 30, score=0.9)]}
    metrics = measure(TRUTH, found)
    # At rank 2: one of two right, one of two found. Precision 1/2 up to recall 1/2, 51 of COCO's
    # 101 recall steps, then 0.
    for kind in ("keypoints", "segmentation"):
        assert metrics[kind]["AP"] == pytest.approx(0.5 * 51 / 101)
        assert metrics[kind]["AR"] == pytest.approx(0.5)


def test_a_better_scored_duplicate_costs_precision():
    twice = {
        1: [person_at(20, 30, score=0.8), person_at(20, 30, score=0.9)],
        2: [person_at(150, 100, score=0.5)],
    }
    metrics = measure(TRUTH, twice)
    # True, duplicate, true: precision 1 up to recall 1/2, then 2/3 for the other 50 steps.
    for kind in ("keypoints", "segmentation"):
        assert metrics[kind]["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
        assert metrics[kind]["AR"] == pytest.approx(1.0)


def test_copies_are_counted_by_masks_above_the_threshold():
    one = person_at(0, 0)
    overlap_81, overlap_67 = (person_at(x, 0, score=0.8) for x in (10, 20))  # 90/110, 80/120
    faint = person_at(0, 0, score=0.29)
    metrics = measure({1: [one], 2: [one]}, {1: [one, overlap_81, overlap_67, faint], 2: [one]})
    assert metrics["copies"] == {
        "people": 4,
        "copies": 2,  # the third overlaps the second by 90/110
        "score_threshold": 0.3,
        "mask_iou": 0.8,
    }
    assert measure({1: [one], 2: [one]}, {2: [one, one]}, image_ids=[1])["copies"]["people"] == 0


def test_a_mask_of_known_overlap_passes_the_thresholds_below_it():
    # 100 x 100 against the same shifted by 20: 8000 of 12000 pixels, IoU 2/3: right at .50, .55,
    # .60, .65 of ten thresholds.
    shifted = {1: [person_at(40, 30)], 2: [person_at(170, 100)]}
    metrics = measure(TRUTH, shifted)["segmentation"]
    assert metrics["AP"] == pytest.approx(0.4)
    assert (metrics["AP50"], metrics["AP75"]) == (pytest.approx(1.0), 0.0)


def test_keypoints_of_known_similarity_pass_the_thresholds_below_it():
    # OKS = mean over keypoints of exp(-d^2 / (2 area kappa^2)) with area 10^4.
    distance = 12.0
    similarity = np.exp(-(distance**2) / (2 * 1e4 * COCO_PERSON.kappas**2)).mean()
    passed = sum(similarity >= threshold for threshold in np.linspace(0.5, 0.95, 10))
    assert 0 < passed < 10
    moved = [
        person.transformed(np.array([[1, 0, distance], [0, 1, 0]])) for (person,) in TRUTH.values()
    ]
    metrics = measure(TRUTH, {1: moved[:1], 2: moved[1:]})
    assert metrics["keypoints"]["AP"] == pytest.approx(passed / 10)


def test_no_results_score_zero():
    metrics = evaluate_results(annotations_of(TRUTH), [], [])
    for kind in ("keypoints", "segmentation"):
        assert {metrics[kind][figure] for figure in ("AP", "AP50", "AP75", "AR")} == {0.0}


def test_nobody_annotated_is_undefined():
    metrics = evaluate_results(annotations_of({1: [], 2: []}), *results_of(TRUTH))
    assert metrics["keypoints"]["AP"] is None
    assert metrics["segmentation"]["AP"] is None
    json.dumps(metrics, allow_nan=False)


def test_masks_are_left_out_without_results_or_without_annotated_masks():
    keypoints, masks = results_of(TRUTH)
    assert evaluate_results(annotations_of(TRUTH), keypoints)["segmentation"] is None
    bare = annotations_of(TRUTH)
    for entry in bare["annotations"]:
        del entry["segmentation"]
    metrics = evaluate_results(bare, keypoints, masks)
    assert metrics["segmentation"] is None
    assert metrics["keypoints"]["AP"] == pytest.approx(1.0)


def test_only_the_chosen_images_count():
    found = {1: TRUTH[1]}
    assert measure(TRUTH, found)["keypoints"]["AR"] == pytest.approx(0.5)
    assert measure(TRUTH, found, image_ids=[1])["keypoints"]["AR"] == pytest.approx(1.0)


def test_the_number_of_masks_counted_is_a_setting():
    crowd = [person_at(5 + 30 * i, 20 + 15 * i, side=25, score=0.9 - 0.1 * i) for i in range(4)]
    truth = {1: crowd}
    assert measure(truth, truth)["segmentation"]["AR"] == pytest.approx(1.0)
    metrics = measure(truth, truth, max_detections=1)["segmentation"]
    assert (metrics["AR"], metrics["max_detections"]) == (pytest.approx(0.25), 1)


def test_a_detection_is_sized_by_its_mask_not_its_box():
    # A false mask of 50 x 50 (medium) must not count among the large persons, whatever its box
    # says.
    found = {
        1: [person_at(20, 30, score=0.5), person_at(200, 20, side=50, score=0.9)],
        2: [person_at(150, 100, score=0.5)],
    }
    keypoints, masks = results_of(found)
    for entry in masks:
        entry["bbox"] = [0, 0, WIDTH, HEIGHT]
    metrics = evaluate_results(annotations_of(TRUTH), keypoints, masks)["segmentation"]
    assert metrics["APl"] == pytest.approx(1.0)
    assert metrics["AP"] < 1.0


def test_persons_without_keypoints_count_for_masks_only():
    truth = annotations_of(TRUTH)
    truth["annotations"][1].update(keypoints=[0] * 51, num_keypoints=0)
    metrics = evaluate_results(truth, *results_of({1: TRUTH[1]}))
    assert metrics["keypoints"]["AP"] == pytest.approx(1.0)
    assert metrics["segmentation"]["AR"] == pytest.approx(0.5)


def test_other_categories_are_nobody():
    truth = annotations_of(TRUTH)
    truth["categories"].append({"id": 18, "name": "dog"})
    dog = {
        "id": 99,
        "image_id": 1,
        "category_id": 18,
        "area": 10000.0,
        "bbox": [200, 20, 100, 100],
        "iscrowd": 0,
    }
    truth["annotations"].append({**dog, "segmentation": encode_mask(square(200, 20, 100))})
    metrics = evaluate_results(truth, *results_of(TRUTH))
    assert metrics["segmentation"]["AR"] == pytest.approx(1.0)


def test_nothing_is_printed_or_modified(capsys):
    truth, (keypoints, masks) = annotations_of(TRUTH), results_of(TRUTH)
    before = copy.deepcopy((truth, keypoints, masks))
    evaluate_results(truth, keypoints, masks)
    assert (truth, keypoints, masks) == before
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def sample() -> tuple[dict, list[dict], list[dict]]:
    """The real annotations, and results that repeat them."""
    truth = json.loads(SAMPLE.read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(SAMPLE))
    keypoints, masks = [], []
    for entry in truth["annotations"]:
        if entry["iscrowd"]:
            continue
        common = {"image_id": entry["image_id"], "category_id": 1, "score": 0.9}
        masks.append({**common, "segmentation": encode_mask(coco.annToMask(entry).astype(bool))})
        if entry["num_keypoints"]:
            keypoints.append({**common, "keypoints": entry["keypoints"]})
    return truth, keypoints, masks


def disturbed(keypoints: list[dict], masks: list[dict]) -> tuple[list[dict], list[dict]]:
    """Every result moved by a few random pixels and scored at random, a third of them dropped."""
    random = np.random.default_rng(0)

    def moved(entry: dict) -> dict:
        points = np.array(entry["keypoints"], float).reshape(-1, 3)
        points[:, :2] += random.normal(0, 4, (len(points), 2))
        return {**entry, "keypoints": points.reshape(-1).tolist(), "score": float(random.random())}

    kept = [moved(entry) for entry in keypoints if random.random() > 0.3]
    scored = [
        {**entry, "score": float(random.random())} for entry in masks if random.random() > 0.3
    ]
    return kept, scored


@needs_sample
def test_real_annotations_against_themselves_score_one(sample):
    truth, keypoints, masks = sample
    metrics = evaluate_results(truth, keypoints, masks)
    for kind in ("keypoints", "segmentation"):
        assert metrics[kind]["AP"] == pytest.approx(1.0)
        assert metrics[kind]["AR"] == pytest.approx(1.0)
        assert metrics[kind]["APm"] == pytest.approx(1.0)
        assert metrics[kind]["APl"] == pytest.approx(1.0)


@needs_sample
def test_shifts_and_duplicates_of_real_annotations_score_less(sample):
    truth, keypoints, masks = sample

    def shifted(entry: dict) -> dict:
        points = np.array(entry["keypoints"], float).reshape(-1, 3) + (5, 0, 0)
        return {**entry, "keypoints": points.reshape(-1).tolist()}

    assert (
        evaluate_results(truth, [shifted(entry) for entry in keypoints])["keypoints"]["AP"] < 0.95
    )
    # Duplicates of the first half come before everything else.
    double = [{**entry, "score": 0.95} for entry in masks[: len(masks) // 2]] + masks
    assert evaluate_results(truth, keypoints, double)["segmentation"]["AP"] < 0.95


@needs_sample
def test_figures_equal_those_that_pycocotools_prints(sample):
    truth, keypoints, masks = sample
    found = disturbed(keypoints, masks)
    metrics = evaluate_results(truth, *found)
    names = {
        "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
        "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl", None, None, "AR", "ARs", "ARm", "ARl"),
    }
    for (kind, figures), results in zip(names.items(), found, strict=True):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(SAMPLE))
            evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), kind)
            evaluation.params.catIds = [1]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        ours = metrics["segmentation" if kind == "segm" else kind]
        for figure, value in zip(figures, evaluation.stats, strict=True):
            if figure is not None:
                assert ours[figure] == pytest.approx(value), (kind, figure)
        assert 0.1 < ours["AP"] < 0.9


def break_(change) -> dict:
    truth = annotations_of(TRUTH)
    change(truth)
    return truth


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([1, 2], r"must hold a JSON object. Received: list"),
        (break_(lambda t: t.pop("images")), r"'images' must be a list with .* Received: nothing"),
        (break_(lambda t: t.update(images=[])), r"'images' must .* Received: an empty list"),
        (
            break_(lambda t: t.update(annotations={})),
            r"'annotations' must be a list. Received: dict",
        ),
        (
            break_(lambda t: t.update(categories=[{"id": 1, "name": "cat"}])),
            r"no category has the 17 keypoints of 'coco_person', in their order",
        ),
        (
            break_(lambda t: [e.update(keypoints=[0.5, 0.25, 2] * 17) for e in t["annotations"]]),
            r"coordinates must be in pixels. Received: all 34 labelled keypoints within 0..1",
        ),
    ],
)
def test_bad_annotations_are_named(tmp_path, truth, message):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(InputError, match=message) as caught:
        evaluate_results(path, *results_of(TRUTH))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["images"].append(t["images"][0]), r"images\[2\]\.id 1 \[image listed twice"),
        (lambda t: t["annotations"][1].pop("area"), r"annotations\[1\]\.area must be above 0"),
        (
            lambda t: t["annotations"][0].update(keypoints=[1, 2, 2]),
            r"annotations\[0\]\.keypoints must be 51 numbers. Received: 3 values",
        ),
        (
            lambda t: t["annotations"].insert(0, 5),
            r"annotations\[0\] must be an object. Received: int",
        ),
        (
            lambda t: t["annotations"][1].update(segmentation=[[1, 2]]),
            r"image 2, annotation 2: no polygon .* \[mask damaged",
        ),
    ],
)
def test_faults_are_counted_or_with_strict_the_end(dataset, tmp_path, change, message):
    annotations, images = dataset
    annotations.write_text(json.dumps(break_(change)))
    seen = []
    metrics = evaluate(clairvoyant, annotations, images, tmp_path / "out")
    for kind in ("keypoints", "segmentation"):
        assert metrics[kind]["AP"] == pytest.approx(1.0)
    assert sum(metrics["skipped"].values()) == 1
    with pytest.raises(InputError, match=message):
        evaluate(seen.append, annotations, images, tmp_path / "strict", strict=True)
    assert not seen  # said before the first image
    assert not (tmp_path / "strict").exists()


def test_files_that_are_no_json_are_named(tmp_path):
    path = tmp_path / "truth.json"
    for content in ("", "{", '{"images": [}'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"not valid JSON"):
            evaluate_results(path, [])
    with pytest.raises(InputError, match=r"gone\.json: no such file"):
        evaluate_results(tmp_path / "gone.json", [])


def test_results_and_ids_of_unknown_images_are_refused():
    with pytest.raises(InputError, match="Received: 7"):
        measure(TRUTH, {7: TRUTH[1]})
    with pytest.raises(InputError, match=r"`image_ids` .* Received: 9"):
        measure(TRUTH, TRUTH, image_ids=[1, 9])


@pytest.fixture
def dataset(tmp_path):
    """An annotation file and its images, each of one grey level that says who is on it."""
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(annotations_of(TRUTH)))
    for image_id in TRUTH:
        cv2.imwrite(
            str(tmp_path / f"{image_id}.png"), np.full((HEIGHT, WIDTH, 3), image_id, np.uint8)
        )
    return annotations, tmp_path


def clairvoyant(image: np.ndarray) -> list[Person]:
    return TRUTH[int(image[0, 0, 0])]


def test_evaluate_runs_over_all_images_and_writes_the_files(dataset, tmp_path):
    seen = []
    out = tmp_path / "deep" / "out"
    metrics = evaluate(
        clairvoyant, *dataset, out, progress=lambda done, total: seen.append((done, total))
    )
    assert metrics["images"] == 2
    assert metrics["keypoints"]["AP"] == pytest.approx(1.0)
    assert metrics["segmentation"]["AP"] == pytest.approx(1.0)
    assert {stage: set(values) for stage, values in metrics["timings_ms"].items()} == {
        "read": {"median", "p95"},
        "predict": {"median", "p95"},
    }
    assert seen == [(1, 2), (2, 2)]
    assert sorted(file.name for file in out.iterdir()) == [
        "keypoints_results.json",
        "metrics.json",
        "segm_results.json",
        "timings.json",
    ]
    # Times differ from run to run; metrics.json does not.
    timings = metrics.pop("timings_ms")
    assert json.loads((out / "timings.json").read_text()) == timings
    assert json.loads((out / "metrics.json").read_text()) == metrics
    # The files are COCO results: measuring them again gives the same.
    again = evaluate_results(
        dataset[0],
        *(json.loads((out / f"{kind}_results.json").read_text()) for kind in ("keypoints", "segm")),
    )
    assert again == {
        name: metrics[name]
        for name in ("keypoints", "segmentation", "copies", "persons", "unavailable")
    }


def test_a_predictor_tells_its_stages(dataset, tmp_path):
    class Slow:
        def timed(self, image):
            return clairvoyant(image), {"network": 0.25, "decode": 0.001 * int(image[0, 0, 0])}

    timings = evaluate(Slow(), *dataset, tmp_path / "out")["timings_ms"]
    assert timings["network"] == {"median": 250.0, "p95": 250.0}
    assert timings["decode"]["median"] == pytest.approx(1.5)
    assert set(timings) == {"read", "network", "decode"}


def test_a_limit_measures_the_first_images_only(dataset, tmp_path):
    metrics = evaluate(clairvoyant, *dataset, tmp_path / "out", limit=1)
    assert metrics["images"] == 1
    assert metrics["keypoints"]["AR"] == pytest.approx(1.0)
    assert {
        entry["image_id"]
        for entry in json.loads((tmp_path / "out" / "keypoints_results.json").read_text())
    } == {1}


def test_a_limit_of_no_images_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match="at least 1 image"):
        evaluate(clairvoyant, *dataset, tmp_path / "out", limit=0)


def test_finding_nobody_scores_zero_for_masks_too(dataset, tmp_path):
    metrics = evaluate(lambda image: [], *dataset, tmp_path / "out")
    assert (metrics["keypoints"]["AP"], metrics["segmentation"]["AP"]) == (0.0, 0.0)


def test_who_is_not_annotated_in_an_incomplete_image_is_not_judged(dataset, tmp_path):
    """A person that nobody annotated, surer than all others, costs precision in a complete image
    only. Annotated people count in both: missing them costs recall.
    """
    content = json.loads(dataset[0].read_text())
    stranger = person_at(200, 20, side=60, score=1.0)

    def ap(complete, predictor):
        content["images"][0]["complete"] = complete
        dataset[0].write_text(json.dumps(content))
        metrics = evaluate(predictor, *dataset, tmp_path / "out")
        reasons = {"image not annotated completely (only what is annotated counts)": 1}
        assert metrics["skipped"] == ({} if complete else reasons)
        return [metrics[kind]["AP"] for kind in ("keypoints", "segmentation")]

    def with_a_stranger(image):
        found = clairvoyant(image)
        return [stranger, *found] if image[0, 0, 0] == 1 else found

    def missing_one(image):
        return [] if image[0, 0, 0] == 1 else clairvoyant(image)

    assert max(ap(True, with_a_stranger)) < 0.9
    assert ap(False, with_a_stranger) == pytest.approx([1.0, 1.0])
    assert ap(False, missing_one) == pytest.approx(ap(True, missing_one))
    assert max(ap(False, missing_one)) < 0.9


def test_people_without_masks_leave_masks_out(dataset, tmp_path):
    same = np.array([[1.0, 0, 0], [0, 1, 0]])
    metrics = evaluate(
        lambda image: [person.transformed(same) for person in clairvoyant(image)],
        *dataset,
        tmp_path / "out",
    )
    assert metrics["keypoints"]["AP"] == pytest.approx(1.0)
    assert metrics["segmentation"] is None
    assert not (tmp_path / "out" / "segm_results.json").exists()


def test_pixels_are_taken_as_stored(dataset, tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 1, np.uint8)).save(tmp_path / "1.png", exif=exif)
    assert evaluate(clairvoyant, *dataset, tmp_path / "out")["keypoints"]["AP"] == pytest.approx(
        1.0
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "image missing"),
        (lambda path: path.write_bytes(b""), "image of zero bytes"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "image unreadable"),
        (
            lambda path: cv2.imwrite(str(path), np.full((HEIGHT, 10, 3), 2, np.uint8)),
            "image of another size than annotated",
        ),
    ],
)
def test_an_unusable_image_is_one_in_which_nobody_was_found(dataset, tmp_path, spoil, reason):
    spoil(tmp_path / "2.png")
    said = []
    metrics = evaluate(clairvoyant, *dataset, tmp_path / "out", say=said.append)
    assert metrics["images"] == 2
    assert metrics["skipped"] == {reason: 1}
    # One of two people found: precision 1 up to recall 1/2, 51 of COCO's 101 recall steps.
    for kind in ("keypoints", "segmentation"):
        assert metrics[kind]["AP"] == pytest.approx(51 / 101)
        assert metrics[kind]["AR"] == pytest.approx(0.5)
    assert [line for line in said if reason in line] == [
        f"  {reason}: 1, for example {metrics['examples'][reason][0]}"
    ]
    with pytest.raises(InputError, match=rf"\[{reason}\]"):
        evaluate(clairvoyant, *dataset, tmp_path / "strict", strict=True)


def test_a_folder_of_no_usable_image_is_refused(dataset, tmp_path):
    for image_id in TRUTH:
        (tmp_path / f"{image_id}.png").unlink()
    with pytest.raises(
        InputError, match=r"none of 2 images could be used: 2 image missing \(image 1 '1.png'\)"
    ):
        evaluate(clairvoyant, *dataset, tmp_path / "out")
    with pytest.raises(InputError, match=r"gone: no such folder of images"):
        evaluate(clairvoyant, dataset[0], tmp_path / "gone", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_figures_that_cannot_be_given_are_null_with_a_reason(dataset, tmp_path):
    annotations, images = dataset
    annotations.write_text(
        json.dumps(break_(lambda t: [e.update(segmentation=[]) for e in t["annotations"]]))
    )
    metrics = evaluate(clairvoyant, annotations, images, tmp_path / "out")
    assert metrics["segmentation"] is None
    assert metrics["unavailable"] == {
        "keypoints APm, ARm": "no annotated person with labelled keypoints is medium (32² to 96² px)",
        "segmentation": "no annotated person has a usable mask",
    }
    assert metrics["persons"] == {"keypoints": 2, "segmentation": 0}


def test_timings_are_milliseconds():
    assert summarize_timings({"a": [0.01, 0.02, 0.03, 0.04, 0.05]}) == {
        "a": {"median": 30.0, "p95": 48.0}
    }

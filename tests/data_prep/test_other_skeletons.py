"""Other bodies than a person's: from a YAML file to metrics, by the command line."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import TINY

from personlab_keras.cli import main
from personlab_keras.data.records import read_meta
from personlab_keras.errors import InputError
from personlab_keras.evaluation import evaluate_results
from personlab_keras.method.skeleton import load_skeleton
from personlab_keras.model_directory import read_model_directory
from personlab_keras.training.workdir import load_workdir, workdir_skeleton

ROOT = Path(__file__).parents[2]


def load_animal():
    specification = importlib.util.spec_from_file_location(
        "animal", ROOT / "benchmarks" / "animal.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def beetles(tmp_path_factory):
    """The whole path of benchmarks/animal.py, in small and in this process; folder and metrics."""
    animal = load_animal()

    def personlab(*arguments):
        assert main([str(argument) for argument in arguments]) == 0, arguments

    animal.personlab = personlab
    folder = tmp_path_factory.mktemp("beetles")
    metrics = animal.run(folder, 6, 3, 97, dict(setting.split("=") for setting in TINY))
    return folder, metrics


@pytest.mark.slow
def test_beetles_take_the_whole_path(beetles):
    folder, metrics = beetles
    beetle = load_skeleton(folder / "beetle.yaml")
    meta = read_meta(folder / "records" / "train")
    assert meta.skeleton == beetle
    assert set(meta.skipped) == {"annotation of another category"}
    listed = json.loads((folder / "train" / "annotations.json").read_text())["annotations"]
    assert meta.counts["persons"] == sum(entry["category_id"] == 7 for entry in listed)
    assert workdir_skeleton(folder / "run") == beetle
    directory = read_model_directory(folder / "model")
    assert directory.skeleton == beetle
    channels = {name: output.shape[-1] for name, output in directory.network.output.items()}
    assert channels == {
        "heatmaps": 4,
        "short_offsets": 8,
        "mid_offsets": 12,
        "long_offsets": 8,
        "segmentation": 1,
    }
    assert metrics["images"] == 3
    assert metrics["keypoints"]["AP"] is not None
    found = [json.loads(path.read_text()) for path in (folder / "predictions").glob("*.json")]
    assert len(found) == 3
    assert all(len(beetle["keypoints"]) == 4 for image in found for beetle in image["people"])
    page = (folder / "inspected" / "index.html").read_text()
    assert "skeleton beetle" in page
    assert "left_wing" in page


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_skeleton_only(beetles, records, tmp_path, capsys):
    folder, _ = beetles
    network, _, step = load_workdir(folder / "run")
    assert (network.output["heatmaps"].shape[-1], step) == (4, 4)
    settings = [part for setting in TINY for part in ("--set", setting)]
    assert (
        main(["train", "--records", str(records), "--workdir", str(folder / "run"), *settings]) == 2
    )
    assert "holds a run of another skeleton than 'coco_person'" in capsys.readouterr().err
    arguments = [
        "--records",
        str(records),
        "--workdir",
        str(tmp_path / "run"),
        "--init",
        str(folder / "model"),
    ]
    assert main(["train", *arguments, *settings]) == 2
    assert (
        "records of skeleton 'coco_person' with other keypoints or edges than 'beetle'"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_skeleton_by_name_in_the_settings(beetles, tmp_path, capsys):
    folder, _ = beetles
    files = [
        "--annotations",
        str(folder / "val" / "annotations.json"),
        "--images",
        str(folder / "val" / "images"),
    ]
    arguments = [
        "prepare",
        *files,
        "--out",
        str(tmp_path / "records"),
        "--set",
        "data.view_size=97",
    ]
    assert main([*arguments, "--set", "data.skeleton=crowdpose"]) == 2
    assert (
        "no category has the 14 keypoints of 'crowdpose', in their order. Received: head, left_wing"
        in capsys.readouterr().err
    )
    assert main([*arguments, "--set", f"data.skeleton={folder / 'beetle.yaml'}"]) == 0
    assert read_meta(tmp_path / "records").skeleton.name == "beetle"


POINTS = np.array([[50.0, 10.0], [20.0, 50.0], [80.0, 50.0], [50.0, 90.0]])


def beetle_file(category="beetle", keypoints=("head", "left_wing", "right_wing", "tail")):
    entry = {
        "id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, "area": 6400.0, "bbox": [10, 10, 80, 80], "num_keypoints": 4,
        "keypoints": np.column_stack([POINTS, np.full(4, 2)]).reshape(-1).tolist(),
    }  # fmt: skip
    return {
        "images": [{"id": 1, "file_name": "1.png", "width": 100, "height": 100}],
        "annotations": [entry],
        "categories": [
            {"id": 3, "name": "stone"},
            {"id": 7, "name": category, "keypoints": list(keypoints)},
        ],
    }


@pytest.mark.parametrize("distance", [0.0, 4.0, 8.0, 14.0])
def test_similarity_is_by_the_sigmas_of_the_skeleton(tmp_path, distance):
    (tmp_path / "beetle.yaml").write_text(load_animal().SKELETON)
    beetle = load_skeleton(tmp_path / "beetle.yaml")
    moved = np.column_stack([POINTS + (distance, 0), np.ones(4)]).reshape(-1).tolist()
    results = [{"image_id": 1, "category_id": 7, "score": 0.9, "keypoints": moved}]
    metrics = evaluate_results(beetle_file(), results, skeleton=beetle)
    # By hand: OKS is the mean over keypoints of exp(-d^2 / (2 area (2 sigma)^2)).
    sigmas = yaml.safe_load(load_animal().SKELETON)["sigmas"]
    similarity = np.mean(
        [np.exp(-(distance**2) / (2 * 6400.0 * (2 * sigma) ** 2)) for sigma in sigmas]
    )
    assert metrics["keypoints"]["AP"] == pytest.approx(
        np.mean(similarity >= np.linspace(0.5, 0.95, 10))
    )


def test_which_categories_are_judged(tmp_path):
    (tmp_path / "beetle.yaml").write_text(load_animal().SKELETON)
    beetle = load_skeleton(tmp_path / "beetle.yaml")
    exact = np.column_stack([POINTS, np.ones(4)]).reshape(-1).tolist()
    results = [{"image_id": 1, "category_id": 7, "score": 0.9, "keypoints": exact}]
    assert evaluate_results(beetle_file(), results, skeleton=beetle, categories=["beetle"])[
        "keypoints"
    ]["AP"] == pytest.approx(1.0)
    with pytest.raises(
        InputError, match=r"no category is called 'ant'. The file has: 'stone', 'beetle'"
    ):
        evaluate_results(beetle_file(), results, skeleton=beetle, categories=["ant"])
    with pytest.raises(
        InputError, match=r"no category has the 4 keypoints of 'beetle', in their order"
    ):
        evaluate_results(beetle_file(keypoints=["horn"]), results, skeleton=beetle)
    # Two categories of one body count as one, where both are named.
    content = beetle_file()
    content["categories"].append({"id": 9, "name": "ladybird", "keypoints": list(beetle.keypoints)})
    content["annotations"].append(
        {**content["annotations"][0], "id": 2, "category_id": 9, "image_id": 1}
    )
    with pytest.raises(InputError, match=r"several .*: 'beetle', 'ladybird'. Choose by --category"):
        evaluate_results(content, results, skeleton=beetle)
    named = {"skeleton": beetle, "categories": ["beetle", "ladybird"]}
    both = evaluate_results(content, [*results, *results], **named)
    assert both["keypoints"]["AP"] == pytest.approx(1.0)
    one = evaluate_results(content, results, skeleton=beetle, categories=["beetle"])
    assert one["keypoints"]["AR"] == pytest.approx(1.0)
    half = evaluate_results(content, results, **named)
    assert half["keypoints"]["AR"] == pytest.approx(0.5)

"""Models by name, against local servers of the protocols; nothing leaves this machine."""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from hub_server import running_hub
from released_graphs import mobilenet_file, random_network

import personlab_keras as personlab
from personlab_keras.cli import main
from personlab_keras.errors import InputError
from personlab_keras.hub import model_path
from personlab_keras.hub.card import model_card
from personlab_keras.model.pretrained.catalogue import DEFAULT_MODEL, PUBLISHED
from personlab_keras.model_directory import read_model_directory

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- the Hugging Face Hub


@pytest.fixture
def hub(cache, monkeypatch):
    pytest.importorskip("huggingface_hub")
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_TOKEN", "hf_local")
        yield running


def test_what_is_pushed_can_be_loaded(hub, model_directory, scenes, tmp_path, capsys):
    model = shutil.copytree(model_directory, tmp_path / "model")
    metrics = {"images": 10, "keypoints": {"AP": 0.5, "AP50": 0.75}, "segmentation": {"AP": 0.25}}
    (model / "metrics.json").write_text(json.dumps(metrics))
    assert main(["push", str(model), "hf://ann/beetles"]) == 0
    assert capsys.readouterr().out.startswith(f"{hub.address}/ann/beetles/commit/")
    files = hub.commits["ann/beetles"][-1][1]
    card = files["README.md"].decode()
    assert "| keypoints | 0.500 | 0.750 |" in card
    assert "| segmentation | 0.250 |  |" in card
    assert "pipeline_tag: keypoint-detection" in card
    assert not any(name.startswith(("assets.extra", ".")) for name in files)

    settings = ["decode.score_threshold=0", "decode.peak_threshold=0.001"]
    image = personlab.read_image(min((scenes / "images").iterdir()))
    expected = personlab.load(model, settings)(image)
    found = personlab.load("hf://ann/beetles", settings)(image)
    assert found.to_dict() == expected.to_dict()
    assert len(found) > 0


def test_the_first_revision_is_pinned(hub, model_directory, cache):
    described = (model_directory / "personlab.json").read_bytes()
    first = hub.commit("ann/beetles", {"personlab.json": described, "evil.py": b"exit()"})
    folder = model_path("hf://ann/beetles")
    assert folder.name == first
    assert [path.name for path in folder.iterdir()] == ["personlab.json"]
    second = hub.commit("ann/beetles", {"personlab.json": described + b"\n"})
    hub.requests.clear()
    assert model_path("hf://ann/beetles") == folder
    assert hub.requests == []
    assert model_path(f"hf://ann/beetles@{second}").name == second
    pin = json.loads((cache / "hugging-face" / "ann--beetles.json").read_text())
    assert pin["revision"] == first
    assert list(pin["sha256"]) == ["personlab.json"]


def test_a_file_that_changed_in_the_cache_is_refused(hub, model_directory):
    hub.commit("ann/beetles", {"personlab.json": (model_directory / "personlab.json").read_bytes()})
    file = model_path("hf://ann/beetles") / "personlab.json"
    file.resolve().write_bytes(file.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"personlab\.json: damaged: not what was received"):
        model_path("hf://ann/beetles")
    file.unlink()
    with pytest.raises(InputError, match=r"incomplete: .*personlab\.json"):
        model_path("hf://ann/beetles")


@pytest.mark.parametrize(("name", "words"), [
    ("hf://ann", "must be hf://USER/NAME"),
    ("hf://ann/nothing", "hf://ann/nothing: cannot be fetched: "),
    ("hf://ann/other", "holds no personlab.json, so it is no model of PersonLab"),
    ("hf://ann/other@v9", "hf://ann/other@v9: cannot be fetched: "),
])  # fmt: skip
def test_other_names_get_one_line(hub, name, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.jpg").touch()
    hub.commit("ann/other", {"config.json": b"{}"})
    assert main(["predict", "x.jpg", "--model", name]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_push_that_fails_gets_one_line(cache, model_directory, monkeypatch, capsys, tmp_path):
    library = pytest.importorskip("huggingface_hub")

    def refuse(*_, **__):
        raise RuntimeError("403 Forbidden: no write access\nmore")

    monkeypatch.setattr(library.HfApi, "create_repo", refuse)
    assert main(["push", str(model_directory), "hf://ann/beetles"]) == 2
    error = capsys.readouterr().err
    assert "hf://ann/beetles: cannot be uploaded: 403 Forbidden: no write access\n" in error
    assert main(["push", str(tmp_path), "hf://ann/beetles"]) == 2
    assert main(["push", str(model_directory), "beetles"]) == 2
    assert "NAME must be hf://USER/NAME. Received: beetles" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "package"), [
    ("hf://ann/beetles", "huggingface_hub"), ("kaggle://ann/beetles/keras/small", "kagglehub")
])  # fmt: skip
def test_a_missing_package_is_named(name, package, monkeypatch, cache):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.* pip install 'personlab-keras\[hub\]'"):
        model_path(name)


def test_a_card_keeps_its_table_whatever_the_provenance(model_directory):
    directory = read_model_directory(model_directory)
    hostile = replace(directory, provenance={"source": "a | b\n# c", "licence": "Apache-2.0"})
    card = model_card(hostile, "ann/beetles")
    assert "| source | a / b # c |" in card
    assert "license: apache-2.0" in card


# --- Kaggle


def test_a_version_in_kagglehubs_cache_is_used_and_pinned(
    cache, model_directory, tmp_path, monkeypatch
):
    """Without a network: kagglehub finds a version that it has fetched before."""
    pytest.importorskip("kagglehub")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.setenv("KAGGLE_API_ENDPOINT", "http://127.0.0.1:9")
    folder = tmp_path / "kaggle" / "models" / "ann" / "beetles" / "keras" / "small" / "3"
    folder.mkdir(parents=True)
    shutil.copy(model_directory / "personlab.json", folder)
    (folder.parent / "3.complete").touch()
    name = "kaggle://ann/beetles/keras/small/3"
    assert model_path(name) == folder
    assert model_path(name) == folder
    (folder / "personlab.json").write_text("{}")
    with pytest.raises(InputError, match="damaged: not what was received"):
        model_path(name)
    with pytest.raises(InputError, match="must be kaggle://OWNER/MODEL/FRAMEWORK/VARIATION"):
        model_path("kaggle://ann/beetles")


# --- released networks


@pytest.fixture
def released(cache, tmp_path, monkeypatch):
    """Stands for Google's server: its files have the same form and random weights."""
    folder = tmp_path / "released"
    file = mobilenet_file(random_network()).write(folder)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(file.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{file.name}"
    network = replace(PUBLISHED[DEFAULT_MODEL], url=url)
    monkeypatch.setitem(PUBLISHED, DEFAULT_MODEL, network)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_predict_without_a_model_fetches_it_once(
    released, cache, tmp_path, monkeypatch, capsys, no_saved_model
):
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    arguments = ["predict", "photo.png", "--set", "predict.longer_side=97"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines()[0] == f"loading {DEFAULT_MODEL}"
    assert "bytes: " in said.out
    assert (tmp_path / "people" / "photo.json").is_file()
    folder = cache / "models" / DEFAULT_MODEL
    assert {"pinned.json", "personlab.json", "model.tflite"} <= {p.name for p in folder.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == [DEFAULT_MODEL]

    # The second time nothing is asked of the server, and TensorFlow is not needed.
    released.shutdown()
    shutil.rmtree(tmp_path / "people")
    code = (
        "import sys; sys.modules.update(tensorflow=None, keras=None); "
        "import personlab_keras.inference.runtimes as runtimes; "
        "runtimes.may_have_accelerator = lambda: False; "
        "from personlab_keras.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "people" / "photo.json").is_file()

    (folder / "model.tflite").write_bytes(b"other")
    assert main(arguments) == 2
    assert "model.tflite: damaged: not what was received" in capsys.readouterr().err


def test_a_misspelt_name_gets_the_nearest(cache):
    with pytest.raises(InputError, match=f"Nearest: {DEFAULT_MODEL}"):
        model_path("bodypix-mobilnet-v1-050")
    assert model_path("exported") == Path("exported")
    assert model_path("bodypix") == Path("bodypix")  # a folder of that name may come


def test_a_folder_goes_before_a_name(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT_MODEL).mkdir()
    assert model_path(DEFAULT_MODEL) == Path(DEFAULT_MODEL)

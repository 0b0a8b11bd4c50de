"""Every command and every Python block of README.md and of the tutorial runs, on small data in
place of COCO.
"""

import contextlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest
from released_graphs import mobilenet_file, random_network
from tiny import TINY, saved_model_left_out

import personlab_keras
from personlab_keras.cli import main
from personlab_keras.model.pretrained.catalogue import DEFAULT_MODEL

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
DOCS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

# What the real commands run on or do that a test cannot: the network, a package installation,
# hours.
SMALL = {
    "prepare": [setting for setting in TINY if setting.startswith(("data.", "targets."))],
    "train": TINY,
    "demo": [*TINY, "demo.train_scenes=4", "demo.val_scenes=2", "demo.scene_size=97"],
    "export": [],
    "evaluate": ["predict.longer_side=97"],
    "predict": ["predict.longer_side=97"],
}


TUTORIAL_SMALL = {
    "prepare": ["data.view_size=97", "data.views_per_image=1", "data.workers=1"],
    "train": [
        "train.steps=2",
        "train.batch_size=2",
        "train.warmup_steps=0",
        "train.validate_every=2",
    ],
    "predict": ["predict.longer_side=97"],
    "evaluate": ["predict.longer_side=97"],
}


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


ASK = """
exec 3<>/dev/tcp/127.0.0.1/"$PERSONLAB_PORT"
printf '%s\\n' "$@" '' >&3
read -r status <&3
exit "$status"
"""
"""The command `personlab` of a shell: hands its arguments to this process, which has imported
TensorFlow already.
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache in which the default network has already been fetched: random weights in its form."""
    from personlab_keras.export.export import import_weights
    from personlab_keras.hub import pins

    folder = tmp_path_factory.mktemp("cache")
    model = folder / "models" / DEFAULT_MODEL
    file = mobilenet_file(random_network()).write(folder / "released")
    with saved_model_left_out():
        import_weights(file, model)
    pins.pin(model, DEFAULT_MODEL)
    return folder


def executable(path, text):
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.fixture(scope="module")
def place(tmp_path_factory, scenes, cache):
    """A folder that looks like a clone beside a downloaded COCO, with small stand-ins on the
    path.
    """
    folder = tmp_path_factory.mktemp("readme")
    tools = folder / "tools"
    tools.mkdir()
    executable(tools / "personlab", ASK)
    for skipped in ("pip", "pytest"):
        executable(tools / skipped, "exit 0")
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copytree(ROOT / "docs" / "images", folder / "docs" / "images")
    executable(folder / "scripts" / "download_coco.sh", "exit 0")
    for split in ("train2017", "val2017"):
        shutil.copytree(scenes / "images", folder / "coco" / split)
        (folder / "coco" / "annotations").mkdir(exist_ok=True)
        shutil.copy(
            scenes / "annotations.json",
            folder / "coco" / "annotations" / f"person_keypoints_{split}.json",
        )
    shutil.copytree(scenes / "images", folder / "photos")
    shutil.copy(next((scenes / "images").iterdir()), folder / "photo.jpg")
    return folder


def run_block(place, block, small):
    """Runs a block of shell commands; `personlab` gets settings that make everything small."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        environment = {
            **os.environ,
            "PERSONLAB_PORT": str(server.getsockname()[1]),
            "PATH": f"{place / 'tools'}:{os.environ['PATH']}",
        }
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", block], cwd=place, env=environment
        )
        while shell.poll() is None:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                with connection, connection.makefile("rw") as stream:
                    arguments = list(iter(lambda: stream.readline().rstrip("\n"), ""))
                    settings = [f"--set={each}" for each in small.get(arguments[0], [])]
                    stream.write(f"{main([*arguments, *settings])}\n")
    assert shell.returncode == 0, block


@pytest.mark.slow
def test_the_readme_runs_from_top_to_bottom(place, cache, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("PERSONLAB_CACHE", str(cache))
    commands = blocks("bash")
    assert len(commands) >= 4
    for block in commands:
        run_block(place, block, SMALL)
    assert (place / "exported" / "saved_model.pb").is_file()
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(scenes, cache, tmp_path, monkeypatch, no_saved_model):
    place = tmp_path
    monkeypatch.chdir(place)
    monkeypatch.setenv("PERSONLAB_CACHE", str(cache))
    (place / "tools").mkdir()
    executable(place / "tools" / "personlab", ASK)
    for folder in ("photos", "mine/images"):
        shutil.copytree(scenes / "images", place / folder)
    for split in ("train", "val"):
        shutil.copy(scenes / "annotations.json", place / "mine" / f"{split}.json")
    commands = blocks("bash", TUTORIAL)
    assert len(commands) >= 5
    for block in commands:
        run_block(place, block, TUTORIAL_SMALL)
    assert (place / "after" / "metrics.json").is_file()
    assert (place / "exported" / "model.tflite").is_file()
    # The steps that need an annotation tool, an installation or a running server.
    assert blocks("sh", TUTORIAL)[0].strip() == "pip install '.[serve,litert]'"
    assert "personlab serve --model exported\n" in blocks("sh", TUTORIAL)[1]


@pytest.mark.slow
def test_the_notebook_runs(cache, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PERSONLAB_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "first_steps.ipynb", 4)
    stored = [cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code"]
    assert all(stored)
    assert "png" in str(stored)
    assert str(Path.home()) not in str(stored)
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": ROOT / "examples"}}
    )
    client.execute()
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "512 x 512 pixels" in first.outputs[-1]["data"]["text/plain"]


@pytest.mark.slow
def test_the_examples_run(cache, scenes, tmp_path, monkeypatch):
    pytest.importorskip("trackers")
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (97, 97))
    for path in sorted((scenes / "images").iterdir())[:3]:
        writer.write(cv2.imread(str(path)))
    writer.release()
    environment = {**os.environ, "PERSONLAB_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    out = tmp_path / "task"
    for script, *arguments in (
        ("webcam.py", "--camera", clip, "--frames", 3, "--longer-side", 97),
        ("folder_to_cvat.py", scenes / "images", "--out", out),
        ("count_in_zones.py", clip, "--zone", "0,0,50,97", "--zone", "50,0,97,97"),
    ):
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / script, *map(str, arguments)],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert (out / "coco.json").is_file()
    with zipfile.ZipFile(out / "images.zip") as archive:
        assert len(archive.namelist()) == 10
    compile((ROOT / "examples" / "finetune_beetle.py").read_text(), "finetune_beetle.py", "exec")


def test_the_two_commands_come_first():
    first, second, *_ = blocks("bash")
    assert first.strip() == "pip install . && personlab demo"
    assert second.strip() == "pip install '.[test]' && pytest -n 2"
    assert "\npytest -n 2\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_and_named_tests_exist(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target
    for module, names in re.findall(r"`(test_\w+): ([^`]+)`", text):
        (file,) = (ROOT / "tests").rglob(f"{module}.py")
        source = file.read_text(encoding="utf-8")
        for name in names.split(", "):
            assert f"def {name}(" in source, name


@pytest.mark.parametrize(
    "script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name
)
def test_shell_scripts_are_sound(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


def test_the_package_says_its_version_once():
    setup = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert setup.stdout.strip() == personlab_keras.__version__


def test_the_changelog_names_modules_that_exist():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    table = text.partition("| old import path |")[2].partition("\n\n")[0]
    names = [
        name
        for row in table.splitlines()[2:]
        for name in re.findall(r"`(\w[\w.]*)`", row.split("|")[2])
    ]
    assert len(names) > 40
    for name in names:
        assert find_spec(f"personlab_keras.{name}") is not None, name

"""Every command and every Python block of README.md runs, on small data in place of COCO."""

import os
import re
import shutil
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from released_graphs import mobilenet_file, random_network
from tiny import TINY

import personlab_keras

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
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


PUBLISHED = "bodypix-mobilenet-v1-050"
"""A download, replaced by a file that has the same form."""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def executable(path, text):
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.fixture(scope="module")
def place(tmp_path_factory, scenes):
    """A folder that looks like a clone beside a downloaded COCO, with small stand-ins on the
    path.
    """
    folder = tmp_path_factory.mktemp("readme")
    tools = folder / "tools"
    tools.mkdir()
    cases = "\n".join(
        f"{command}) extra=({' '.join(f'--set {setting}' for setting in settings)}) ;;"
        for command, settings in SMALL.items()
    )
    executable(
        tools / "personlab",
        f'extra=()\ncase "$1" in\n{cases}\nesac\n'
        f'exec {sys.executable} -m personlab_keras.cli "${{@/{PUBLISHED}/{folder / "released"}}}" "${{extra[@]}}"',
    )
    executable(
        tools / "python",
        f'exec {sys.executable} "$@" {" ".join(f"--set {setting}" for setting in TINY)}',
    )
    mobilenet_file(random_network()).write(folder / "released")
    for skipped in ("pip", "pytest"):
        executable(tools / skipped, "exit 0")
    shutil.copytree(ROOT / "scripts", folder / "scripts")
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


def run_in(place, command):
    environment = {
        **os.environ,
        "PATH": f"{place / 'tools'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_the_readme_runs_from_top_to_bottom(place):
    commands = blocks("bash")
    assert len(commands) >= 4
    for block in commands:
        run_in(place, ["bash", "-euo", "pipefail", "-c", block])
    for block in blocks("python"):
        run_in(place, [sys.executable, "-c", block])


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

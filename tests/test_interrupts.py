"""Ctrl-C at a known place of a command, which sends it to itself: no test waits for a moment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

ROOT = Path(__file__).parents[1]
PRESS = "import os, signal, sys\ndef press(): os.kill(os.getpid(), signal.SIGINT)\n"
RUN = "\nfrom personlab_keras.cli import main\nsys.exit(main(sys.argv[1:]))"

AT_IMPORT = """
import importlib.abc
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {name!r}:
            press()
sys.meta_path.insert(0, Finder())
"""

QUIETLY = """
from personlab_keras.io.processes import import_tensorflow_quietly
import_tensorflow_quietly()
"""

IN_EXPORT = """
from personlab_keras.export.saved_model import signatures, tf_serving
signatures.save = lambda *arguments: os.mkdir(arguments[-1])
def write(folder, side):
    assert os.path.isdir(folder)
    press()
    raise SystemError("as TensorFlow makes of a KeyboardInterrupt")
tf_serving.write_extras = write
"""

IN_A_STEP = """
from personlab_keras.training.callback import RunCallback
before, pressed = RunCallback.on_train_batch_end, []
def step(self, batch, logs=None):
    if self.step == 2:
        for _ in range({times}):
            press()
    before(self, batch, logs)
RunCallback.on_train_batch_end = step
"""

IN_AN_EVALUATION = """
from personlab_keras.inference import predict
before, seen = predict.Predictor.timed, []
def timed(self, image):
    seen.append(image)
    if len(seen) == 4:
        press()
        raise SystemError("as TensorFlow makes of a KeyboardInterrupt")
    return before(self, image)
predict.Predictor.timed = timed
"""


def pressed(place, *arguments):
    """Exit status, standard output and lines of standard error of a command."""
    done = subprocess.run(
        [sys.executable, "-c", PRESS + place + RUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.mark.parametrize(
    ("module", "printed", "line"),
    [
        ("personlab_keras.cli.parser", "", "personlab: interrupted"),
        (
            "personlab_keras.inference.predict",
            "loading {}\n",
            "personlab predict: interrupted",
        ),
    ],
)
def test_while_modules_are_imported(module, printed, line, tmp_path):
    arguments = ["predict", "photo.jpg", "--model", tmp_path, "--out", tmp_path / "out"]
    assert pressed(AT_IMPORT.format(name=module), *arguments) == (
        130,
        printed.format(tmp_path),
        [line],
    )


@pytest.mark.slow
def test_an_export_leaves_nothing(workdir, tmp_path):
    result = pressed(QUIETLY + IN_EXPORT, "export", workdir, "--out", tmp_path / "model")
    assert result == (130, "", ["personlab export: interrupted"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_saves_at_the_first_and_ends_at_the_second(records, tmp_path):
    settings = [part for setting in TINY for part in ("--set", setting)]
    train = ["train", "--records", records, "--workdir", tmp_path / "run", *settings]
    notice = "personlab train: saving after this step; Ctrl-C again ends at once"
    status, output, errors = pressed(QUIETLY + IN_A_STEP.format(times=1), *train)
    assert (status, errors) == (130, [notice])
    assert "stopped at step 3 of 4; the same command resumes from there" in output
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [
        "step-00000003.npz"
    ]
    status, output, errors = pressed("", *train)
    assert (status, errors) == (0, [])
    assert "run: resuming from step 3 of 4" in output
    again = [*train[:4], tmp_path / "other", *settings]
    status, _, errors = pressed(QUIETLY + IN_A_STEP.format(times=2), *again)
    assert (status, errors) == (-2, [notice])
    assert not (tmp_path / "other" / "checkpoints").exists()


@pytest.mark.slow
def test_an_evaluation_can_be_resumed(model_directory, scenes, tmp_path):
    arguments = [
        *("evaluate", "--model", model_directory, "--annotations", scenes / "annotations.json"),
        *("--images", scenes / "images", "--out", tmp_path / "out"),
    ]
    status, _, errors = pressed(IN_AN_EVALUATION, *arguments)
    assert (status, errors) == (
        130,
        ["personlab evaluate: interrupted after 3 of 10 images; run the same command to resume"],
    )
    status, output, errors = pressed("", *arguments)
    assert (status, errors) == (0, [])
    assert "resuming after 3 of 10 images" in output

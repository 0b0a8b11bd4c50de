"""Runs every command with each of its paths in every state that a file system knows, in one
process, and prints a JSON line for each: [case, exit status or error, lines on standard error,
unfinished files left behind]. tests/test_file_states.py starts it and judges.
"""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from tiny import flags

from personlab_keras.cli import main

FILE = ("missing", "forbidden", "dangling", "looping", "long", "other kind", "pipe", "below a file")
FOLDER = tuple(state for state in FILE if state != "pipe")
INNER = ("forbidden", "dangling", "looping", "other kind", "pipe")
OUT = (
    "forbidden",
    "dangling",
    "looping",
    "long",
    "other kind",
    "below a file",
    "full",
    "read-only",
)
SECONDS = 300


def commands(scenes, records, run, model):
    """(name, arguments with one `None`, states of the path in its place, a good one or the inner
    file).
    """
    annotations, images = scenes / "annotations.json", scenes / "images"
    image = min(images.iterdir())
    settings, baking = flags("data", "targets", "model", "train"), flags("data", "targets")
    prepare = ["prepare", "--annotations", annotations, "--images", images, *baking]
    evaluate = ["evaluate", "--model", model, "--annotations", annotations, "--images", images]
    train = ["train", "--records", records, *settings]
    new = "new"  # replaced by a path of its own
    yield "config --config", ["config", "--config", None], FILE, run / "config.yaml"
    yield from (
        (
            "prepare --annotations",
            [*prepare[:2], None, *prepare[3:], "--out", new],
            FILE,
            annotations,
        ),
        ("prepare --images", [*prepare[:4], None, *baking, "--out", new], FOLDER, images),
        (
            "prepare --skeleton",
            [*prepare, "--out", new, "--skeleton", None],
            FILE,
            run / "skeleton.yaml",
        ),
        ("prepare --out", [*prepare, "--out", None], OUT, None),
        ("convert IN", ["convert", None, "--out", new], FILE, annotations),
        (
            "convert --images",
            ["convert", annotations, "--images", None, "--out", new],
            FOLDER,
            images,
        ),
        ("convert --out", ["convert", annotations, "--images", images, "--out", None], OUT, None),
        ("inspect RECORDS", ["inspect", None], FOLDER, records),
        ("inspect meta.json", ["inspect", None], INNER, records / "meta.json"),
        (
            "inspect --out",
            ["inspect", records, "--count", 1, "--sheet", 1, "--out", None],
            OUT,
            None,
        ),
        ("predict SOURCE", ["predict", None, "--model", model, "--out", new], FILE, image),
        ("predict FOLDER", ["predict", None, "--model", model, "--out", new], FOLDER, images),
        ("predict --model", ["predict", image, "--model", None, "--out", new], FOLDER, model),
        (
            "predict personlab.json",
            ["predict", image, "--model", None, "--out", new],
            INNER,
            model / "personlab.json",
        ),
        (
            "predict weights",
            ["predict", image, "--model", None, "--out", new],
            INNER,
            model / "model.weights.h5",
        ),
        ("predict --out", ["predict", image, "--model", model, "--out", None], OUT, None),
        (
            "evaluate --annotations",
            [*evaluate[:4], None, *evaluate[5:], "--out", new],
            FILE,
            annotations,
        ),
        ("evaluate --images", [*evaluate[:6], None, "--out", new], FOLDER, images),
        (
            "evaluate --model",
            [*evaluate[:2], None, *evaluate[3:], "--out", new],
            FOLDER,
            model,
        ),
        ("evaluate --out", [*evaluate, "--out", None], OUT, None),
        ("serve --model", ["serve", "--port", 0, "--model", None], FOLDER, model),
        (
            "import-weights SOURCE",
            ["import-weights", None, "--out", new],
            FILE,
            model / "model.weights.h5",
        ),
        ("export SOURCE", ["export", None, "--out", new], FOLDER, run),
        ("export config.yaml", ["export", None, "--out", new], INNER, run / "config.yaml"),
        ("export --out", ["export", run, "--out", None], OUT, None),
        (
            "train --records",
            ["train", "--workdir", new, *settings, "--records", None],
            FOLDER,
            records,
        ),
        ("train --val-records", [*train, "--workdir", new, "--val-records", None], FOLDER, records),
        ("train --init", [*train, "--workdir", new, "--init", None], FOLDER, model),
        ("train --workdir", [*train, "--workdir", None], OUT, None),
        ("demo --out", ["demo", "--out", None], OUT, None),
    )


class Place:
    """Makes paths in every state, below a folder."""

    def __init__(self, folder):
        self.folder, self.number = folder, 0
        self.mounts = {}
        for state, options in (("full", "size=1m"), ("read-only", "size=1m,ro")):
            mount = folder / state
            mount.mkdir()
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", mount], capture_output=True
            )
            if done.returncode == 0:
                self.mounts[state] = mount
        if "full" in self.mounts:
            with contextlib.suppress(OSError):
                (self.mounts["full"] / "ballast").write_bytes(bytes(1 << 20))

    def close(self):
        for mount in self.mounts.values():
            subprocess.run(["umount", mount], check=True)

    def new(self):
        self.number += 1
        folder = self.folder / str(self.number)
        folder.mkdir()
        return folder

    def make(self, state, good):
        """A path in a state, like `good`; a new one for results if that is None."""
        folder = self.new()
        path = folder / (f"it{good.suffix}" if good else "it")
        is_file = good is not None and good.is_file()
        if state in self.mounts:
            return self.mounts[state] / str(self.number)
        if state == "long":
            return folder / ("x" * 300)
        if state == "below a file":
            (folder / "file").touch()
            return folder / "file" / "it"
        if state == "forbidden" and good is None:
            path.mkdir()
            path.chmod(0o555)
            return path / "out"
        spoil(path, state, is_file, good)
        return path

    def make_inner(self, state, good):
        """A copy of a folder in which one file is in a state."""
        folder = self.new() / "it"
        shutil.copytree(good.parent, folder)
        if state != "forbidden":
            (folder / good.name).unlink()
        spoil(folder / good.name, state, True, None)
        return folder


def spoil(path, state, is_file, good):
    if state == "dangling":
        path.symlink_to(path.with_name("nowhere"))
    elif state == "looping":
        path.symlink_to(path)
    elif state == "pipe":
        os.mkfifo(path)
    elif state == "other kind":
        path.mkdir() if is_file else path.touch()
    elif state == "forbidden":
        if good is not None:
            shutil.copy(good, path) if is_file else shutil.copytree(good, path)
        path.chmod(0)


class Hangs(BaseException):
    pass


def outcome(arguments):
    """The exit status, or a traceback's last line; what was printed to standard error."""

    def hangs(*_):
        raise Hangs

    errors = io.StringIO()
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = main(arguments)
    except Hangs:
        status = "hangs"
    except BaseException:
        status = traceback.format_exc().strip().splitlines()[-1]
    finally:
        signal.alarm(0)
    return status, errors.getvalue().splitlines()


def cases(place, folders):
    for name, arguments, states, good in commands(*folders):
        for state in states:
            if states is OUT and state == "read-only" and state not in place.mounts:
                continue
            path = place.make_inner(state, good) if states is INNER else place.make(state, good)
            new = place.new() / "new"
            yield (
                f"{name}: {state}",
                state,
                [
                    str(new if part == "new" else path if part is None else part)
                    for part in arguments
                ],
            )


def run(folders, work):
    place = Place(work)
    try:
        for name, state, arguments in cases(place, folders):
            # Where nothing can be mounted, a limit on the size of files stands for a full disk.
            limited = state == "full" and state not in place.mounts
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            if limited:
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
            status, lines = outcome(arguments)
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            left = [str(path) for path in work.rglob("*.part")]
            print(json.dumps([name, status, lines, left]), flush=True)
            for path in left:
                shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
    finally:
        place.close()


if __name__ == "__main__":
    run([Path(argument) for argument in sys.argv[1:5]], Path(sys.argv[5]))

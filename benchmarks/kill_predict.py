"""Do an evaluation and predictions that are killed again and again end in the same files?

    python benchmarks/kill_predict.py --model DIR --annotations JSON --images DIR --kills 5

Runs `personlab evaluate`, `personlab predict` over the images with every format, and `personlab
predict --smooth` over a video made of them, each once undisturbed. Then ends each in another folder
at random moments (SIGKILL, SIGTERM and Ctrl-C in turn), starts it again, and lets the last run
finish. Compares the SHA-256 of every file but timings.json."""

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

from personlab_keras.io.images import list_images, read_image
from personlab_keras.io.journal import JOURNAL_FILE

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FORMATS = ("--format", "coco,csv,yolo-pose,labelme")
FRAME = (480, 360)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--model", "--annotations", "--images"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--kills", type=int, default=5, help="of each command (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = film(folder / "clip.avi", options.images)
        commands = {
            "evaluate": [
                *("evaluate", "--annotations", options.annotations, "--images", options.images)
            ],
            "predict over a folder": ["predict", options.images, *FORMATS],
            "predict over a video": ["predict", clip, "--smooth", *FORMATS],
        }
        same = [
            compare(label, [*command, "--model", options.model], folder / str(i), options.kills)
            for i, (label, command) in enumerate(commands.items())
        ]
    if not all(same):
        sys.exit(1)


def film(path: Path, images: Path) -> Path:
    """A video of all images, one after the other."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, FRAME)
    for image in list_images(images):
        writer.write(cv2.resize(read_image(image)[..., ::-1], FRAME))
    writer.release()
    return path


def compare(label: str, command: list, folder: Path, kills: int) -> bool:
    """Whether a command that is killed ends with the files of one that is not."""
    whole, killed = folder / "whole", folder / "killed"
    if start(command, whole).wait():
        sys.exit(f"{label}: the undisturbed run failed")
    dice, reached = random.Random(0), []
    for kill in range(kills):
        process = start(command, killed)
        before = lines(killed)
        while process.poll() is None and lines(killed) <= before + dice.randint(0, 15):
            time.sleep(dice.uniform(0.01, 0.05))
        process.send_signal(SIGNALS[kill % 3])
        if process.wait() == 0:
            sys.exit(f"{label}: finished before the kill, after {reached}: choose more images")
        reached.append(max(0, lines(killed) - 1))
    if start(command, killed).wait():
        sys.exit(f"{label}: the last run failed")
    first, second = checksums(whole), checksums(killed)
    different = sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )
    print(f"{label}: parts done at each kill: {reached}; {len(first)} files, ", end="")
    print(f"DIFFERENT: {different}" if different else "all identical", flush=True)
    return not different


def start(command: list, out: Path) -> subprocess.Popen:
    """The command as a user types it."""
    arguments = [sys.executable, "-m", "personlab_keras.cli", *command, "--out", out]
    return subprocess.Popen(list(map(str, arguments)), stdout=subprocess.DEVNULL)


def lines(folder: Path) -> int:
    """Complete lines of the journal, its header included."""
    try:
        return (folder / JOURNAL_FILE).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timings.json"
    }


if __name__ == "__main__":
    main()

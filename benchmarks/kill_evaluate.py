"""Does an evaluation that is killed again and again end in the same metrics.json?

    python benchmarks/kill_evaluate.py --model DIR --annotations JSON --images DIR --kills 5

Runs `personlab evaluate` once undisturbed. Then kills it (SIGKILL) in another folder at random
moments, starts it again, and lets the last run finish. Compares the SHA-256 of every file but
timings.json."""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from personlab_keras.evaluation.journal import JOURNAL_FILE


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--model", "--annotations", "--images"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        if start(options, whole).wait():
            sys.exit("the undisturbed run failed")
        dice, reached = random.Random(0), []
        for _ in range(options.kills):
            process = start(options, killed)
            before = lines(killed)
            while process.poll() is None and lines(killed) <= before + dice.randint(0, 15):
                time.sleep(dice.uniform(0.01, 0.05))
            process.kill()
            process.wait()
            if (killed / "metrics.json").exists():
                sys.exit(f"finished before the kill, after {reached}: choose more images")
            reached.append(lines(killed) - 1)
        if start(options, killed).wait():
            sys.exit("the last run failed")
        print(f"images done at each kill: {reached}")
        first, second = checksums(whole), checksums(killed)
        for file in sorted(first.keys() | second.keys()):
            same = first.get(file) == second.get(file)
            print(f"{file}: {'identical' if same else 'DIFFERENT'}  {first.get(file)}")
        if first != second:
            sys.exit(1)


def start(options: argparse.Namespace, out: Path) -> subprocess.Popen:
    """The command as a user types it."""
    arguments = ["--model", options.model, "--annotations", options.annotations]
    arguments += ["--images", options.images, "--out", out]
    return subprocess.Popen(
        [sys.executable, "-m", "personlab_keras.cli", "evaluate", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
    )


def lines(folder: Path) -> int:
    """Complete lines of the journal, its header included."""
    try:
        return (folder / JOURNAL_FILE).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def checksums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "timings.json"
    }


if __name__ == "__main__":
    main()

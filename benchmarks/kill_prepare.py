"""Does a preparation that is killed again and again, or done by others, end in the same bytes?

    python benchmarks/kill_prepare.py --annotations JSON --images DIR --kills 20

Prepares a data set by one process, by two workers and by Beam's DirectRunner, and compares the
SHA-256 of every file. Then ends runs with one and with two workers after random times (SIGKILL,
SIGTERM and Ctrl-C in turn), in one folder, until there were so many kills, and lets the last one
finish."""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENGINES = {
    "one process": ["--workers", "1"],
    "two workers": ["--workers", "2"],
    "Beam's DirectRunner": ["--beam"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--set", action="append", default=["data.views_per_image=4"], metavar="SECTION.KEY=VALUE"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, engine in ENGINES.items():
            began = time.perf_counter()
            start(options, Path(folder) / name, engine).wait()
            found[name] = checksums(Path(folder) / name)
            print(
                f"{name}: {len(found[name])} files, {time.perf_counter() - began:.1f} s", flush=True
            )
        whole = found["one process"]
        killed, reached = kill(options, Path(folder), time.perf_counter() - began)
        found[f"killed {len(reached)} times"] = killed
        print(f"finished shards at each kill: {reached}")
    for name, sums in found.items():
        print(f"{name}: {'identical' if sums == whole else 'DIFFERENT'}")
    for name, checksum in sorted(whole.items()):
        print(f"{checksum}  {name}")
    if any(sums != whole for sums in found.values()):
        sys.exit(1)


def start(options: argparse.Namespace, out: Path, engine: list[str]) -> subprocess.Popen:
    """The command as a user types it."""
    settings = [part for setting in options.set for part in ("--set", setting)]
    arguments = [
        "--annotations",
        options.annotations,
        "--images",
        options.images,
        "--out",
        out,
        *engine,
        *settings,
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "personlab_keras.cli", "prepare", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
    )


def kill(
    options: argparse.Namespace, folder: Path, longest: float
) -> tuple[dict[str, str], list[int]]:
    """What is there after all kills and one run that ends by itself, and how many shards were
    finished at each kill.
    """
    chance, reached = random.Random(0), []
    out = folder / "killed"
    while len(reached) < options.kills:
        process = start(options, out, ENGINES[chance.choice(["one process", "two workers"])])
        try:
            process.wait(timeout=chance.uniform(0.3, longest))
            # It was finished before: the next one begins anew.
            shutil.rmtree(out)
        except subprocess.TimeoutExpired:
            process.send_signal(SIGNALS[len(reached) % 3])
            process.wait()
            reached.append(len(list((out / ".unfinished").glob("views-*"))))
            half = [path.name for path in out.glob("views-*") if os.stat(path).st_size == 0]
            if half:
                sys.exit(f"an empty file under a final name: {half}")
    if start(options, out, ENGINES["two workers"]).wait():
        sys.exit("the last run failed")
    return checksums(out), reached


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 by name, but for the lock."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != ".lock"
    }


if __name__ == "__main__":
    main()

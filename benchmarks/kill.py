"""Does a run that is killed again and again end as one that is not?

    python benchmarks/kill.py --records RECORDS --kills 20

Trains a small network twice on the CPU: once undisturbed; once ended after random times (SIGKILL,
SIGTERM and Ctrl-C in turn, and in turn while a checkpoint is being written), and started again with
the same command. Then compares the last checkpoints bit for bit, and the logs: every step once."""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from personlab_keras.training.checkpoints import CHECKPOINTS, latest_checkpoint
from personlab_keras.training.run_log import LOG_FILE, read_log

LOG_EVERY = 5
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SETTINGS = (
    "model.backbone=small", "model.alpha=0.25", "model.output_stride=8", "model.weights=null", "train.freeze_batch_norm=false",
    "train.optimizer=adam", "train.ema=0.99", "train.batch_size=4", f"train.log_every={LOG_EVERY}", "train.checkpoint_every=5",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--records", type=Path, required=True, help="what `personlab prepare` wrote"
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        cut: set[int] = set()
        start(options.records, whole, options.steps).wait()
        print(f"undisturbed: {latest_checkpoint(whole)}", flush=True)
        for kill in range(options.kills):
            process = start(options.records, killed, options.steps)
            wait_for_a_moment(process, killed, chance, during_write=kill % 3 == 2)
            process.send_signal(SIGNALS[kill // 3 % 3])
            process.wait()
            reached = [line["step"] for line in read_log(killed)]
            unfinished = [path.name for path in killed.rglob("*.part")]
            latest = latest_checkpoint(killed)
            step = int(latest.stem.partition("-")[2]) if latest else 0
            if step % LOG_EVERY:  # the line of this interval is the mean of its other steps
                cut.add(-(-step // LOG_EVERY) * LOG_EVERY)
            name = SIGNALS[kill // 3 % 3].name
            print(
                f"{name} {kill + 1}: log at step {max(reached, default=0)}, checkpoint "
                f"{latest and latest.name}, unfinished: {unfinished}",
                flush=True,
            )
        start(options.records, killed, options.steps).wait()
        compare(whole, killed, options.steps, cut)


def start(records: Path, workdir: Path, steps: int) -> subprocess.Popen:
    """The run as a user would start it."""
    settings = [
        argument
        for setting in (*SETTINGS, f"train.steps={steps}")
        for argument in ("--set", setting)
    ]
    command = [
        sys.executable,
        "-m",
        "personlab_keras.cli",
        "train",
        "--records",
        records,
        "--workdir",
        workdir,
        *settings,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )


def wait_for_a_moment(
    process: subprocess.Popen, workdir: Path, chance: random.Random, during_write: bool
) -> None:
    """Until the run has logged something new and then a random time, or until a checkpoint is being
    written.
    """
    size = (workdir / LOG_FILE).stat().st_size if (workdir / LOG_FILE).is_file() else 0
    while process.poll() is None:
        log = workdir / LOG_FILE
        if during_write and list((workdir / CHECKPOINTS).glob(".*.part")):
            return
        if not during_write and log.is_file() and log.stat().st_size > size:
            time.sleep(chance.uniform(0, 0.5))
            return
        time.sleep(0.0005 if during_write else 0.01)


def compare(whole: Path, killed: Path, steps: int, cut: set[int]) -> None:
    """Prints whether two runs ended alike; exits with 1 where not. The losses of intervals in which
    the run saved and stopped are not compared.
    """
    first, second = (dict(np.load(str(latest_checkpoint(folder)))) for folder in (whole, killed))
    different = [
        name
        for name in first.keys() | second.keys()
        if not np.array_equal(first.get(name), second.get(name))
    ]
    logged = [line["step"] for line in read_log(killed)]
    print(
        f"{len(first)} arrays, {len(different)} differ; last step {int(second['step'])} of {steps}"
    )
    once = logged == [line["step"] for line in read_log(whole)]
    print(f"every line of the log once and in order: {once}")
    losses = all(
        a["loss"] == b["loss"]
        for a, b in zip(read_log(whole), read_log(killed), strict=False)
        if a["step"] not in cut
    )
    print(f"losses equal: {losses}")
    if different or not once or not losses:
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Who writes the shards: this process, several of this machine, or a Beam pipeline. What they write
does not depend on it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.shards import STATE, Task, Written, finished, write_shard
from personlab_keras.beam_options import beam_options
from personlab_keras.errors import InputError
from personlab_keras.io.files import write_atomically
from personlab_keras.io.processes import workers_ignore_interrupts

if TYPE_CHECKING:
    pass

Engine = Callable[[Sequence[Task]], Iterator[Written]]
"""Tasks -> what became of them, in any order."""


def processes(workers: int) -> Engine:
    """Worker processes of this machine; with one, or none, this process itself."""

    def run(tasks: Sequence[Task]) -> Iterator[Written]:
        count = min(workers, len(tasks))
        if count <= 1:
            yield from map(write_shard, tasks)
            return
        # Spawned, not forked: the threads of libraries do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count, mp_context=context, initializer=_die_with_parent) as pool:
            with workers_ignore_interrupts():  # all workers start with the first submission
                futures = [pool.submit(write_shard, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in multiprocessing.active_children():
                    worker.terminate()
                if isinstance(error, BrokenProcessPool):
                    raise InputError(
                        "a worker process was ended from outside, by the system for want of memory perhaps"
                    ) from None
                raise

    return run


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever, or write into a folder that
    somebody else has taken over.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def beam(options: Sequence[str] = ()) -> Engine:
    """An Apache Beam pipeline, of one step: a shard is an element.

    Whatever its workers are, they must see the folders of images and records under the same paths.

    Args:
        options: of the pipeline, as Beam's command lines take them: ("--runner=FlinkRunner",
            "--parallelism=8"). None run it here, in this process.

    Raises:
        InputError: Beam is not installed, or cannot read the options. (What it does not know it
            hands to the runner.)
    """
    parsed = beam_options(options)
    import apache_beam

    def run(tasks: Sequence[Task]) -> Iterator[Written]:
        failure = tasks[0].out / STATE / "failure.json"
        failure.unlink(missing_ok=True)
        try:
            with apache_beam.Pipeline(options=parsed) as pipeline:
                elements = (
                    pipeline | "shards" >> apache_beam.Create(list(tasks)) | apache_beam.Reshuffle()
                )
                _ = elements | "write" >> apache_beam.Map(_write_noting_failure, str(failure))
        except Exception as error:
            raise InputError(
                f"the Beam pipeline failed: {' '.join(str(error).split())[:300]}"
            ) from error
        if failure.is_file():
            raise InputError(json.loads(failure.read_bytes()))
        # What it wrote is told by the notes: elements that come back would have to come to this
        # machine by some file anyway.
        for task in tasks:
            written = finished(task)
            if written is None:
                raise InputError(
                    f"{task.out / task.name}: not written by the pipeline, or its workers see another folder of that name"
                )
            yield written

    return run


def _write_noting_failure(task: Task, failure: str) -> None:
    """Beam tries an element that raised again, and passes on the error as text among its own: what
    more tries cannot mend is noted.
    """
    if Path(failure).exists():
        return
    try:
        write_shard(task)
    except InputError as error:
        write_atomically(failure, json.dumps(str(error)).encode())

"""Engines that write the shards: this process, worker processes, or a Beam pipeline. All write the
same bytes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from data_prep.shards import STATE, Task, Written, finished, write_shard
from personlab_keras.beam_options import beam_options
from personlab_keras.errors import InputError
from personlab_keras.io.files import as_place, write_atomically
from personlab_keras.io.processes import workers_ignore_interrupts

Engine = Callable[[Sequence[Task]], Iterator[Written]]
"""Tasks -> their results, in any order."""


def processes(workers: int) -> Engine:
    """An engine of worker processes, or of this process alone if `workers` is at most 1."""

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
                        "a worker process was killed, perhaps because the machine ran out of memory"
                    ) from None
                raise

    return run


def _die_with_parent() -> None:
    """Ends this worker when its parent is killed: it would otherwise wait forever, or write into a
    folder that another process has taken over.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def beam(options: Sequence[str] = ()) -> Engine:
    """An engine that runs one Apache Beam pipeline, whose elements are the shards.

    All workers must see the image folder and the records folder under the same paths.

    Args:
        options: pipeline options as on Beam's command line, such as ("--runner=FlinkRunner",
            "--parallelism=8"). Without any, the pipeline runs in this process.

    Raises:
        InputError: if Beam is not installed or cannot parse the options. (Unknown options go to the
            runner.)
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
        # The results come from the notes: elements returned by a pipeline would need a file on this
        # machine, too.
        for task in tasks:
            written = finished(task)
            if written is None:
                raise InputError(
                    f"{task.out / task.name}: not written by the pipeline, unless its workers write to another folder of that name"
                )
            yield written

    return run


def _write_noting_failure(task: Task, failure: str) -> None:
    """Writes a shard, and an `InputError` into the file `failure`: Beam would retry the element in
    vain and bury the message in its own.
    """
    if as_place(failure).is_file():
        return
    try:
        write_shard(task)
    except InputError as error:
        write_atomically(failure, json.dumps(str(error)).encode())

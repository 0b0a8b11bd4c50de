"""Reading training examples with Grain (`data.engine: grain`): its processes take the place of
tf.data's threads; stream and augmentation are the same.
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from personlab_keras.data.stream import Part, Stream
from personlab_keras.errors import InputError

Prepare = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]
"""(position, serialised record) -> example."""
_THREADS = 2
"""Of a process: one reads while the other computes."""


def grain_examples(
    stream: Stream,
    part: Part,
    make: Callable[[], Prepare],
    signature: dict[str, tf.TensorSpec],
    processes: int,
) -> tf.data.Dataset:
    """The examples of a part of the stream, without end.

    Args:
        make: builds the function that prepares a record, in each process; can be pickled.
        signature: shapes and types of an example.
        processes: that read and prepare.

    Raises:
        InputError: Grain is not installed.
    """
    try:
        import grain
        from absl import flags
    except ImportError:
        raise InputError(
            "data.engine=grain needs the package grain: pip install 'personlab-keras[grain]'"
        ) from None
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads flags that this command line does not have
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of the processes: they say it all again
    dataset = (
        grain.MapDataset.source(_Source(stream, part))
        .map(_Prepared(make))
        .to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=2 * _THREADS))
    )
    # Examples come through a pipe, which takes no longer than shared memory, and of which nothing
    # is left to complain about when a run ends early.
    through_pipe = grain.experimental.DatasetOptions(min_shm_size=2**62)
    dataset = grain.experimental.WithOptionsIterDataset(dataset, through_pipe).mp_prefetch(
        grain.MultiprocessingOptions(num_workers=processes), _ignore_interrupts
    )

    def examples() -> Iterator[dict[str, np.ndarray]]:
        iterator = iter(dataset)
        # Else the processes would be killed at the exit, in the middle of something.
        closing = atexit.register(iterator.close)
        try:
            yield from iterator
        except Exception as error:  # of a process, which Grain passes on as one of its own
            raise ValueError(str(error)) from error
        finally:
            iterator.close()
            atexit.unregister(closing)

    return tf.data.Dataset.from_generator(examples, output_signature=signature)


def _ignore_interrupts(number: int, processes: int) -> None:
    """At the start of a process: a terminal sends Ctrl-C to all, and the one that trains ends the
    others.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Source:
    """Grain's data source: (position, serialised example) by number among those of the part."""

    def __init__(self, stream: Stream, part: Part) -> None:
        self._stream, self._part = stream, part

    def __len__(self) -> int:
        return 2**62  # no end: Grain wants a length all the same

    def __getitem__(self, number: int) -> tuple[int, bytes]:
        position = self._part.position(int(number))
        return position, self._stream.read(position)


class _Prepared:
    """A record -> its example as NumPy arrays, in a process of its own."""

    def __init__(self, make: Callable[[], Prepare]) -> None:
        self._make = make

    @functools.cached_property
    def _function(self) -> Any:
        # An accelerator belongs to the process that trains.
        tf.config.set_visible_devices([], "GPU")
        # tf.data computes what is written; rewritten, the last bits of an image are others.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        return tf.function(self._make(), autograph=False)

    def __call__(self, record: tuple[int, bytes]) -> dict[str, np.ndarray]:
        position, content = record
        example = self._function(tf.constant(position, tf.int64), tf.constant(content))
        return {name: value.numpy() for name, value in example.items()}

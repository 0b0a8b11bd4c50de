"""The training stream: which record is at which position. Every engine, every format of records and
any number of processes give this stream.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from personlab_keras.config import DataConfig
from personlab_keras.data.records import Meta, check_damage, read_example
from personlab_keras.data.shard_files import open_shard
from personlab_keras.data.tfrecords import Damage
from personlab_keras.errors import InputError
from personlab_keras.io.files import Place, as_place, file_sizes


@dataclass(frozen=True)
class Part:
    """The positions that one of several processes gives: its part of every batch.

    Attributes:
        first: position of the stream at which the first batch begins.
        batch: examples in a batch of all processes.
        number: of this part.
        count: of equal parts that a batch is divided into.
    """

    first: int = 0
    batch: int = 1
    number: int = 0
    count: int = 1

    def position(self, example: Any) -> Any:
        """The position in the stream of an example of this part, both counted from 0. Takes
        integers and tensors.

        >>> [Part(first=100, batch=4, number=1, count=2).position(i) for i in range(4)]
        [102, 103, 106, 107]
        """
        share = self.batch // self.count
        return self.first + example // share * self.batch + self.number * share + example % share


EVERYTHING = Part()
"""Every position, from the first."""


def epoch_order(sizes: Sequence[int], window: int, seed: int, epoch: int) -> np.ndarray:
    """(N,) int64: the numbers of all records, in the order of one pass over them.

    Shards come in random order, and their records in random order within windows: reading stays
    within few files, and the order is a function of the arguments alone.

    >>> epoch_order([2, 3], window=5, seed=0, epoch=0)
    array([0, 3, 2, 1, 4])

    Args:
        sizes: records in each shard; records are numbered through.
        window: records that are shuffled together (`data.shuffle_records`).
    """
    # The raw numbers of a bit generator are the same in every version of NumPy; what is drawn from
    # them need not be.
    count = sum(sizes)
    random = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(len(sizes) + count)
    starts = np.cumsum([0, *sizes])
    numbers = np.concatenate(
        [np.arange(starts[shard], starts[shard + 1]) for shard in np.argsort(random[: len(sizes)])]
    )
    return numbers[np.lexsort((random[len(sizes) :], np.arange(count) // window))]


class Stream:
    """The records of a folder by their position in the endless training stream.

    With `settings.skip_corrupt`, a damaged record is replaced by the next sound one wherever it
    comes up, so that all positions stay as they are and nobody has to read other records than its
    own to know them.

    Args:
        folder: of the records.
        settings: `shuffle_records` and `skip_corrupt` are used.
        seed: of the order.

    Raises:
        InputError: a shard is not of the length that meta.json says.
    """

    def __init__(self, folder: str | Place, meta: Meta, settings: DataConfig, seed: int) -> None:
        self._folder, self._meta, self._settings, self._seed = (
            as_place(folder),
            meta,
            settings,
            seed,
        )
        self._starts = np.cumsum([0, *(shard.records for shard in meta.shards)])
        self._damaged: dict[int, Damage] = {}
        self._prepare()
        if not settings.skip_corrupt:
            check_lengths(folder, meta)

    def read(self, position: int) -> bytes:
        """The record at a position, as a serialised example; several threads may read.

        Raises:
            InputError: it is damaged, or more than `skip_corrupt` have been.
        """
        epoch, within = divmod(int(position), self._meta.records)
        first = int(self._order(epoch)[within])
        for number in range(first, first + self._meta.records):
            content = self._content(number % self._meta.records)
            if not isinstance(content, Damage):
                return content
            self._note(number % self._meta.records, content)
        raise InputError(f"{self._folder}: no record is sound")

    def _content(self, number: int) -> bytes | Damage:
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        within = number - int(self._starts[shard])
        with self._opening[shard]:  # once: in a bucket it takes many requests
            opened = self._open(shard)
        content = opened.read(within)
        if self._settings.skip_corrupt and not isinstance(content, Damage):
            # A sound sum over something else than a record: found before it would end the stream.
            try:
                read_example(content, self._meta)
            except ValueError as error:
                path = self._folder / self._meta.shards[shard].name
                return Damage(path, within, 0, str(error))
        return content

    def _note(self, number: int, damage: Damage) -> None:
        with self._lock:
            if number in self._damaged:
                return
            self._damaged[number] = damage
            damaged = list(self._damaged.values())
        check_damage(damaged, self._settings.skip_corrupt, self._folder)
        logging.getLogger(__name__).warning("skipped: %s", damage)

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._opening: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        # A window touches a handful of shards, and prefetching two epochs at most.
        self._open = functools.lru_cache(maxsize=16)(
            lambda shard: open_shard(self._folder / self._meta.shards[shard].name)
        )
        self._order = functools.lru_cache(maxsize=2)(
            lambda epoch: epoch_order(
                [shard.records for shard in self._meta.shards],
                self._settings.shuffle_records,
                self._seed,
                epoch,
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without open files, for worker processes."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ("_lock", "_opening", "_open", "_order")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()


def check_lengths(folder: str | Place, meta: Meta) -> None:
    """Raises:
    InputError: a shard is not of the length that meta.json says.
    """
    sizes = file_sizes(as_place(folder))
    for shard in meta.shards:
        size = sizes[shard.name]
        if size != shard.bytes:
            raise InputError(
                f"{as_place(folder) / shard.name}: must be {shard.bytes} bytes long, as meta.json says. Received: {size}"
            )

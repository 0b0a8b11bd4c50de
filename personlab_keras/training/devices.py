"""The devices and processes that train, and how they share a batch."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from personlab_keras.errors import InputError

_TENSORFLOW_PROCESSES = "TF_CONFIG"
_JAX_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"


@dataclass(frozen=True)
class Devices:
    """The devices that share every batch.

    Attributes:
        strategy: TensorFlow's, where one is needed.
        count: of devices, in all processes.
        process: number of this one; process 0 alone writes.
        processes: that train together.
    """

    strategy: Any = None
    count: int = 1
    process: int = 0
    processes: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process keeps the workdir."""
        return self.process == 0

    @property
    def keep_network_whole(self) -> bool:
        """Whether this process can predict with the network that trains: other processes need not
        join in, and batches of any size do, which on JAX the devices could not share."""
        return self.processes == 1 and (keras.backend.backend() != "jax" or self.count == 1)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Networks and optimizers created in this context are shared by the devices."""
        return self.strategy.scope() if self.strategy is not None else contextlib.nullcontext()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Networks created and used in this context belong to this process alone."""
        if keras.backend.backend() != "jax":
            yield
            return
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)

    def check_batch(self, batch_size: int) -> None:
        """Raises:
        InputError: a batch cannot be shared equally.
        """
        if batch_size % self.count:
            raise InputError(
                f"train.batch_size must be a multiple of the {self.count} devices. Received: {batch_size}"
            )

    def feed(self, dataset: tf.data.Dataset, batch_size: int) -> Any:
        """The input of `fit`, for batches of this process' part of `batch_size` examples."""
        if self.processes == 1 or self.strategy is None:
            return dataset
        # Strategies of several processes would have every process read everything.
        mine = (
            dataset if self.count == self.processes else dataset.rebatch(batch_size // self.count)
        )
        return self.strategy.distribute_datasets_from_function(lambda _: mine)

    def gather(self, value: float) -> np.ndarray:
        """(processes,) float: the value of each process. All processes must call it."""
        if self.processes == 1:
            return np.array([value])
        if self.strategy is not None:
            # Every device of a process adds an equal share of its value.
            mine = tf.one_hot(self.process, self.processes) * value * self.processes / self.count
            return self.strategy.experimental_local_results(self._sum_over_devices(mine))[0].numpy()
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(np.array(value)))

    @functools.cached_property
    def _sum_over_devices(self) -> Callable[[tf.Tensor], Any]:
        def add(value: tf.Tensor) -> tf.Tensor:
            on_device = tf.identity(
                value
            )  # what comes from without has no place in the eyes of the strategy
            return tf.distribute.get_replica_context().all_reduce(
                tf.distribute.ReduceOp.SUM, on_device
            )

        return tf.function(lambda value: self.strategy.run(add, args=(value,)), autograph=False)


def join(name: str) -> bool:
    """Joins the other processes, if a strategy or the environment says that there are any; returns
    whether.

    To be done before anything is computed. Each process says which it is: to TensorFlow by
    TF_CONFIG, to JAX by KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID. The hosts
    of a TPU slice know each other without.

    Raises:
        InputError: the processes cannot join; a TPU is asked for where there is none, or of
            TensorFlow; several devices are asked for of PyTorch.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        if name not in ("auto", "single"):
            raise InputError(
                f"train.strategy={name}: PyTorch trains on one device here; "
                "KERAS_BACKEND=tensorflow and jax train on several"
            )
        return False
    jax = backend == "jax"
    if not jax and (name == "tpu" or (name == "auto" and "TPU_NAME" in os.environ)):
        cause = "tpu" if name == "tpu" else f"auto with TPU_NAME={os.environ['TPU_NAME']}"
        raise InputError(
            f"train.strategy={cause}: TensorFlow no longer supports TPUs; train through JAX: "
            "KERAS_BACKEND=jax personlab train ... --set train.strategy=tpu (pip install "
            "'personlab-keras[tpu]')"
        )
    if name not in ("multiworker", "tpu") and not (
        name == "auto" and (_JAX_PROCESSES if jax else _TENSORFLOW_PROCESSES) in os.environ
    ):
        return False
    if name == "tpu":
        _join_slice()
    elif jax:
        _join_jax()
    else:
        _multi_worker_strategy()
    return True


@contextlib.contextmanager
def connect(name: str) -> Iterator[Devices]:
    """The devices to train on: see `train.strategy`.

    Raises:
        InputError: as `join`.
    """
    joined = join(name)
    if keras.backend.backend() == "jax":
        yield from _jax_devices(name)
        return
    if keras.backend.backend() == "torch":
        yield Devices()
        return
    if joined:
        strategy = _multi_worker_strategy()
        resolver = strategy.cluster_resolver
        chiefs, workers = (
            len(resolver.cluster_spec().as_dict().get(task, ())) for task in ("chief", "worker")
        )
        number = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
        yield Devices(strategy, strategy.num_replicas_in_sync, number, chiefs + workers)
    elif name == "mirrored" or (name == "auto" and len(tf.config.list_physical_devices("GPU")) > 1):
        # Where there is no GPU, all logical CPUs.
        strategy = tf.distribute.MirroredStrategy()
        yield Devices(strategy, strategy.num_replicas_in_sync)
    else:
        yield Devices()


def _jax_devices(name: str) -> Iterator[Devices]:
    import jax

    count = 1 if name == "single" else len(keras.distribution.list_devices())
    if count == 1:
        yield Devices()
        return
    # Every process reads its part of each batch alone: `data.make_dataset`.
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    try:
        yield Devices(None, count, jax.process_index(), jax.process_count())
    finally:
        keras.distribution.set_distribution(None)


@functools.cache
def _multi_worker_strategy() -> Any:
    if _TENSORFLOW_PROCESSES not in os.environ:
        raise InputError(
            f"train.strategy: multiworker needs {_TENSORFLOW_PROCESSES}, which names the processes and which of them this is"
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, RuntimeError, KeyError, tf.errors.OpError) as error:
        raise InputError(
            f"train.strategy: the processes that TF_CONFIG names cannot join: {str(error).splitlines()[0]}"
        ) from None


@functools.cache
def _join_jax() -> None:
    try:
        keras.distribution.initialize()
    except (ValueError, RuntimeError) as error:
        names = "KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID"
        raise InputError(
            f"train.strategy: the processes that {names} name cannot join: {str(error).splitlines()[0]}"
        ) from None


@functools.cache
def _join_slice() -> None:
    import jax

    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"train.strategy=tpu: no TPU here: {str(error).splitlines()[0]}") from None
    if not has_tpu():
        raise InputError(
            f"train.strategy=tpu: JAX finds no TPU here, but {jax.devices()[0].device_kind}"
        )


def has_tpu() -> bool:
    """Whether steps run on a TPU."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == "tpu"


def replica_count() -> int:
    """Devices that share a batch by a strategy of TensorFlow. On JAX there is one step for all
    devices, which counts as one.
    """
    return (
        tf.distribute.get_strategy().num_replicas_in_sync
        if keras.backend.backend() == "tensorflow"
        else 1
    )


def mean_over_replicas(value: Any) -> Any:
    """A number, averaged over the devices that share a batch."""
    if replica_count() == 1:
        return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)


def memory() -> dict[str, float]:
    """Mebibytes by name, the most so far: 'host_MiB' of this process, 'device_MiB' of its first
    accelerator, if any.
    """
    import resource  # not on Windows, where everything but training still works

    found = {
        "host_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**20 if sys.platform == "darwin" else 2**10)
    }
    peak = None
    if keras.backend.backend() == "jax":
        import jax

        peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    elif keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
    elif tf.config.list_physical_devices("GPU"):
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return found if peak is None else {**found, "device_MiB": peak / 2**20}

"""Which devices train, and how they share a batch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from personlab_keras.errors import InputError


@contextlib.contextmanager
def distribution(name: str) -> Iterator[None]:
    """The devices to train on: see `train.strategy`. On the JAX backend all devices share each batch ('auto', 'mirrored').

    Raises:
        InputError: an unknown name, or no TPU where one is asked for.
    """
    if name not in ("auto", "single", "mirrored", "tpu"):
        raise InputError(f"train.strategy must be auto, single, mirrored or tpu. Received: {name}")
    if keras.backend.backend() == "jax":
        if name != "single" and len(keras.distribution.list_devices()) > 1:
            keras.distribution.set_distribution(keras.distribution.DataParallel())
        try:
            yield
        finally:
            keras.distribution.set_distribution(None)
        return
    strategy: Any = None
    if name == "tpu" or (name == "auto" and "TPU_NAME" in os.environ):
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            raise InputError(f"train.strategy: no TPU can be reached: {str(error).splitlines()[0]}") from None
        strategy = tf.distribute.TPUStrategy(resolver)
    elif name == "mirrored" or (name == "auto" and len(tf.config.list_physical_devices("GPU")) > 1):
        # Where there is no GPU, all logical CPUs.
        strategy = tf.distribute.MirroredStrategy()
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        yield


def replica_count() -> int:
    """Devices that share a batch by a strategy of TensorFlow. On JAX there is one step for all devices, which counts as one."""
    return tf.distribute.get_strategy().num_replicas_in_sync if keras.backend.backend() == "tensorflow" else 1


def mean_over_replicas(value: Any) -> Any:
    """A number, averaged over the devices that share a batch."""
    if replica_count() == 1:
        return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)

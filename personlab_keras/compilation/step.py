"""The training step of `fit` on JAX, for devices that need not be there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from personlab_keras.data.pipeline import batch_spec
from personlab_keras.data.records import Meta
from personlab_keras.training.training_model import TrainingModel

BATCH = "batch"


def step_on(training_model: TrainingModel, devices: Sequence[Any]) -> Any:
    """The step as `fit` runs it on these devices: `TrainingModel.train_step`, compiled, from
    (state, batch) to (logs, state). The new state takes over the memory of the old one. Every
    device holds the whole state and an equal part of the batch.
    """
    whole, divided = shardings(devices)
    # `fit` lets the first step decide where its arguments lie: here they are told.
    return jax.jit(
        training_model.train_step,
        donate_argnums=0,
        in_shardings=(whole, divided),
        out_shardings=(None, whole),
    )


def shardings(devices: Sequence[Any]) -> tuple[NamedSharding, NamedSharding]:
    """How the state lies on devices, and how a batch does."""
    mesh = Mesh(np.array(devices), (BATCH,))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(BATCH))


def state_of(training_model: TrainingModel) -> tuple[list[Any], ...]:
    """What a step changes, as `fit` hands it over: weights, other variables of the network, those
    of the optimizer and of the metrics.
    """
    groups = (
        training_model.trainable_variables,
        training_model.non_trainable_variables,
        training_model.optimizer.variables,
        training_model.metrics_variables,
    )
    return tuple([variable.value for variable in group] for group in groups)


def lower_step(
    training_model: TrainingModel, meta: Meta, batch_size: int, devices: Sequence[Any]
) -> Any:
    """The step as a program that can be compiled for these devices, from shapes alone.

    Args:
        meta: of the records that it would be fed with; their files are not read.
        batch_size: views of all devices together.
    """
    state = jax.tree.map(_shape, state_of(training_model))
    batch = jax.tree.map(_shape, batch_spec(meta, batch_size))
    return step_on(training_model, devices).lower(state, batch)


def _shape(value: Any) -> jax.ShapeDtypeStruct:
    dtype = getattr(value.dtype, "as_numpy_dtype", value.dtype)
    return jax.ShapeDtypeStruct(tuple(value.shape), dtype)

"""The Keras model that `fit` trains: a network with its losses and its optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np

from personlab_keras.config import Config, TrainConfig
from personlab_keras.data.pipeline import WAIT
from personlab_keras.method.maps import EXTRA_OUTPUTS, PROBABILITIES, mask_name
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton
from personlab_keras.model.losses import masked_mean, personlab_losses, total_loss
from personlab_keras.model.network import (
    assign,
    build_model,
    copies,
    freeze_batch_norm,
    freeze_untrained_heads,
)
from personlab_keras.model.refinement import Refinement
from personlab_keras.model.training_graph import training_graph
from personlab_keras.training.devices import has_tpu, mean_over_replicas, replica_count
from personlab_keras.training.optimizers import build_optimizer

WORST = "worst/"
"""What the names of `WorstStep` metrics begin with."""


class WorstStep(keras.metrics.Metric):
    """The step of the largest loss, counted from 1 since the last reset; the first of equal ones, 0
    if all losses were 0. NaN counts as infinity.

    It is computed on the device, so that the loss of every step need not be fetched.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        # Every device has the same in them.
        self._seen, self._worst, self._loss = (
            self.add_variable(shape=(), initializer="zeros", aggregation="mean", name=part)
            for part in ("seen", "worst", "loss")
        )

    def update_state(self, loss: Any) -> None:
        self._seen.assign(self._seen + 1.0)
        seen, worst, largest = (
            keras.ops.convert_to_tensor(variable)
            for variable in (self._seen, self._worst, self._loss)
        )
        loss = keras.ops.where(keras.ops.isfinite(loss), loss, np.inf)
        self._worst.assign(keras.ops.where(loss > largest, seen, worst))
        self._loss.assign(keras.ops.maximum(loss, largest))

    def result(self) -> Any:
        return keras.ops.convert_to_tensor(self._worst)


class AveragedStatistics:
    """Polyak averages of the statistics of batch-norm, beside those of the weights that the
    optimizer keeps: averaged weights give other activations than those of the last step.

    Args:
        network: whose batch-norm layers are trained; frozen ones are left out.
        momentum: of the average (`train.ema`).

    Attributes:
        statistics: of the network.
        variables: the averages, and how many steps are in them.
    """

    def __init__(self, network: keras.Model, momentum: float) -> None:
        self._momentum = momentum
        trained = [
            layer
            for layer in network.layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]
        self.statistics = [
            variable for layer in trained for variable in (layer.moving_mean, layer.moving_variance)
        ]
        # Not a layer: Keras would count the statistics of the network as its weights.
        *self._averages, self._updates = self.variables = [
            keras.Variable("zeros", shape, trainable=False, aggregation="mean", name=f"average_{i}")
            for i, shape in enumerate([*(each.shape for each in self.statistics), ()])
        ]

    def update(self) -> None:
        """Takes the statistics of this step into the average; the first ones are the average."""
        seen = keras.ops.convert_to_tensor(self._updates)
        momentum = keras.ops.where(seen > 0.0, self._momentum, 0.0)
        for average, variable in zip(self._averages, self.statistics, strict=True):
            average.assign(momentum * average + (1.0 - momentum) * variable)
        self._updates.assign(seen + 1.0)

    def apply(self) -> None:
        """Puts the averages into the network, if there are any yet."""
        if float(keras.ops.convert_to_numpy(self._updates)) > 0.0:
            assign(self.statistics, copies(self._averages))


class TrainingModel(keras.Model):
    """The network with its losses, for `fit`. Logs the running mean of each loss.

    Args:
        network: as `build_model` makes it.
        settings: loss weights.
        radius: of the discs in pixels, the unit of offset errors.
        teacher: a network of the same kind, whose outputs `settings.kept_outputs` are the targets
            of ours; None if there are none.
    """

    def __init__(
        self,
        network: keras.Model,
        settings: TrainConfig,
        radius: float,
        teacher: keras.Model | None = None,
    ) -> None:
        super().__init__(name="training_model")
        self.network = network
        graph = training_graph(network)
        # In a function, where Keras does not look for layers: they are those of the network.
        self._compute = lambda image, training: graph(image, training=training)
        self.teacher = teacher
        if teacher is not None:
            teacher.trainable = False
        self._settings = settings
        self._radius = radius
        self.averaged_statistics = (
            AveragedStatistics(network, settings.ema)
            if settings.ema > 0 and not settings.freeze_batch_norm
            else None
        )
        if self.averaged_statistics is not None:  # Keras finds variables in attributes of its own
            self._averages = self.averaged_statistics.variables
        # Made here, not on first use: variables may not appear inside a compiled step.
        self._means = {
            name: keras.metrics.Mean(name=name)
            for name in network.output
            if name not in EXTRA_OUTPUTS
        }
        self._worst = {name: WorstStep(f"{WORST}{name}") for name in self._means}
        self._worst_in_all = WorstStep(f"{WORST}loss")
        self._wait = keras.metrics.Mean(name=WAIT)

    def call(self, image: Any, training: bool = False) -> dict[str, Any]:
        return self._compute(image, training)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [
            self._loss_tracker,
            *self._means.values(),
            *self._worst.values(),
            self._worst_in_all,
            self._wait,
        ]

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        if training and self.averaged_statistics is not None:
            self.averaged_statistics.update()
        if self.teacher is not None:
            kept = [name for name in self._settings.kept_outputs if name in self.teacher.output]
            y = {**y, **taught(self.teacher(x, training=False), y, kept)}
        mean = partial(masked_mean, mean_count=mean_over_replicas)
        losses = personlab_losses(y, y_pred, self._radius, mean)
        for name, loss in losses.items():
            self._means[name].update_state(loss)
            # A bad loss on one device stops all of them.
            self._worst[name].update_state(mean_over_replicas(loss))
        total = total_loss(losses, self._settings)
        self._worst_in_all.update_state(mean_over_replicas(total))
        if WAIT in y:
            self._wait.update_state(y[WAIT])
        # Keras adds up the gradients of devices that share a batch.
        return total / replica_count()

    def get_metrics_result(self) -> dict[str, Any]:
        # With one axis each: Keras averages them along it over several processes.
        return {
            name: keras.ops.reshape(value, (1,))
            for name, value in super().get_metrics_result().items()
        }

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Does nothing, since everything is built. Keras would first average a batch over the
        devices, which fails with several processes.
        """


def taught(
    outputs: Mapping[str, Any], targets: Mapping[str, Any], kept: Sequence[str]
) -> dict[str, Any]:
    """Targets and masks of the outputs that are kept: what a teacher gives, in every cell.

    Args:
        outputs: of the teacher, flat, `maps.PROBABILITIES` as logits.
        targets: of the batch, whose masks have the shapes.
        kept: names of outputs.
    """
    found = {}
    for name in kept:
        output = keras.ops.stop_gradient(outputs[name])
        found[name] = keras.ops.sigmoid(output) if name in PROBABILITIES else output
        found[mask_name(name)] = keras.ops.ones_like(targets[mask_name(name)])
    return found


def build_training_model(
    config: Config,
    skeleton: Skeleton = COCO_PERSON,
    pretrained: bool = True,
    on_tpu: bool | None = None,
) -> TrainingModel:
    """A compiled network with its optimizer.

    Args:
        pretrained: whether to load `model.weights`. A teacher (`train.kept_outputs`) gets random
            weights: those of the initial network are to be copied.
        on_tpu: whether its steps run on a TPU; None to look where they would run.
    """
    policy = keras.config.dtype_policy()
    if config.train.mixed_precision is not None:
        keras.config.set_dtype_policy(f"mixed_{config.train.mixed_precision}")
    try:
        network = build_model(
            config.model if pretrained else replace(config.model, weights=None), skeleton
        )
        freeze_untrained_heads(network)
        if config.train.freeze_batch_norm:
            freeze_batch_norm(network)
        teacher = None
        if config.train.kept_outputs:
            like_it = replace(config.model, weights=None, middle_layer=None)
            teacher = build_model(like_it, skeleton)
        by_products = has_tpu() if on_tpu is None else on_tpu
        for layer in [*network.layers, *(teacher.layers if teacher else ())]:
            if isinstance(layer, Refinement):
                layer.by_products = by_products
        training_model = TrainingModel(network, config.train, config.targets.radius, teacher)
        # Without, Keras computes a step of JAX operation by operation.
        compiled = config.train.jit_compile or keras.backend.backend() == "jax"
        training_model.compile(optimizer=build_optimizer(config.train), jit_compile=compiled)
    finally:
        keras.config.set_dtype_policy(policy)
    training_model.build((None, None, None, 3))
    training_model.optimizer.build(training_model.trainable_variables)
    return training_model


def averaged_variables(training_model: TrainingModel) -> list[Any]:
    """The variables of the network of which averages are kept: weights, and the statistics of
    batch-norm where it is trained.
    """
    averages = training_model.averaged_statistics
    statistics = [] if averages is None else averages.statistics
    return [*training_model.trainable_variables, *statistics]


def put_averages(training_model: TrainingModel) -> None:
    """Replaces the weights and statistics of the network by their averages, where there are any."""
    training_model.optimizer.finalize_variable_values(training_model.trainable_variables)
    if training_model.averaged_statistics is not None:
        training_model.averaged_statistics.apply()


@contextlib.contextmanager
def averaged_weights(training_model: TrainingModel) -> Iterator[None]:
    """Inside this context the network has its Polyak averages, if they are kept."""
    if not training_model.optimizer.use_ema:
        yield
        return
    variables = averaged_variables(training_model)
    current = copies(variables)
    put_averages(training_model)
    # On JAX the weights now share memory with the averages, which a prediction would give away.
    assign(variables, copies(variables))
    try:
        yield
    finally:
        assign(variables, current)

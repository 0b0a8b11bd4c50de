"""How near is a training step to what the machine can do?

    python benchmarks/train_step.py --config demo finetune edge
    KERAS_BACKEND=jax python benchmarks/train_step.py --config coco tpu
    python benchmarks/train_step.py --config demo --records demo/records/train

For each recipe and the backend of KERAS_BACKEND: milliseconds of the forward pass, of forward pass
and losses, and of the full step (gradients, optimizer, averaging) on a batch that stays in memory,
each the median of the rounds. Beside the step its floor: the longer of

- the operations of its convolutions, forward and twice that backward, at the rate that a large
  product of matrices reaches here, and
- the bytes that convolutions read and write, three times those of the forward pass, at the rate of
  copying a large array.

Last, the largest resident memory of the process so far: to compare recipes by it, run each in a
process of its own.

With records also images per second of the input pipeline, all cores, which should be above those of
the step. Random weights and images: the time does not depend on them.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from personlab_keras.config import Config, load_config
from personlab_keras.data.pipeline import make_dataset
from personlab_keras.method.coordinates import map_side
from personlab_keras.method.maps import OUTPUTS, PROBABILITIES, mask_name
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.model.losses import personlab_losses, total_loss
from personlab_keras.training.devices import memory
from personlab_keras.training.training_model import TrainingModel, build_training_model

JAX = keras.backend.backend() == "jax"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", nargs="+", required=True, help="recipes: names or YAML files")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for all recipes"
    )
    parser.add_argument("--records", help="of the first recipe's view size and stride")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="per round")
    options = parser.parse_args()
    device = accelerator()
    print(
        f"backend {keras.backend.backend()}, Keras {keras.__version__}, device {device}, {len(os.sched_getaffinity(0))} cores"
    )
    rates = {kind: matmul_rate(kind, options.rounds) for kind in ("float32", "bfloat16")}
    bandwidth = copy_rate(options.rounds)
    measured = ", ".join(
        f"{kind} products {rate / 1e9:.0f} GFLOP/s" for kind, rate in rates.items()
    )
    print(f"{measured}, copies {bandwidth / 1e9:.1f} GB/s")
    print(
        "| recipe | view | batch | compute | forward, ms | + losses, ms | step, ms | floor, ms | of it reached | images/s | peak, MiB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.config:
        config = recipe(name, options.set)
        kind = config.train.mixed_precision or "float32"
        training_model = build_training_model(config)
        image, targets = batch_of(config)
        forward, with_losses = (
            median_ms(
                compiled(training_model, config, image, targets, losses),
                options.rounds,
                options.steps,
            )
            for losses in (False, True)
        )
        step = step_ms(training_model, image, targets, options.rounds, options.steps)
        operations, traffic = forward_work(training_model.network, config, kind)
        floor = (
            1e3
            * config.train.batch_size
            * max(3 * operations / rates[kind], 3 * traffic / bandwidth)
        )
        cells = [
            name,
            config.data.view_size,
            config.train.batch_size,
            kind,
            *(f"{ms:.1f}" for ms in (forward, with_losses, step, floor)),
        ]
        cells += [f"{floor / step:.2f}", f"{1e3 * config.train.batch_size / step:.1f}"]
        cells += [round(memory()["host_MiB"])]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if options.records:
        config = recipe(options.config[0], options.set)
        batches = iter(
            make_dataset(
                options.records, config.train.batch_size, training=True, settings=config.data
            )
        )
        for _ in range(10):
            next(batches)
        began, count = time.perf_counter(), 100
        for _ in range(count):
            next(batches)
        print(
            f"input pipeline: {count * config.train.batch_size / (time.perf_counter() - began):.0f} images/s on all cores"
        )


def accelerator() -> str:
    if JAX:
        import jax

        found = jax.devices()[0].device_kind
    else:
        devices = tf.config.list_physical_devices("GPU")
        found = (
            tf.config.experimental.get_device_details(devices[0])["device_name"]
            if devices
            else "cpu"
        )
    return platform.processor() or platform.machine() if found == "cpu" else found


def recipe(name: str, overrides: list[str]) -> Config:
    """Random weights: loading takes longer than the benchmark. One device. Outputs at the stride of
    the targets, as in training.
    """
    config = load_config(name, [*overrides, "model.weights=null", "train.strategy=single"])
    return replace(config, model=replace(config.model, target_stride=config.targets.stride))


def batch_of(config: Config) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images and targets of the right shapes, a tenth of all cells counted."""
    rng, size, side = np.random.default_rng(0), config.train.batch_size, config.data.view_size
    cells = (size, *2 * (map_side(side, config.targets.stride),))
    targets = {}
    for name, channels in OUTPUTS.items():
        count = channels(COCO_PERSON)
        fields = 1 if name in PROBABILITIES else count // 2
        targets[name] = rng.random((*cells, count), np.float32)
        targets[mask_name(name)] = (rng.random((*cells, fields), np.float32) < 0.1).astype(
            np.float32
        )
    return rng.random((size, side, side, 3), np.float32) * 255, targets


def compiled(
    training_model: TrainingModel, config: Config, image: Any, targets: Any, with_losses: bool
) -> Callable[[], Any]:
    """A function that runs the network, as in training, and brings one number back."""

    def reduce(outputs: Any, truth: Any) -> Any:
        if with_losses:
            return total_loss(personlab_losses(truth, outputs, config.targets.radius), config.train)
        return sum(keras.ops.mean(output) for output in outputs.values())

    network = training_model.network
    image, targets = (
        keras.ops.convert_to_tensor(image),
        {k: keras.ops.convert_to_tensor(v) for k, v in targets.items()},
    )
    if JAX:
        import jax

        weights, state = (
            [v.value for v in vs]
            for vs in (network.trainable_variables, network.non_trainable_variables)
        )
        run = jax.jit(
            lambda w, s, x, y: reduce(network.stateless_call(w, s, x, training=True)[0], y)
        )
        return lambda: float(run(weights, state, image, targets))
    run = tf.function(
        lambda x, y: reduce(network(x, training=True), y),
        jit_compile=config.train.jit_compile,
        autograph=False,
    )
    return lambda: float(run(image, targets))


def median_ms(run: Callable[[], Any], rounds: int, steps: int) -> float:
    run()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(steps):
            run()
        times.append((time.perf_counter() - began) / steps)
    return 1e3 * statistics.median(times)


class Clock(keras.callbacks.Callback):
    """When each epoch ended; to know its losses `fit` has waited for all of its steps."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.ends: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())


def step_ms(
    training_model: TrainingModel, image: Any, targets: Any, rounds: int, steps: int
) -> float:
    """Of the step that `fit` makes, on batches that need no reading."""
    batches = tf.data.Dataset.from_tensors((image, targets)).repeat()
    clock = Clock()
    # The first epoch compiles.
    training_model.fit(
        batches,
        epochs=rounds + 1,
        steps_per_epoch=steps,
        verbose=0,
        shuffle=False,
        callbacks=[clock],
    )
    return 1e3 * float(np.median(np.diff(clock.ends))) / steps


def forward_work(network: keras.Model, config: Config, kind: str) -> tuple[float, float]:
    """Operations and bytes of the convolutions for one image."""
    side = config.data.view_size
    fixed = keras.models.clone_model(network, input_tensors=keras.Input((side, side, 3)))
    operations = traffic = 0.0
    for layer in fixed.layers:
        if isinstance(
            layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
        ):
            _, height, width, channels = layer.output.shape
            weights = sum(np.prod(v.shape) for v in layer.variables if v.name != "bias")
            # A depthwise kernel is applied once for each place as well: its channels are those of
            # the output.
            operations += 2.0 * weights * height * width
            size = 2 if layer.compute_dtype == "bfloat16" else 4
            traffic += size * (np.prod(layer.input.shape[1:]) + height * width * channels)
    return operations, traffic


def matmul_rate(kind: str, rounds: int) -> float:
    """Operations per second."""
    n = 2048 if accelerator() == (platform.processor() or platform.machine()) else 8192
    a = keras.ops.cast(keras.ops.ones((n, n)), kind)
    return 2.0 * n**3 / seconds_of(lambda x: keras.ops.matmul(x, x), a, rounds)


def copy_rate(rounds: int) -> float:
    """Bytes per second, reading and writing counted."""
    n = 2**26
    return 2 * 4.0 * n / seconds_of(lambda x: x + 1.0, keras.ops.ones((n,)), rounds)


def seconds_of(function: Callable[[Any], Any], x: Any, rounds: int) -> float:
    if JAX:
        import jax

        run = jax.jit(function)
        finish: Callable[[Any], Any] = lambda y: y.block_until_ready()  # noqa: E731
    else:
        run = tf.function(function)
        finish = lambda y: y[(0,) * len(y.shape)].numpy()  # noqa: E731
    finish(run(x))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(4):
            y = run(x)
        finish(y)
        times.append((time.perf_counter() - began) / 4)
    return min(times)


if __name__ == "__main__":
    main()

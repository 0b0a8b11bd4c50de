"""Losses and gradients of a step on Keras' backend, from the weights and the batch in a folder.

    KERAS_BACKEND=jax python backend_step.py FOLDER SETTINGS

Reads `start.npz` and `batch.npz`, and writes the losses and gradients to BACKEND.npz.
"""

import json
import sys

import keras
import numpy as np

from personlab_keras.config import load_config
from personlab_keras.model.losses import personlab_losses, total_loss
from personlab_keras.training.training_model import build_training_model


def step(folder, settings):
    config = load_config(None, settings)
    network = build_training_model(config, pretrained=False).network
    with np.load(f"{folder}/start.npz") as start:
        for i, variable in enumerate(network.variables):
            variable.assign(start[f"{i:04d}"])
    with np.load(f"{folder}/batch.npz") as saved:
        batch = {name: keras.ops.convert_to_tensor(array) for name, array in saved.items()}
    image = batch.pop("image")

    def losses_of(outputs):
        parts = personlab_losses(batch, outputs, config.targets.radius)
        return total_loss(parts, config.train), parts

    backend = keras.backend.backend()
    loss, parts, gradients = STEPS[backend](network, image, losses_of)
    named = zip(network.trainable_variables, gradients, strict=True)
    np.savez(
        f"{folder}/{backend}.npz",
        loss=keras.ops.convert_to_numpy(loss),
        **{name: keras.ops.convert_to_numpy(value) for name, value in parts.items()},
        **{
            f"gradient/{variable.path}/{i}": keras.ops.convert_to_numpy(gradient)
            for i, (variable, gradient) in enumerate(named)
        },
    )


def of_tensorflow(network, image, losses_of):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss, parts = losses_of(network(image, training=True))
    return loss, parts, tape.gradient(loss, [each.value for each in network.trainable_variables])


def of_jax(network, image, losses_of):
    import jax

    state = [variable.value for variable in network.non_trainable_variables]

    def compute(weights):
        return losses_of(network.stateless_call(weights, state, image, training=True)[0])

    weights = [variable.value for variable in network.trainable_variables]
    (loss, parts), gradients = jax.value_and_grad(compute, has_aux=True)(weights)
    return loss, parts, gradients


def of_torch(network, image, losses_of):
    loss, parts = losses_of(network(image, training=True))
    loss.backward()
    return loss, parts, [variable.value.grad for variable in network.trainable_variables]


STEPS = {"tensorflow": of_tensorflow, "jax": of_jax, "torch": of_torch}


if __name__ == "__main__":
    step(sys.argv[1], json.loads(sys.argv[2]))

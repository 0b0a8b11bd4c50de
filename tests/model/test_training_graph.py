"""The graph that training computes, against the network as it is built."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from personlab_keras.config import ModelConfig
from personlab_keras.model.network import build_model
from personlab_keras.model.training_graph import JointHeads, training_graph

CONFIGS = {
    "keras": ModelConfig(
        "resnet50", 1.0, 16, None, middle_layer="conv3_block1_out", target_stride=16
    ),
    "google": ModelConfig("resnet50_released", 1.0, 16, None),
    "small": ModelConfig("small", 0.25, 16, None, mid_refinements=1),
}


@pytest.fixture(params=CONFIGS, scope="module")
def network(request):
    keras.utils.set_random_seed(0)
    return build_model(CONFIGS[request.param])


def image_of(side):
    return np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype(np.float32)


def test_outputs_and_gradients_are_the_same(network):
    image, graph = image_of(65), training_graph(network)
    rng = np.random.default_rng(1)
    results = []
    for model in (network, graph):
        with tf.GradientTape() as tape:
            outputs = model(image, training=False)
            if not results:
                weights = {name: rng.normal(size=each.shape) for name, each in outputs.items()}
            loss = sum(
                tf.reduce_sum(each * tf.cast(weights[name], tf.float32))
                for name, each in outputs.items()
            )
        gradients = tape.gradient(loss, [v.value for v in network.trainable_variables])
        results.append([*(outputs[name] for name in weights), *gradients])
    for ours, theirs in zip(*results, strict=True):
        scale = float(np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


def test_every_set_of_heads_is_one_convolution(network):
    graph = training_graph(network)
    joint = [layer for layer in graph.layers if isinstance(layer, JointHeads)]
    sets = {name.removesuffix("heatmaps") for name in network.output if name.endswith("heatmaps")}
    assert len(joint) == len(sets)
    assert all(len(layer.heads) == 5 for layer in joint)
    heads = {id(head) for layer in joint for head in layer.heads}
    assert heads <= {id(layer) for layer in network.layers}
    assert {id(v) for v in graph.variables} == {id(v) for v in network.variables}


def test_the_first_maximum_is_rectified_afterwards():
    graph = training_graph(build_model(CONFIGS["google"]))
    names = [layer.name for layer in graph.layers]
    assert names.index("pool1") < names.index("conv1_relu")

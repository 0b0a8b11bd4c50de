"""The five masked losses of the method, as pure functions of targets and outputs.

Dense targets come flat, as the outputs go (`maps.OUTPUTS`); where each counts is said by a mask of
its own (`maps.mask_name`). What a mask rules out adds nothing to a loss and nothing to its
gradient, whatever the target holds there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras import ops

from personlab_keras.config import TrainConfig
from personlab_keras.errors import InputError
from personlab_keras.method.maps import EXTRA_OUTPUTS, OUTPUTS, PROBABILITIES, mask_name

MIDDLE_PREFIX = "middle_"
"""What the names of outputs at a middle layer begin with; their targets are those of the output
named after the prefix.
"""


Count = Callable[[Any], Any]
"""From how many positions count here to how many do on average on each of the devices that share a
batch (`devices.mean_over_replicas`).
"""


def _alone(count: Any) -> Any:
    return count


def logistic_loss(target: Any, logits: Any, mask: Any, mean_count: Count = _alone) -> Any:
    """Average logistic loss over the counted positions of all channels (METHOD: heatmaps, person
    segmentation).

    Args:
        target: (B, h, w, C) float, 0 to 1.
        logits: (B, h, w, C) float.
        mask: (B, h, w, 1) float, 0 or 1.
        mean_count: where several devices share a batch.

    Returns:
        A float scalar; 0 where nothing is counted.
    """
    counted = ops.broadcast_to(ops.greater(mask, 0.0), ops.shape(logits))
    # Chosen before the loss is taken: zero times the slope of a target that is no number would be
    # none either.
    target = ops.where(counted, target, 0.0)
    # This form neither overflows nor loses the gradient at logit 0, and is exactly 0 at a saturated
    # right answer.
    losses = target * ops.softplus(-logits) + (1.0 - target) * ops.softplus(logits)
    return _average(ops.where(counted, losses, 0.0), counted, mean_count)


def offset_loss(
    target: Any, offsets: Any, mask: Any, radius: float, mean_count: Count = _alone
) -> Any:
    """Average over the counted fields of (|error in x| + |error in y|) / radius.

    Args:
        target: (B, h, w, 2F) float, (dx, dy) of F fields in input pixels.
        offsets: (B, h, w, 2F) float.
        mask: (B, h, w, F) float, 0 or 1: both components of a field count together.
        radius: R in input pixels.
        mean_count: where several devices share a batch.

    Returns:
        A float scalar, in radii; 0 where nothing is counted.
    """
    counted = ops.greater(mask, 0.0)
    errors = ops.where(ops.repeat(counted, 2, axis=-1), offsets - target, 0.0)
    return _average(ops.abs(errors), counted, mean_count) / radius


def personlab_losses(
    targets: Mapping[str, Any],
    outputs: Mapping[str, Any],
    radius: float,
    mean_count: Count = _alone,
) -> dict[str, Any]:
    """The loss of every output that is trained, unweighted.

    Args:
        targets: for each name of `maps.OUTPUTS` a dense target (B, h, w, channels) and under
            `mask_name` its mask (B, h, w, fields), where fields is 1 for heatmaps and segmentation.
        outputs: flat outputs of the network in training, heatmaps and segmentation as logits. Names
            with the prefix "middle_" are compared with the targets of the name after it. Those of
            `maps.EXTRA_OUTPUTS` are passed over.
        radius: R in input pixels, by which offset errors are divided.
        mean_count: where several devices share a batch: the mean of their losses is then the loss
            of the whole batch, although one of them may see more people than another.

    Returns:
        Output name -> scalar.

    Raises:
        InputError: an output is none of the network's, or its map sides and those of its target
            differ.
    """
    return {
        name: _output_loss(name, targets, output, radius, mean_count)
        for name, output in outputs.items()
        if name not in EXTRA_OUTPUTS
    }


def total_loss(losses: Mapping[str, Any], train: TrainConfig) -> Any:
    """The weighted sum of `personlab_losses`: a float scalar."""
    weights = {
        "heatmaps": train.heatmap_weight,
        "segmentation": train.segmentation_weight,
        "short_offsets": train.short_weight,
        "mid_offsets": train.mid_weight,
        "long_offsets": train.long_weight,
    }
    total = 0.0
    for name, loss in losses.items():
        output = name.removeprefix(MIDDLE_PREFIX)
        total = total + loss * weights[output] * (1.0 if output == name else train.middle_weight)
    return total


def _output_loss(
    name: str, targets: Mapping[str, Any], output: Any, radius: float, mean_count: Count
) -> Any:
    target_name = name.removeprefix(MIDDLE_PREFIX)
    if target_name not in OUTPUTS:
        raise InputError(
            f"an output of the network must be one of {', '.join(OUTPUTS)}. Received: {name}"
        )
    target, mask = targets[target_name], targets[mask_name(target_name)]
    if None not in (*output.shape[1:3], *target.shape[1:3]) and tuple(output.shape[1:3]) != tuple(
        target.shape[1:3]
    ):
        raise InputError(
            f"output {name} must have the cells of its target, {tuple(target.shape[1:3])}: "
            f"model.target_stride must be the stride of the targets. Received: {tuple(output.shape[1:3])}"
        )
    if target_name in PROBABILITIES:
        return logistic_loss(target, output, mask, mean_count)
    return offset_loss(target, output, mask, radius, mean_count)


def _average(values: Any, counted: Any, mean_count: Count) -> Any:
    """Sum of the values over the number of counted places, 0 where there is none."""
    count = mean_count(ops.sum(ops.cast(counted, values.dtype)))
    return ops.sum(values) / ops.where(count > 0.0, count, 1.0)

"""The five masked losses of the method, as pure functions of targets and outputs.

Dense targets are flat, as the outputs are (`maps.OUTPUTS`). A mask (`maps.mask_name`) says where
each of them counts. Masked positions add nothing to a loss and nothing to its gradient, whatever
the target holds there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from keras import ops

from personlab_keras.config import TrainConfig
from personlab_keras.errors import InputError
from personlab_keras.method.maps import (
    EXTRA_OUTPUTS,
    MIDDLE_PREFIX,
    OUTPUTS,
    PROBABILITIES,
    mask_name,
)


class Terms(NamedTuple):
    """One term of a loss for every element of a map.

    Attributes:
        values: (B, h, w, C) float, 0 where an element does not count.
        counted: (B, h, w, C') bool, whose true elements are counted: per channel for probabilities,
            per field, both components together, for offsets.
    """

    values: Any
    counted: Any


def logistic_terms(target: Any, logits: Any, mask: Any) -> Terms:
    """Logistic loss of every element (METHOD: heatmaps, person segmentation).

    Args:
        target: (B, h, w, C) float, 0 to 1.
        logits: (B, h, w, C) float.
        mask: (B, h, w, 1) float, 0 or 1.
    """
    counted = ops.broadcast_to(ops.greater(mask, 0.0), ops.shape(logits))
    # The target is replaced before the loss is computed: 0 * NaN in the gradient would be NaN.
    target = ops.where(counted, target, 0.0)
    # This form neither overflows nor loses the gradient at logit 0, and is exactly 0 for a
    # saturated correct answer.
    losses = target * ops.softplus(-logits) + (1.0 - target) * ops.softplus(logits)
    return Terms(ops.where(counted, losses, 0.0), counted)


def offset_terms(target: Any, offsets: Any, mask: Any) -> Terms:
    """Absolute error of every component of every field, in input pixels.

    Args:
        target: (B, h, w, 2F) float, (dx, dy) of F fields in input pixels.
        offsets: (B, h, w, 2F) float.
        mask: (B, h, w, F) float, 0 or 1: both components of a field count together.
    """
    counted = ops.greater(mask, 0.0)
    errors = ops.where(ops.repeat(counted, 2, axis=-1), offsets - target, 0.0)
    return Terms(ops.abs(errors), counted)


def masked_mean(terms: Terms, mean_count: Callable[[Any], Any] = lambda count: count) -> Any:
    """The sum of the terms over the number of counted elements; 0 where none is counted.

    Args:
        terms: of one map.
        mean_count: turns the number counted here into the mean number per device where several
            devices share a batch (`devices.mean_over_replicas`). The mean of their losses is then
            the loss of the whole batch, although one of them may see more people than another.
    """
    count = mean_count(ops.sum(ops.cast(terms.counted, terms.values.dtype)))
    return ops.sum(terms.values) / ops.where(count > 0.0, count, 1.0)


def personlab_losses(
    targets: Mapping[str, Any],
    outputs: Mapping[str, Any],
    radius: float,
    mean: Callable[[Terms], Any] = masked_mean,
) -> dict[str, Any]:
    """The unweighted loss of every trained output.

    Args:
        targets: for each name of `maps.OUTPUTS` a dense target (B, h, w, channels) and under
            `mask_name` its mask (B, h, w, fields), where fields is 1 for heatmaps and segmentation.
        outputs: flat outputs of the network in training, heatmaps and segmentation as logits.
            Outputs with the prefix "middle_" are compared with the targets of the name behind it.
            Those of `maps.EXTRA_OUTPUTS` are skipped.
        radius: R in input pixels, by which offset errors are divided.
        mean: the mean of the terms of a map, over all devices that share the batch.

    Returns:
        Output name -> scalar; offset losses in radii.

    Raises:
        InputError: an output has no target, or its map sides differ from those of the target.
    """
    losses = {}
    for name, output in outputs.items():
        if name in EXTRA_OUTPUTS:
            continue
        target, mask = _target_of(name, output, targets)
        if name.removeprefix(MIDDLE_PREFIX) in PROBABILITIES:
            losses[name] = mean(logistic_terms(target, output, mask))
        else:
            losses[name] = mean(offset_terms(target, output, mask)) / radius
    return losses


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


def _target_of(name: str, output: Any, targets: Mapping[str, Any]) -> tuple[Any, Any]:
    """The target and the mask that an output is compared with."""
    target_name = name.removeprefix(MIDDLE_PREFIX)
    if target_name not in OUTPUTS:
        raise InputError(
            f"an output of the network must be one of {', '.join(OUTPUTS)}. Received: {name}"
        )
    target, mask = targets[target_name], targets[mask_name(target_name)]
    cells, expected = tuple(output.shape[1:3]), tuple(target.shape[1:3])
    if None not in (*cells, *expected) and cells != expected:
        raise InputError(
            f"output {name} must have the cells of its target, {expected}: model.target_stride "
            f"must be the stride of the targets. Received: {cells}"
        )
    return target, mask

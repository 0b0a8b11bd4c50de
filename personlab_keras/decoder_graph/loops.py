"""Loops over people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


def for_each(
    count: tf.Tensor,
    function: Callable[[tf.Tensor], Sequence[tf.Tensor]],
    like: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """The results of function(j) for j below `count`, each stacked to (count, ...).

    Args:
        count: () int32.
        function: gives the results of one place.
        like: results of the same types and shapes.
    """
    # A list of nothing cannot be stacked.
    results = [
        tf.TensorArray(
            each.dtype, size=tf.maximum(count, 1), element_shape=each.shape, infer_shape=False
        ).write(0, each)
        for each in like
    ]

    def body(j: tf.Tensor, *results: tf.TensorArray) -> tuple[tf.Tensor | tf.TensorArray, ...]:
        return j + 1, *(
            result.write(j, value) for result, value in zip(results, function(j), strict=True)
        )

    _, *results = tf.while_loop(lambda j, *_: j < count, body, (tf.constant(0), *results))
    return [result.stack()[:count] for result in results]

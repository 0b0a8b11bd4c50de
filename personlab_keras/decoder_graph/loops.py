"""Loops over people: of the places for people mostly few are taken, and the free ones should cost
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


def for_each(
    count: tf.Tensor,
    places: int,
    function: Callable[[tf.Tensor], Sequence[tf.Tensor]],
    empty: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """The results of function(j) for j below `count`, each stacked to (places, ...).

    Args:
        count: () int32, how many places are taken.
        places: number of all places.
        function: gives the results of one place.
        empty: the results of a free place.
    """
    results = [
        tf.TensorArray(each.dtype, size=places, element_shape=each.shape).unstack(
            tf.broadcast_to(each[None], tf.concat([[places], tf.shape(each)], axis=0))
        )
        for each in empty
    ]

    def body(j: tf.Tensor, *results: tf.TensorArray) -> tuple[tf.Tensor | tf.TensorArray, ...]:
        return j + 1, *(
            result.write(j, value) for result, value in zip(results, function(j), strict=True)
        )

    _, *results = tf.while_loop(lambda j, *_: j < count, body, (tf.constant(0), *results))
    return [result.stack() for result in results]

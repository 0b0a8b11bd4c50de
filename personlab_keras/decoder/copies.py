"""A body read twice counts once: the score of a copy is lowered.

Beyond the paper. Soft-NMS leaves out the keypoints that a better person has at the same place. But
a second reading of a body may have some of them elsewhere, on the other arm or at the hem of a
coat, and these alone often carry it over the threshold. The embedding knows better: at the
keypoints of a copy it points at the keypoints of the better person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from personlab_keras.config import SAME_PERSON, DecodeConfig
from personlab_keras.decoder.embedding import embed, embedding_distances
from personlab_keras.decoder.merging import similarities
from personlab_keras.decoder.reading import Readings
from personlab_keras.method.maps import Maps

_FAINT = 1e-4  # a similarity that does not count


def copy_shares(
    readings: Sequence[Readings], maps: Sequence[Maps], kappas: np.ndarray, options: DecodeConfig
) -> np.ndarray:
    """How much of every person is a copy of a better one, from 0 to 1.

    A person j is a copy of a better person i as far as j's keypoints lie where the embedding points
    at i:

        c_ij = min(1, OKS_ij / 1/2) * sum_k p_k(y_jk) r(D_i(y_jk)) / sum_k p_k(y_jk)

    with D_i the embedding distance to i, r falling from 1 at half the embedding threshold to 0 at
    1.5 times the threshold, and OKS_ij the object keypoint similarity. Two who embrace lie close
    to each other, but each keypoint of one points at its own body.

    Args:
        readings: the same people for every size, in the input pixels of that size, best first.
        maps: of every size.
        kappas: (K,) the constants of object keypoint similarity.
        options: `long_refinements` and `embedding_threshold`.

    Returns:
        (P,) float64, the largest c_ij; zeros where the maps have no long-range offsets.
    """
    first = readings[0]
    shares = np.zeros(len(first))
    alike = np.minimum(similarities(first.own_keypoints, first.scales, kappas) / SAME_PERSON, 1.0)
    threshold = options.embedding_threshold
    counts = alike > _FAINT
    for j in np.flatnonzero(counts.any(axis=0)):
        own, its_maps = readings[first.sizes[j]], maps[first.sizes[j]]
        if its_maps.long_offsets is None:
            continue
        found = np.isfinite(own.own_keypoints[j, :, 0])
        weights = own.heat[j, found] / max(own.heat[j, found].sum(), 1e-12)
        embedding = embed(its_maps, own.own_keypoints[j, found], options.long_refinements)
        for i in np.flatnonzero(counts[:, j]):
            distances = embedding_distances(
                embedding, own.own_keypoints[i], own.heat[i], own.scales[i], 1.5 * threshold
            )
            points_at = np.clip(1.5 - distances / threshold, 0.0, 1.0)
            shares[j] = max(shares[j], alike[i, j] * (weights @ points_at))
    return shares

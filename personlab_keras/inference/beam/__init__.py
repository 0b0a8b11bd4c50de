"""`personlab predict --beam`: a bucket of images, or a million files, by an Apache Beam pipeline
around the SavedModel.

Where files lie and how they come is in `addresses`, the network in the pipeline in `inference`,
what is finished and what is left in `job`. All three need the extra `beam`.
"""

from __future__ import annotations


def is_address(place: object) -> bool:
    """Whether this is the address of something that is not on a disk of this machine.

    >>> is_address("gs://bucket/photos/*.jpg"), is_address("photos/x.jpg")
    (True, False)
    """
    return "://" in str(place)

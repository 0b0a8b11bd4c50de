"""`personlab predict --beam`: predicts a bucket or a million files by an Apache Beam pipeline that
runs the SavedModel.

`filesystems` reads and writes files on disks and in buckets, `handler` runs the SavedModel in the
pipeline, `job` splits the images into shards and resumes. All three need the extra `beam`.
"""

from __future__ import annotations


def is_address(place: object) -> bool:
    """Whether a path is the address of a file system of Beam, such as a bucket, rather than a local
    path.

    >>> is_address("gs://bucket/photos/*.jpg"), is_address("photos/x.jpg")
    (True, False)
    """
    return "://" in str(place)

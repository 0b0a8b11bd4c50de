"""Ids of people across the frames of a video (`tracker`), by boxes and poses (`similarity`), and
keypoints without jitter (`smoothing`).
"""

from personlab_keras.tracking.tracker import Tracker

__all__ = ["Tracker"]

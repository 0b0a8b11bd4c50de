"""TensorFlow started without its chatter, which no log level silences: it is printed before any is read."""

from __future__ import annotations

import os


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow with standard error turned away meanwhile. For entry points: the command line and its workers."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept, away = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(away, 2)
    try:
        import tensorflow

        # Looking for devices has a good deal to say as well.
        tensorflow.config.list_physical_devices()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(away)

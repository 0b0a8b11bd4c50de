"""PersonLab for Keras: finds every person in a photo, with keypoints and an instance mask, in one
pass of one network.

Public names are imported on first use, so that importing this package does not load TensorFlow or
Keras."""

from __future__ import annotations

from importlib import import_module

from personlab_keras.keras_objects import register

TYPE_CHECKING = False  # `typing` takes a moment in which Ctrl-C would be a traceback
if TYPE_CHECKING:
    from typing import Any

_HOMES = {
    "COCO_PERSON": "method.skeleton",
    "Config": "config",
    "InputError": "errors",
    "Maps": "method.maps",
    "Person": "method.person",
    "Predictor": "inference.predict",
    "Result": "results",
    "Skeleton": "method.skeleton",
    "build_model": "model.network",
    "decode": "decoder",
    "draw": "drawing",
    "evaluate": "evaluation",
    "load": "hub",
    "load_config": "config",
    "make_dataset": "data.pipeline",
    "read_image": "io.images",
}

__all__ = list(_HOMES)
__version__ = "0.1.0"

register()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'personlab_keras' has no attribute '{name}'")
    value = getattr(import_module(f"personlab_keras.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

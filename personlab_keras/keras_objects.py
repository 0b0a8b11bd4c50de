"""Makes Keras know this package's layers, so that `import personlab_keras` is all that a `.keras`
file needs to be loaded. Keras itself imports no package that a file names.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder

BACKENDS = ("tensorflow", "jax", "torch")
"""Keras' backends on which the network computes."""
_MODULES = ("personlab_keras.model.layers", "personlab_keras.model.refinement")
"""They register their layers when they are imported."""


def register() -> None:
    """Registers the layers if Keras is imported, or else as soon as it is: importing this package
    loads neither Keras nor what Keras computes with.
    """
    if sys.modules.get("keras") is not None:
        _import_layers()
    elif not any(isinstance(finder, _KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasFinder())


class _KerasFinder:
    """Finds Keras as Python does, and imports the layers after it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: object) -> None:
                execute(module)  # type: ignore[arg-type]
                _import_layers()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _import_layers() -> None:
    if import_module("keras").backend.backend() not in BACKENDS:
        return  # Keras may be there for something else
    for module in _MODULES:
        import_module(module)

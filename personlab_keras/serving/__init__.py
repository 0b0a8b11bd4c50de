"""`personlab serve`: the HTTP application (`app`), replicas of the network (`replica`) on Ray Serve
(`ray_backend`), the messages between them (`messages`), and the process that runs both (`server`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from personlab_keras.config import ServeConfig
from personlab_keras.errors import InputError

_EXTRA = ("ray", "starlette", "uvicorn", "prometheus_client", "python_multipart")


def serve(
    model: str | Path,
    config: ServeConfig,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Serves a model until SIGTERM or Ctrl-C, then answers the accepted requests and returns.

    Args:
        model: model directory, or network file .onnx or .tflite.
        config: address, limits, batches and replicas.
        overrides: settings `section.key=value` that replace those of the model.
        say: receives one line with the address when the replicas are warmed up and the server
            accepts requests.

    Raises:
        InputError: a package is missing, the server cannot listen on the address, the model or a
            setting is invalid, or there is no Ray cluster at the configured address.
        KeyboardInterrupt: interrupted before the server was ready.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"needs the extra `serve` (pip install 'personlab-keras[serve]'). Missing: {', '.join(missing)}"
        )
    from personlab_keras.serving.server import run

    run(Path(os.path.realpath(model)), config, overrides, say)

"""`personlab serve`: HTTP in front (`front`), replicas of the network on Ray Serve behind it
(`replica`, `engine`), and the life of both (`server`). What they hand to each other is in
`answers`."""

from __future__ import annotations

import importlib.util
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
    """Serves a model directory until SIGTERM or Ctrl-C, then answers what was accepted and returns.

    Args:
        overrides: texts `section.key=value` laid over the directory's settings.
        say: gets one line, with the address, when the network is warm and requests are taken.

    Raises:
        InputError: a package is missing, the address cannot be listened on, the model directory or
            a setting is wrong, or the cluster is not there.
        KeyboardInterrupt: interrupted before it was ready.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"needs the extra `serve` (pip install 'personlab-keras[serve]'). Missing: {', '.join(missing)}"
        )
    from personlab_keras.serving.server import run

    run(Path(model).resolve(), config, overrides, say)

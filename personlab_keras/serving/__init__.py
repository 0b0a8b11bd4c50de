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
    api_key: str | Path | None = None,
    no_auth: bool = False,
    warn: Callable[[str], None] = lambda line: None,
) -> None:
    """Serves a model until SIGTERM or Ctrl-C, then answers the accepted requests and returns.

    Args:
        model: model directory, or network file .onnx or .tflite.
        config: address, limits, batches and replicas.
        overrides: settings `section.key=value` that replace those of the model.
        say: receives one line with the address when the replicas are warmed up and the server
            accepts requests.
        api_key: file of API keys, one a line, one of which a request must have;
            PERSONLAB_API_KEY holds another.
        no_auth: whether to serve other machines without a key.
        warn: receives a line for each risk of the settings, after that of `say`.

    Raises:
        InputError: other machines could use the server, and there is neither a key nor `no_auth`;
            a package is missing, the server cannot listen on the address, the model or a
            setting is invalid, or there is no Ray cluster at the configured address.
        KeyboardInterrupt: interrupted before the server was ready.
    """
    keys, risks = check_access(config, api_key, no_auth)
    from personlab_keras.serving.server import run

    def ready(line: str) -> None:
        say(line)
        for risk in risks:
            warn(risk)

    run(Path(os.path.realpath(model)), config, overrides, ready, keys)


def check_access(
    config: ServeConfig, api_key: str | Path | None, no_auth: bool
) -> tuple[Sequence[bytes], list[str]]:
    """Checks all that can be checked without a model, which may be a download.

    Args:
        config, api_key, no_auth: as in `serve`.

    Returns:
        The keys, and a line for each risk.

    Raises:
        InputError: as `serve`.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"needs the extra `serve` (pip install 'personlab-keras[serve]'). Missing: {', '.join(missing)}"
        )
    from personlab_keras.serving.guard import KEY_VARIABLE, is_loopback, read_keys

    keys = () if no_auth else read_keys(api_key)
    risks = []
    if not is_loopback(config.host):
        if not keys and not no_auth:
            raise InputError(
                f"--host {config.host}: other machines could use the server. Give --api-key FILE "
                f"or {KEY_VARIABLE}, or say --no-auth"
            )
        if not keys:
            risks.append(f"whoever reaches {config.host} can use the server (--no-auth)")
        elif config.tls_certificate is None:
            risks.append(
                "API keys and images are sent unencrypted: set serve.tls_certificate, or put a "
                "proxy with TLS in front"
            )
    return keys, risks

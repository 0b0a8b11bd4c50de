"""The life of a server: a socket, the replicas, HTTP until a signal, and everything accepted
answered before the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from personlab_keras.config import ServeConfig
from personlab_keras.errors import InputError
from personlab_keras.inference.runtimes import is_network_file
from personlab_keras.model_directory import description_file
from personlab_keras.serving.app import build_app


def run(
    model: Path, config: ServeConfig, overrides: Sequence[str], say: Callable[[str], None]
) -> None:
    """As `serving.serve`, of a model directory named by its whole path."""
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address is None and not is_network_file(model):
        description_file(
            model
        )  # on this machine a wrong folder is seen before anything slow begins
    with _listener(config) as listener, _signals(_interrupt):
        _settle_ray(address)
        from personlab_keras.serving.ray_backend import replicas

        with replicas(model, config, overrides, address) as engine:
            app = build_app(engine.find, engine.health, engine.model, config)
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            options = uvicorn.Config(
                app, log_level="error", access_log=False, server_header=False, lifespan="off"
            )
            _Server(options, lambda: say(f"http://{shown}:{port}/: ready, serving {model}")).run(
                sockets=[listener]
            )


def _settle_ray(address: str | None) -> None:
    """What Ray reads from the environment when it is imported, and hands on to its processes."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None and "ray" not in sys.modules:
        # Whoever reaches the ports that Ray's processes talk over could run code. Only those who
        # know this are listened to.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


class _Server(uvicorn.Server):
    """Says when it takes requests, and takes a signal for the order to stop that it is, not for a
    failure to report.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with _signals(self.handle_exit):
            yield


@contextlib.contextmanager
def _signals(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {each: signal.signal(each, handler) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, earlier in before.items():
            signal.signal(each, earlier)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _listener(config: ServeConfig) -> Iterator[socket.socket]:
    """A bound socket, before anything slow begins. It refuses connections until the server listens
    on it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"{config.host}: cannot be listened on: {error.strerror}") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise InputError(
                f"{config.host}, port {config.port}: cannot be listened on: {error.strerror}"
            ) from None
        yield listener

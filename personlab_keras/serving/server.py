"""Runs the server: opens the socket, starts the replicas, serves HTTP until a signal, and answers
all accepted requests before it stops.
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
    """As `serving.serve`, for the absolute path of a model."""
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address is None and not is_network_file(model):
        description_file(model)  # refuses a wrong folder before anything slow starts
    with _listener(config) as listener, _signals(_interrupt):
        _prepare_ray_environment(address)
        from personlab_keras.serving.ray_backend import replicas

        with replicas(model, config, overrides, address) as running:
            app = build_app(running.find, running.health, running.model, config)
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            options = uvicorn.Config(
                app, log_level="error", access_log=False, server_header=False, lifespan="off"
            )
            _Server(options, lambda: say(f"http://{shown}:{port}/: ready, serving {model}")).run(
                sockets=[listener]
            )


def _prepare_ray_environment(address: str | None) -> None:
    """Sets the environment variables that Ray reads at import and passes to its processes."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None and "ray" not in sys.modules:
        # Anyone who reaches the ports of Ray's processes could run code. With a token, Ray refuses
        # connections from others.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


class _Server(uvicorn.Server):
    """A Uvicorn server that reports when it accepts requests, and that stops on a signal without
    raising it again.
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
    previous = {
        number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _listener(config: ServeConfig) -> Iterator[socket.socket]:
    """Binds the socket before anything slow starts. Connections are refused until the server
    listens.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"{config.host}: cannot listen on this host: {error.strerror}") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise InputError(
                f"{config.host}, port {config.port}: cannot listen on this address: {error.strerror}"
            ) from None
        yield listener

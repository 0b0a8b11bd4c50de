"""Runs the server: opens the socket, starts the replicas, serves HTTP until a signal, and answers
all accepted requests before it stops.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from personlab_keras.config import ServeConfig
from personlab_keras.errors import InputError
from personlab_keras.inference.runtimes import is_network_file
from personlab_keras.io.files import read_small
from personlab_keras.model_directory import description_file
from personlab_keras.serving.app import Metrics, build_app, build_metrics_app
from personlab_keras.serving.connections import limited_protocol

_QUIET: dict[str, Any] = {
    "log_level": "error",
    "access_log": False,
    "server_header": False,
    "lifespan": "off",
}


def run(
    model: Path,
    config: ServeConfig,
    overrides: Sequence[str],
    say: Callable[[str], None],
    keys: Sequence[bytes] = (),
) -> None:
    """As `serving.serve`, for the absolute path of a model."""
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address is None and not is_network_file(model):
        description_file(model)  # refuses a wrong folder before anything slow starts
    with (
        _listener(config.host, config.port) as listener,
        contextlib.ExitStack() as stack,
        _signals(_interrupt),
    ):
        _check_certificate(config)
        _prepare_ray_environment(address)
        from personlab_keras.serving.ray_backend import replicas

        with replicas(model, config, overrides, address) as running:
            metrics = None if config.metrics_port is None else Metrics()
            app = build_app(running.find, running.health, running.model, config, keys, metrics)
            options = uvicorn.Config(
                app,
                http=limited_protocol(config),
                ssl_certfile=config.tls_certificate,
                ssl_keyfile=config.tls_key,
                **_QUIET,
            )
            beside = None
            ready = f"{_address(listener, config)}: ready, serving {model}"
            if metrics is not None:
                beside = _Beside(
                    uvicorn.Config(build_metrics_app(metrics), **_QUIET),
                    stack.enter_context(_listener(config.host, int(config.metrics_port or 0))),
                )
                ready += f", metrics on port {beside.port}"
            _Server(options, lambda: say(ready), beside).run(sockets=[listener])


def _prepare_ray_environment(address: str | None) -> None:
    """Sets the environment variables that Ray reads at import and passes to its processes."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None and "ray" not in sys.modules:
        # Anyone who reaches the ports of Ray's processes could run code. With a token, Ray refuses
        # connections from others.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


class _Beside(uvicorn.Server):
    """A server of another port in the event loop of the main one."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listener = listener
        self.port: int = listener.getsockname()[1]

    async def start(self) -> None:
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup([self._listener])

    async def stop(self) -> None:
        await self.shutdown([self._listener])


class _Server(uvicorn.Server):
    """A Uvicorn server that reports when it accepts requests, and that stops on a signal without
    raising it again.
    """

    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], beside: _Beside | None = None
    ) -> None:
        super().__init__(config)
        self._ready, self._beside = ready, beside

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._beside is not None:
            await self._beside.start()
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self._beside is not None:
            await self._beside.stop()

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


def _address(listener: socket.socket, config: ServeConfig) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "http" if config.tls_certificate is None else "https"
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"


def _check_certificate(config: ServeConfig) -> None:
    if config.tls_certificate is None or config.tls_key is None:
        return
    for path in (config.tls_certificate, config.tls_key):
        read_small(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            config.tls_certificate, config.tls_key
        )
    except (ssl.SSLError, OSError) as error:
        raise InputError(
            f"{config.tls_certificate}: must be a certificate in PEM that goes with "
            f"{config.tls_key}: {error}"
        ) from None


@contextlib.contextmanager
def _listener(host: str, port: int) -> Iterator[socket.socket]:
    """Binds the socket before anything slow starts. Connections are refused until the server
    listens.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"{host}: cannot listen on this host: {error.strerror}") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise InputError(
                f"{host}, port {port}: cannot listen on this address: {error.strerror}"
            ) from None
        yield listener

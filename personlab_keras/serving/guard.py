"""Who may ask the server: API keys, names of the host, and pages of other sites."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from personlab_keras.config import ServeConfig
from personlab_keras.errors import InputError
from personlab_keras.io.files import read_small

KEY_VARIABLE = "PERSONLAB_API_KEY"
"""Environment variable with an API key."""
_SHORTEST_KEY = 16
_MOST_KEY_BYTES = 1 << 16
_OPEN = ("/", "/healthz")
"""Paths without a key: a load balancer has none, and the page asks for it."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_keys(file: str | Path | None) -> tuple[bytes, ...]:
    """The API keys in a file, one a line, and that of `KEY_VARIABLE`.

    Raises:
        InputError: the file cannot be read or holds no key; a key is shorter than 16 characters.
    """
    sources: list[tuple[str, bytes]] = []
    if file is not None:
        lines = [line.strip() for line in read_small(file, _MOST_KEY_BYTES).splitlines()]
        sources = [(str(file), line) for line in lines if line]
        if not sources:
            raise InputError(f"{file}: must hold an API key. Received: an empty file")
    if os.environ.get(KEY_VARIABLE):
        sources.append((KEY_VARIABLE, os.environ[KEY_VARIABLE].encode()))
    for source, key in sources:
        if len(key) < _SHORTEST_KEY:
            raise InputError(
                f"{source}: an API key must have at least {_SHORTEST_KEY} characters. "
                f"Received: {len(key)}"
            )
    return tuple(key for _, key in sources)


class Guard:
    """ASGI middleware that refuses requests before their body is read: 401 without a key, 403 for a
    foreign Host (a name that somebody made point to this machine) or from a page of another site.

    Args:
        app: the application behind it.
        config: `host`, `hosts` and `origins`.
        keys: API keys, one of which a request must have; none for no check.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, keys: Sequence[bytes]) -> None:
        self._app, self._keys = app, tuple(keys)
        self._origins = config.origins
        names = ("localhost", "127.0.0.1", "[::1]", config.host) if is_loopback(config.host) else ()
        # On other addresses any name is good unless some are given.
        self._hosts = {name.lower() for name in (*names, *config.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts and _name(host) not in self._hosts:
            return _refuse(
                403, f"this server does not answer for the host {host!r:.100}; see serve.hosts"
            )
        origin = headers.get("origin")
        own = (f"http://{host}", f"https://{host}")
        if origin is not None and origin not in (*own, *self._origins) and "*" not in self._origins:
            return _refuse(
                403, f"pages of {origin!r:.100} may not use this server; see serve.origins"
            )
        if self._keys and scope["path"] not in _OPEN and not self._has_key(headers):
            return _refuse(
                401,
                "an API key is needed: Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        return None

    def _has_key(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        key = given.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        # All are compared, each in full, so that the time tells nothing.
        return True in [hmac.compare_digest(key.encode(), each) for each in self._keys]


def _name(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _refuse(status: int, error: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": error}, status, {"Connection": "close", **(headers or {})})

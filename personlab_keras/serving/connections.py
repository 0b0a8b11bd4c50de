"""Connections: how many, how many of one client, and how long the head of a request may take."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from personlab_keras.config import ServeConfig

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n%s"
)


def limited_protocol(config: ServeConfig) -> type[H11Protocol]:
    """Uvicorn's protocol of HTTP with the limits of a configuration: `max_connections`,
    `max_per_client` and `head_timeout_s`. All connections of the class count together.
    """
    open_by_client: Counter[Any] = Counter()

    class LimitedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _counted = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            address = self.client[0] if self.client else None
            if open_by_client.total() >= config.max_connections:
                self._refuse(f"the server has {config.max_connections} connections, its most")
            elif config.max_per_client and open_by_client[address] >= config.max_per_client:
                self._refuse(
                    f"this address has {config.max_per_client} connections, the most of a client"
                )
            else:
                self._counted = True
                open_by_client[address] += 1
                self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._counted:
                address = self.client[0] if self.client else None
                open_by_client[address] -= 1
                if not open_by_client[address]:
                    del open_by_client[address]
                self._counted = False
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self._counted:
                return  # refused, and about to close
            if self._is_idle() and self._timer is None:
                self._wait_for_head()
            super().data_received(data)
            if not self._is_idle():
                self._stop_waiting()

        def _is_idle(self) -> bool:
            """Whether no request is under way, as far as its head has come."""
            return self.cycle is None or self.cycle.response_complete

        def _wait_for_head(self) -> None:
            self._timer = self.loop.call_later(config.head_timeout_s, self._give_up)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            if self._is_idle():
                self.transport.close()

        def _refuse(self, error: str) -> None:
            body = f'{{"error": "{error}"}}'.encode()
            self.transport.write(_FULL % (len(body), body))
            self.transport.close()

    return LimitedProtocol

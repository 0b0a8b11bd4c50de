"""The HTTP application: limits, the bounded queue, metrics and the page. The function that finds
people is an argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from personlab_keras.config import ServeConfig
from personlab_keras.serving.guard import Guard
from personlab_keras.serving.messages import Answer, RequestOptions

Find = Callable[[bytes, RequestOptions], Awaitable[Answer]]
"""Maps an image file and the options of its request to an answer."""

_RETRY_AFTER = {"Retry-After": "1"}
_FORM_OVERHEAD = 65_536
"""Bytes that a multipart form may have beside its file."""
_PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'"


class Busy(Exception):
    """Raised by a `Find` function that accepts no more requests for now."""


class Metrics:
    """The Prometheus metrics of `/metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "personlab_requests",
            "Requests for people, by status",
            ["status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "personlab_request_seconds",
            "Time from the head of a request to its answer, of those answered with people",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
            registry=self.registry,
        )
        self.queue = Gauge(
            "personlab_queue_depth",
            "Requests accepted and not yet answered",
            registry=self.registry,
        )
        self.uploads = Gauge(
            "personlab_uploads", "Requests whose image is arriving", registry=self.registry
        )
        self.batches = Histogram(
            "personlab_batch_images",
            "Images in a batch",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.people = Counter("personlab_people", "People found", registry=self.registry)
        ProcessCollector(registry=self.registry)


def build_app(
    find: Find,
    health: Callable[[], Mapping[str, Any]],
    model: Mapping[str, Any],
    config: ServeConfig,
    keys: Sequence[bytes] = (),
    metrics: Metrics | None = None,
) -> Starlette:
    """Builds the ASGI application.

    Args:
        find: finds the people in an image file; may raise `Busy`.
        health: returns {"ready": bool, ...}; called in a thread.
        model: the description of the model that `Replica.describe` returns.
        config: the limits.
        keys: API keys, one of which a request must have; none for no check.
        metrics: that are served elsewhere; None to serve them here.
    """
    # Clients are told about invalid forms; the log would get a line for each.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    elsewhere, metrics = metrics is not None, metrics or Metrics()
    page = files("personlab_keras.serving").joinpath("page.html").read_text(encoding="utf-8")

    async def healthz(request: Request) -> Response:
        state = await asyncio.to_thread(health)
        return JSONResponse(dict(state), 200 if state["ready"] else 503)

    async def model_description(request: Request) -> Response:
        return JSONResponse(dict(model))

    async def page_html(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})

    return Starlette(
        routes=[
            *([Route("/", page_html)] if config.page else []),
            Route("/healthz", healthz),
            *([] if elsewhere else [_metrics_route(metrics)]),
            Route("/v1/model", model_description),
            Route("/v1/people", _People(find, model, config, metrics).answer, methods=["POST"]),
        ],
        # CORS comes first: a browser asks for permission without a key.
        middleware=[
            *(
                [
                    Middleware(
                        CORSMiddleware,
                        allow_origins=config.origins,
                        allow_methods=["GET", "POST"],
                        allow_headers=["Authorization", "Content-Type", "X-API-Key"],
                    )
                ]
                if config.origins
                else []
            ),
            Middleware(Guard, config=config, keys=keys),
        ],
        exception_handlers={HTTPException: lambda request, error: _refusal(error)},
    )


def build_metrics_app(metrics: Metrics) -> Starlette:
    """The ASGI application of a port for metrics alone."""
    return Starlette(routes=[_metrics_route(metrics)])


def _metrics_route(metrics: Metrics) -> Route:
    async def text(request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Route("/metrics", text)


class _People:
    """The endpoint `/v1/people` with its bounded queue."""

    def __init__(
        self, find: Find, model: Mapping[str, Any], config: ServeConfig, metrics: Metrics
    ) -> None:
        self._find, self._has_masks = find, bool(model["masks"])
        self._config, self._metrics = config, metrics
        self._accepted = 0

    async def answer(self, request: Request) -> Response:
        start = time.perf_counter()
        try:
            response = await self._find_people(request)
        except HTTPException as refused:
            response = _refusal(refused)
        except ClientDisconnect:
            response = Response(status_code=499)  # as proxies log it; no client reads it
        self._metrics.requests.labels(response.status_code).inc()
        if response.status_code == 200:
            self._metrics.seconds.observe(time.perf_counter() - start)
        return response

    async def _find_people(self, request: Request) -> Response:
        # Before the body, so that it is not sent in vain; and after it, for only a whole image
        # takes a place: clients that send slowly, or not to the end, hold none.
        self._check_queue()
        request_options = _request_options(request, self._has_masks)
        with self._metrics.uploads.track_inprogress():
            data = await _image_bytes(request, self._config)
        self._check_queue()
        with self._place_in_queue():
            try:
                answer = await self._find(data, request_options)
            except Busy as busy:
                raise HTTPException(503, str(busy), _RETRY_AFTER) from None
        if answer.batch:
            self._metrics.batches.observe(answer.batch)
        self._metrics.people.inc(answer.people)
        return Response(answer.body, answer.status, media_type="application/json")

    def _check_queue(self) -> None:
        if self._accepted >= self._config.max_queued:
            raise HTTPException(
                503, f"the queue of {self._config.max_queued} requests is full", _RETRY_AFTER
            )

    @contextlib.contextmanager
    def _place_in_queue(self) -> Iterator[None]:
        self._accepted += 1
        self._metrics.queue.set(self._accepted)
        try:
            yield
        finally:
            self._accepted -= 1
            self._metrics.queue.set(self._accepted)


def _refusal(error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _request_options(request: Request, has_masks: bool) -> RequestOptions:
    """Parses the query of a request.

    Raises:
        HTTPException: 400 for an unknown key or an invalid value.
    """
    given: dict[str, Any] = {}
    for name, text in request.query_params.items():
        if name == "masks" and text in ("true", "false"):
            given[name] = text == "true"
        elif name == "score_threshold" and (score := _number(text)) is not None and 0 <= score <= 1:
            given[name] = score
        else:
            raise HTTPException(
                400,
                f"the query takes masks=true|false and score_threshold=0..1. Received: {name}={text}",
            )
    if given.get("masks") and not has_masks:
        raise HTTPException(400, "masks=true: the served model gives no masks")
    return RequestOptions(**given)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


async def _image_bytes(request: Request, config: ServeConfig) -> bytes:
    """Reads the image file of a request: its body, or the only file of a multipart form.

    Raises:
        HTTPException: 400 for an invalid form or one without a file, 408 for a slow client, 413 for
            a file that is too large.
        ClientDisconnect: the client closed the connection.
    """
    is_form = (
        request.headers.get("content-type", "").partition(";")[0].strip().lower()
        == "multipart/form-data"
    )
    limit = config.max_bytes + (_FORM_OVERHEAD if is_form else 0)
    too_large = HTTPException(
        413, f"the image must be at most {config.max_bytes} bytes. Received: more"
    )
    # An announced length is refused before the body is sent; bytes without one are counted.
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    received = 0

    async def receive() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large
        return message

    counted = Request(request.scope, receive)
    try:
        async with asyncio.timeout(config.body_timeout_s):
            data = await (_file_of_form(counted) if is_form else counted.body())
    except TimeoutError:
        raise HTTPException(
            408,
            f"the image must arrive within {config.body_timeout_s:g} s",
            {"Connection": "close"},
        ) from None
    if len(data) > config.max_bytes:
        raise too_large
    return data


async def _file_of_form(request: Request) -> bytes:
    async with request.form(max_files=1, max_fields=16) as form:
        uploads = [value for value in form.values() if isinstance(value, UploadFile)]
        if not uploads:
            raise HTTPException(400, "the form must have a file. Received: none")
        return await uploads[0].read()

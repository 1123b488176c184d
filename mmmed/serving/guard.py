"""Who may ask, how much of a request is read, and what is counted of it. Nothing that is counted is of a patient."""

from __future__ import annotations

import hmac
import time
from collections.abc import Collection
from dataclasses import dataclass

from fastapi import HTTPException
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = "/health"  # the one path that needs no token
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True)
class Bounds:
    """What a request may cost.

    Attributes:
        request_bytes: of its body.
        seconds: to send it, and again to answer it.
        studies: requests that are answered at one time; more are told to come back.
    """

    request_bytes: int
    seconds: float
    studies: int


class Counts:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mmmed_requests", "Answers by path and status.", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "mmmed_request_seconds",
            "From a request's first byte to its answer.",
            ("path",),
            registry=self.registry,
        )
        self.missing = Counter(
            "mmmed_missing", "Answered studies that lacked a modality.", ("modality",), registry=self.registry
        )


class Guard:
    """The outermost layer of the application.

    Args:
        app: what is guarded.
        token: that a request must bear; None for no token.
        bounds: see `Bounds`.
        counts: counted in.
        paths: that are counted by name.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, bounds: Bounds, counts: Counts, paths: Collection[str]
    ) -> None:
        self._app, self._bounds, self._counts, self._paths = app, bounds, counts, paths
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        begun, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            await self._admit(scope, receive, answer)
        finally:
            self._counts.requests.labels(path, str(status)).inc()
            self._counts.seconds.labels(path).observe(time.perf_counter() - begun)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        told = headers.get("authorization", "").encode("latin-1")
        if (
            self._expected is not None
            and scope["path"] != OPEN
            and not hmac.compare_digest(told, self._expected)
        ):
            problem = JSONResponse(
                {"detail": "expected this server's token: Authorization: Bearer TOKEN"}, 401,
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
            await problem(scope, receive, send)
            return
        read, most = 0, self._bounds.request_bytes

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413, f"the request has more than {most:,} bytes, and no more are read")
            return message

        await self._app(scope, bounded, send)

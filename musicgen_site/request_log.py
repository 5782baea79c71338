"""ASGI middleware: every request and socket has an id, answered in a header, and one line in the log at its end.

Stands outermost, so that refusals of every layer are seen. Queries are never logged: they may hold secrets.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any, Final

from django.urls import Resolver404, resolve

from gated_configs.log_context import logged_with

access_logger = logging.getLogger("musicgen_site.access")

HEADER: Final = b"x-request-id"
#: What is taken over from whoever asks; anything else gets an id of ours.
WELL_FORMED: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")
#: Parts of addresses that open something by themselves.
SECRET_PARTS: Final = frozenset({"token", "key", "secret", "uidb64", "code"})
MAX_PATH_CHARACTERS: Final = 300


class RequestLog:
    """Gives ids and writes access lines."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        """Pass the request on with its id."""
        if scope["type"] not in ("http", "websocket"):
            return await self.application(scope, receive, send)
        request_id = _given_id(scope) or uuid.uuid4().hex
        began = time.monotonic()
        status: int | None = None

        async def noted(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close" and status is None:
                status = 403
            if message["type"] in ("http.response.start", "websocket.accept"):
                headers = [*(message.get("headers") or ()), (HEADER, request_id.encode("ascii"))]
                message = {**message, "headers": headers}
            await send(message)

        with logged_with(request_id=request_id):
            try:
                return await self.application(scope, receive, noted)
            finally:
                _write_line(scope, status, time.monotonic() - began)


def _given_id(scope: dict[str, Any]) -> str:
    given = [value for name, value in scope.get("headers", ()) if name.lower() == HEADER]
    return given[0].decode("ascii") if len(given) == 1 and WELL_FORMED.match(given[0]) else ""


def _write_line(scope: dict[str, Any], status: int | None, seconds: float) -> None:
    if not access_logger.isEnabledFor(logging.INFO):
        return
    facts = {
        "method": scope.get("method", "WEBSOCKET"),
        "path": shown_path(scope["path"]),
        # None: whoever asked went away before there was an answer.
        "status": status,
        "duration_ms": round(1000 * seconds, 1),
    }
    line = f"{facts['method']} {facts['path']} {status or 'unanswered'} {facts['duration_ms']} ms"
    # Handed over whole: a percent sign in the path is no placeholder.
    access_logger.info("%s", line, extra={"facts": facts})


def shown_path(path: str) -> str:
    """The path as it may stand in a log: of one that opens something by itself only its pattern."""
    try:
        found = resolve(path)
    except (Resolver404, ValueError):
        return path[:MAX_PATH_CHARACTERS]
    if SECRET_PARTS & found.kwargs.keys():
        return f"/{found.route}"
    return path[:MAX_PATH_CHARACTERS]

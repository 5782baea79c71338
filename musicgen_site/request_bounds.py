"""ASGI middleware: no request body grows past a bound, whatever it says of itself.

Django reads a body to its end before a view sees it, so the bound must stand in front of Django.
"""

from __future__ import annotations

import json
from typing import Any, Final

#: Forms and API bodies are a few kB. Uploads, once there are any, get a bound of their own.
MAX_BODY_BYTES: Final = 1024 * 1024

_SENTENCE: Final = f"The request is larger than {MAX_BODY_BYTES // 1024} kB. Send less."


class BoundedBodies:
    """Answers 413 to a body that is announced or turns out to be too large."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        """Pass the request on, counting what arrives."""
        if scope["type"] != "http":
            return await self.application(scope, receive, send)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > MAX_BODY_BYTES:
            return await _refuse(send)
        # A body without a length is taken in here, up to the bound: Django must not begin with half a request.
        messages: list[dict[str, Any]] = []
        received = 0
        while True:
            message = await receive()
            messages.append(message)
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                return await _refuse(send)
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        pending = iter(messages)

        async def replay() -> dict[str, Any]:
            kept = next(pending, None)
            return kept if kept is not None else await receive()

        return await self.application(scope, replay, send)


async def _refuse(send: Any) -> None:
    body = json.dumps({"error": _SENTENCE, "error_code": "REQUEST_TOO_LARGE"}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})

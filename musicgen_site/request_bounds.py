"""ASGI middleware: no request body grows past a bound, whatever it says of itself.

Django reads a body to its end before a view sees it, so the bound must stand in front of Django.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from typing import Any, Final

from django.conf import settings

from gated_configs import submission_bounds
from gated_configs.wording import gigabytes
from generation.clips.decoding import too_large

#: Forms and API bodies are a few kB; a config may be larger.
MAX_BODY_BYTES: Final = 1024 * 1024

#: Where an adapter's zip may be posted to: the API, the page and the admin.
ADAPTER_PATHS: Final = frozenset({"/api/adapters", "/adapters/import/", "/admin/adapters/adapter/add/"})
#: Where a clip may be posted to.
CLIP_PATHS: Final = frozenset({"/api/clips", "/clips/"})
UPLOAD_PATHS: Final = ADAPTER_PATHS | CLIP_PATHS

#: An upload lies on the disk as its request, as the form's file and unpacked, for a moment all at once.
COPIES: Final = 3

_SENTENCE: Final = f"The request is larger than {MAX_BODY_BYTES // 1024} kB. Send less."
_NO_LENGTH: Final = (
    "An upload must say how long it is, in Content-Length. Send the file whole and not as a stream."
)


def body_limit(method: str, path: str) -> int:
    """Bytes that the body of such a request may have: an upload's fields count beside its file."""
    if method == "POST" and path in CLIP_PATHS:
        return int(settings.STUDIO.max_clip_bytes) + MAX_BODY_BYTES
    if method == "POST" and path in ADAPTER_PATHS:
        return int(settings.STUDIO.max_adapter_bytes) + MAX_BODY_BYTES
    if method == "POST" and submission_bounds.takes_configs(path):
        return submission_bounds.MAX_BODY_BYTES
    return MAX_BODY_BYTES


class BoundedBodies:
    """Answers 413 to a body that is announced or turns out to be too large."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        """Pass the request on, counting what arrives."""
        if scope["type"] != "http":
            return await self.application(scope, receive, send)
        limit = body_limit(scope["method"], scope["path"])
        announced = dict(scope["headers"]).get(b"content-length")
        if announced is not None and (not announced.isdigit() or int(announced) > limit):
            return await _refuse(send, 413, _too_large(scope["path"], limit))
        if announced is not None and int(announced) > MAX_BODY_BYTES:
            return await self._pass_on(scope, receive, send, int(announced))
        # What is small, or has no length, is taken in here: Django must not begin with half a request.
        messages: list[dict[str, Any]] = []
        received = 0
        while True:
            message = await receive()
            messages.append(message)
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                if limit > MAX_BODY_BYTES and announced is None:
                    return await _refuse(send, 411, _NO_LENGTH, "LENGTH_REQUIRED")
                return await _refuse(send, 413, _too_large(scope["path"], limit))
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        pending = iter(messages)

        async def replay() -> dict[str, Any]:
            kept = next(pending, None)
            return kept if kept is not None else await receive()

        return await self.application(scope, replay, send)

    async def _pass_on(self, scope: dict[str, Any], receive: Any, send: Any, announced: int) -> Any:
        """An upload goes on to Django's file a piece at a time: it is never whole in memory."""
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if free < COPIES * announced:
            return await _refuse(send, 507, _no_room(announced, free), "DISK_FULL")
        received = 0

        async def counted() -> Any:
            nonlocal received
            if received > announced:
                return {"type": "http.disconnect"}
            message = await receive()
            received += len(message.get("body", b""))
            # A server that passes on more than was announced is cut off; Django gives such a request up in silence.
            return message if received <= announced else {"type": "http.disconnect"}

        answer = await self.application(scope, counted, send)
        if received > announced:
            await _refuse(send, 413, _too_large(scope["path"], announced))
        return answer


def _too_large(path: str, limit: int) -> str:
    if limit <= MAX_BODY_BYTES:
        return _SENTENCE
    if submission_bounds.takes_configs(path):
        return submission_bounds.TOO_LARGE
    if path in CLIP_PATHS:
        return too_large(limit - MAX_BODY_BYTES)
    return (
        f"The upload is larger than {gigabytes(limit - MAX_BODY_BYTES)}, the limit for an adapter here."
        " MUSICGEN_MAX_ADAPTER_MB sets it."
    )


def _no_room(announced: int, free: int) -> str:
    return (
        f"An upload of {gigabytes(announced)} needs {gigabytes(COPIES * announced)} on the studio's disk, which has"
        f" {gigabytes(free)} free. Free some space and try again."
    )


def refusal(status: int, sentence: str, error_code: str) -> list[dict[str, Any]]:
    """The ASGI messages of an answer that ends the connection, in the one error shape."""
    body = json.dumps({"error": sentence, "error_code": error_code}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]


async def _refuse(send: Any, status: int, sentence: str, error_code: str = "REQUEST_TOO_LARGE") -> None:
    for message in refusal(status, sentence, error_code):
        await send(message)

"""What is answered while the database is away: 503 in words, and one line in the log instead of a traceback.

Views ask it, but also middleware before and behind them, so this is where Django ends up with every error.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

from django.db import InterfaceError, OperationalError, connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.views.defaults import server_error as django_server_error

from musicgen_site.request_log import shown_path
from musicgen_site.security import error_response, is_api_request

logger = logging.getLogger(__name__)

#: When to ask again, in seconds.
RETRY_AFTER: Final = 5
SENTENCE: Final = (
    "The studio's database does not answer at the moment. Nothing was changed. Try again in a moment."
)
#: Of SQLite: busy, locked, read-only, a failed disk, a full one, and no way to open the file. What else it calls an
#: operational error, such as a table that is not there, does not pass by itself.
_SQLITE_AWAY: Final = frozenset({5, 6, 8, 10, 13, 14})
#: "Try again later": a page connects again by itself.
_SOCKET_CODE: Final = 1013


def is_away(problem: BaseException | None) -> bool:
    """Whether it says that the database is not to be had now, and is no fault of what was asked."""
    if not isinstance(problem, OperationalError | InterfaceError):
        return False
    if connection.vendor != "sqlite":
        return True
    # The low byte is the kind; what stands above it says more of it.
    code: int = getattr(problem.__cause__, "sqlite_errorcode", None) or 0
    return isinstance(problem, OperationalError) and code & 0xFF in _SQLITE_AWAY


def server_error(request: HttpRequest) -> HttpResponseBase:
    """The answer to an error that nobody caught. Django calls it while that is being handled."""
    problem = sys.exc_info()[1]
    if not is_away(problem):
        return django_server_error(request)
    _log(f"{request.method} {shown_path(request.path)}", problem)
    response: HttpResponse
    if is_api_request(request) or request.headers.get("HX-Request"):
        response = error_response(503, SENTENCE, "DATABASE_AWAY")
    else:
        # Without the request: what it brings into templates is in the database.
        response = render(None, "503.html", status=503)
    response.headers["Retry-After"] = str(RETRY_AFTER)
    response.headers["Cache-Control"] = "no-store"
    # Django's own line, which brings the traceback, is for what has not been told yet.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


class SocketsWithoutDatabase:
    """ASGI middleware: closes a socket that the database failed, so that its page comes back later."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        """Pass the socket on."""
        try:
            return await self.application(scope, receive, send)
        except (OperationalError, InterfaceError) as problem:
            if not is_away(problem):
                raise
            _log(f"the socket {shown_path(scope['path'])}", problem)
            await send({"type": "websocket.close", "code": _SOCKET_CODE})


def _log(what: str, problem: BaseException | None) -> None:
    logger.warning("%s: the database is away: %s", what, str(problem).strip().partition("\n")[0])

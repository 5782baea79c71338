"""How many sockets this process holds open: the one figure that no row knows.

Knows nothing of what is said over them.
"""

from __future__ import annotations

from typing import Any

_open = 0


def open_sockets() -> int:
    """Sockets that were accepted and have not ended."""
    return _open


def counted(application: Any) -> Any:
    """ASGI middleware: count the sockets that the application accepts."""

    async def run(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        global _open
        is_open = False

        async def noted(message: dict[str, Any]) -> None:
            global _open
            await send(message)
            nonlocal is_open
            if message["type"] == "websocket.accept" and not is_open:
                is_open = True
                _open += 1

        try:
            return await application(scope, receive, noted)
        finally:
            _open -= is_open

    return run

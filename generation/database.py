"""Rows from the engine's event loop: every call is a transaction of its own, in a thread that may use the database."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.db import InterfaceError, OperationalError

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: What must be written is tried for this long while the database is away, in seconds, and again after so many.
PATIENCE: Final = 60.0
AGAIN_AFTER: Final = 0.5


def in_database(function: Callable[_P, _T]) -> Callable[_P, Awaitable[_T]]:
    """The function, to be awaited. Any thread will do: nothing is shared between two calls."""
    awaitable: Callable[_P, Awaitable[_T]] = database_sync_to_async(function, thread_sensitive=False)
    return awaitable


def written(function: Callable[_P, _T]) -> Callable[_P, Awaitable[_T]]:
    """The function, to be awaited, called again while the database is away. Raises what it raised last.

    It must be one that may be called twice: a first call may have been carried out though its answer was lost.
    """

    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await in_database(function)(*args, **kwargs)
            except (OperationalError, InterfaceError) as problem:
                if time.monotonic() > deadline:
                    raise
                logger.warning("the database is away, trying again: %s", problem)
            await asyncio.sleep(AGAIN_AFTER)

    return call

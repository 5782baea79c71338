"""Rows and files from the engine's event loop: every call is a transaction of its own, in a thread of its own.

What must be written is tried again while the database, or the storage of takes, is away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.db import InterfaceError, OperationalError

from registry.media import MediaAway

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: What must be written is tried for this long while the database or the storage is away, in seconds, and again after so
#: many.
PATIENCE: Final = 60.0
AGAIN_AFTER: Final = 0.5


def in_database(function: Callable[_P, _T]) -> Callable[_P, Awaitable[_T]]:
    """The function, to be awaited. Any thread will do: nothing is shared between two calls."""
    awaitable: Callable[_P, Awaitable[_T]] = database_sync_to_async(function, thread_sensitive=False)
    return awaitable


@contextmanager
def going_on(to: logging.Logger, what: str) -> Iterator[None]:
    """Nothing that goes wrong in the block ends who runs it: it is logged, and its loop tries again.

    In one line where the database or the storage is away, which tells nothing of ours.
    """
    try:
        yield
    except (OperationalError, InterfaceError) as problem:
        to.warning("%s, the database is away: %s", what, str(problem).strip().partition("\n")[0])
    except MediaAway as problem:
        to.warning("%s: %s", what, problem.in_full)
    except Exception:  # noqa: BLE001 - whatever it is, the loop of who asks must go on
        to.exception("%s", what)


def written(function: Callable[_P, _T]) -> Callable[_P, Awaitable[_T]]:
    """The function, to be awaited, called again while the database or the storage is away. Raises what it raised last.

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
                logger.warning("the database is away, trying again: %s", str(problem).partition("\n")[0])
            except MediaAway as problem:
                if time.monotonic() > deadline:
                    raise
                logger.warning("trying again: %s", problem.in_full)
            await asyncio.sleep(AGAIN_AFTER)

    return call

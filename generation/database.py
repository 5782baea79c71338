"""Rows from the engine's event loop: every call is a transaction of its own, in a thread that may use the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async

_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_database(function: Callable[_P, _T]) -> Callable[_P, Awaitable[_T]]:
    """The function, to be awaited. Any thread will do: nothing is shared between two calls."""
    awaitable: Callable[_P, Awaitable[_T]] = database_sync_to_async(function, thread_sensitive=False)
    return awaitable

"""What the lines of the log belong to: a request, a job. Carried by the running task, read by the formatter.

It lives in the lowest app because web and engine both set it. Knows nothing of Django.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ids: ContextVar[dict[str, str | int] | None] = ContextVar("log_ids", default=None)


@contextmanager
def logged_with(**ids: str | int) -> Iterator[None]:
    """Every line logged inside, in this task and those it starts, carries these ids. Empty ones are left out."""
    token = _ids.set({**(_ids.get() or {}), **{name: value for name, value in ids.items() if value}})
    try:
        yield
    finally:
        _ids.reset(token)


def log_ids() -> dict[str, str | int]:
    """The ids in force, such as `{"request_id": "6f0c…", "job_id": 12}`."""
    return dict(_ids.get() or {})


def current_request_id() -> str:
    """The id of the request being answered; empty outside one."""
    return str(log_ids().get("request_id", ""))

"""Deeds that an operator may want to look up later: services tell of them here, whoever keeps a record listens.

It lives in the lowest app because services of every app tell, and only the site knows who asked and from where.
"""

from __future__ import annotations

from typing import Any, Final

from django.db.models import Model
from django.dispatch import Signal

#: Sent inside the transaction of the deed, so that what is undone is not on record either.
deed_done: Final = Signal()


def tell_deed(
    action: str, thing: Model | None = None, *, by: Any = None, detail: str = "", way: str = ""
) -> None:
    """Tell that `action` ("adapter.imported") was done to `thing`; `by` is the person, where the service knows.

    `way` is for what the studio does by itself; else who listens tells it from the request in hand.
    """
    deed_done.send(sender=None, action=action, thing=thing, by=by, detail=detail, way=way)

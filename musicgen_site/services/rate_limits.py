"""Limits on how often somebody may do something, counted in rows: they hold across processes and restarts.

Each limit is a bucket that fills by itself (the generic cell rate algorithm): one number a bucket, one conditional
update a try, and nothing that runs in the background.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from musicgen_site.models import RateLimit


@dataclass(frozen=True)
class Limit:
    """`count` at once; after that one each `seconds / count`, until all are back."""

    name: str
    count: int
    seconds: float

    @property
    def interval(self) -> float:
        """Seconds in which one comes back."""
        return self.seconds / self.count


def take(limit: Limit, who: object) -> float:
    """Use one of what `who` may do: 0.0 when it was there, else the seconds until one is back."""
    row = RateLimit.objects.filter(key=_key(limit, who))
    while True:
        now = time.time()
        latest = now + limit.seconds - limit.interval
        begun_anew = Greatest(F("due_at"), Value(now)) + limit.interval
        if row.filter(due_at__lte=latest + 1e-6).update(due_at=begun_anew):
            return 0.0
        due_at = row.values_list("due_at", flat=True).first()
        if due_at is None:
            if _begin(limit, who, now):
                return 0.0
        elif due_at > now + limit.seconds + limit.interval:
            # A clock that was ahead wrote this; nobody waits longer than the limit's own time.
            row.filter(due_at=due_at).update(due_at=now + limit.seconds)
        else:
            return max(0.001, due_at - latest)


def _begin(limit: Limit, who: object, now: float) -> bool:
    """Make the row; False when somebody else was faster. Rows that tell nothing any more go."""
    RateLimit.objects.filter(due_at__lt=now).delete()
    try:
        with transaction.atomic():
            RateLimit.objects.create(key=_key(limit, who), due_at=now + limit.interval)
    except IntegrityError:
        return False
    return True


def give_back(limit: Limit, who: object) -> None:
    """Undo one `take`."""
    RateLimit.objects.filter(key=_key(limit, who)).update(due_at=F("due_at") - limit.interval)


def forget(limit: Limit, who: object) -> None:
    """Make the limit whole again."""
    RateLimit.objects.filter(key=_key(limit, who)).delete()


def _key(limit: Limit, who: object) -> str:
    return hashlib.sha256(f"{limit.name}\0{who}".encode(errors="replace")).hexdigest()

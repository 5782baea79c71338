"""Limits on how often somebody may do something, counted in rows: they hold across processes and restarts.

Each limit is a bucket that fills by itself (the generic cell rate algorithm): one number a bucket, one conditional
update a try, and nothing that runs in the background.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from gated_configs.models import RateLimit
from gated_configs.wording import spoken_seconds


class TooManyRequests(Exception):
    """Somebody does something too often. `str()` says so, and when it is possible again."""

    code = "TOO_MANY_REQUESTS"

    def __init__(self, what: str, retry_after_seconds: int) -> None:
        super().__init__(
            f"Those were too many {what} in a short time. Try again in {spoken_seconds(retry_after_seconds)}."
        )
        self.retry_after_seconds = retry_after_seconds


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


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """`per_person` and `per_address` within `window_seconds`, each a limit. `what` is the plural, for the sentence."""

    name: str
    what: str
    per_person: int
    per_address: int
    window_seconds: int
    refusal: type[TooManyRequests] = TooManyRequests


def spend(allowance: Allowance, *, person: str = "", address: str = "") -> None:
    """Count one attempt of that person from that address, before the work; an empty one is not counted.

    Raises the allowance's refusal, a TooManyRequests; an attempt that is refused takes nothing.
    """
    taken: list[tuple[Limit, str]] = []
    for kind, who, count in (
        ("person", person, allowance.per_person),
        ("address", address, allowance.per_address),
    ):
        if not who:
            continue
        limit = Limit(f"{allowance.name} of {kind}", count, allowance.window_seconds)
        wait = take(limit, who)
        if wait:
            for earlier, whose in taken:
                give_back(earlier, whose)
            raise allowance.refusal(allowance.what, math.ceil(wait))
        taken.append((limit, who))


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

"""What one person may ask for: unfinished jobs at a time, and seconds of audio in a day of 24 hours.

Checked inside the transaction that queues a job; the person's row is locked for it, so two requests at once cannot
both have the last place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models import Sum
from django.utils import timezone

from gated_configs.wording import THIN_SPACE, plain_number, rough_seconds
from generation.models import Job
from generation.models.job import used_seconds
from generation.services.refusals import DailyQuotaReached, QueueFull, Refusal

DAY: Final = timedelta(hours=24)


@dataclass(frozen=True)
class Use:
    """What a person has used of both quotas; a limit of None means that there is none."""

    unfinished_jobs: int
    max_unfinished_jobs: int
    seconds_today: float
    max_seconds_a_day: int | None


def max_seconds_a_day() -> int | None:
    """The daily quota of each person: shared mode only, and None where the operator lifted it."""
    if settings.STUDIO.access == "local":
        return None
    return settings.STUDIO.max_daily_seconds or None


def use_of(owner: Any) -> Use:
    """How much of their quotas somebody has used."""
    return Use(
        unfinished_jobs=Job.objects.for_user(owner).unfinished().count(),
        max_unfinished_jobs=settings.STUDIO.max_queued_jobs,
        seconds_today=_seconds_since(owner, timezone.now() - DAY),
        max_seconds_a_day=max_seconds_a_day(),
    )


def check_quotas(owner: Any, wanted_seconds: float) -> None:
    """Raise QueueFull or DailyQuotaReached when one more job of that many seconds is too much. In a transaction."""
    # Where rows can be locked, the person's own serves as the lock; SQLite lets one transaction write at a time.
    get_user_model().objects.select_for_update().filter(pk=owner.pk).exists()
    limit = settings.STUDIO.max_queued_jobs
    if Job.objects.for_user(owner).unfinished().count() >= limit:
        sentence = (
            f"The queue holds {limit} of your jobs, which is the limit. Wait for one to finish or cancel one."
        )
        raise QueueFull({"__all__": Refusal(sentence, "QUEUE_FULL", {"max_queued_jobs": limit})})
    daily = max_seconds_a_day()
    if daily is not None:
        _check_day(owner, wanted_seconds, daily)


def _check_day(owner: Any, wanted: float, daily: int) -> None:
    now = timezone.now()
    used = _seconds_since(owner, now - DAY)
    if used + wanted <= daily:
        return
    left = max(0, math.floor(daily - used))
    wait = _seconds_until(owner, now, used + wanted - daily)
    sentence = (
        f"You may ask for {plain_number(daily)}{THIN_SPACE}s of audio in 24 hours and have "
        f"{plain_number(left)}{THIN_SPACE}s left, but this asks for {plain_number(round(wanted, 1))}{THIN_SPACE}s."
    )
    if wait is None:
        sentence += " Ask for less."
    else:
        sentence += f" Ask for less, or try again in {rough_seconds(wait)}."
    facts = {
        "max_daily_seconds": daily,
        "used_seconds": round(used, 1),
        "wanted_seconds": wanted,
        "retry_after_seconds": None if wait is None else math.ceil(wait),
    }
    raise DailyQuotaReached({"__all__": Refusal(sentence, "DAILY_QUOTA_REACHED", facts)})


def _seconds_since(owner: Any, since: datetime) -> float:
    asked = Job.objects.for_user(owner).filter(created_at__gt=since)
    return float(asked.aggregate(seconds=Sum(used_seconds()))["seconds"] or 0.0)


def _seconds_until(owner: Any, now: datetime, too_much: float) -> float | None:
    """How long until jobs that asked for that much are older than a day; None when waiting does not help."""
    asked = Job.objects.for_user(owner).filter(created_at__gt=now - DAY).order_by("created_at")
    for created_at, seconds in asked.annotate(used=used_seconds()).values_list("created_at", "used"):
        too_much -= seconds
        if too_much <= 0:
            return max(1.0, (created_at + DAY - now).total_seconds())
    return None

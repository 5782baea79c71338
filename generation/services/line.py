"""The line of queued jobs moves for everybody in it: whoever waits is told, whoever moved it."""

from __future__ import annotations

from generation.events import BoardChanged
from generation.models import Job, JobStatus
from registry.events import send_on_commit


def tell_who_waits(*, but: int | None = None) -> None:
    """Hint to everybody with a queued job that places in the line changed; `but` is who hears of it anyway."""
    waiting = Job.objects.filter(status=JobStatus.QUEUED).exclude(owner=but).order_by()
    owners = waiting.values_list("owner", flat=True).distinct()
    send_on_commit(*(BoardChanged(owner_id=owner_id) for owner_id in owners))

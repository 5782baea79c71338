"""Delete an adapter: what depends on it, what becomes of that, and when its file may go.

Takes keep their recipes, with its name and hash; a job that is being made with it finishes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db import transaction
from django.utils import timezone

from adapters.events import AdaptersChanged
from adapters.models import Adapter
from adapters.services.storage import has_weights, remove_unused_weights
from gated_configs.deeds import tell_deed
from generation.events import BoardChanged
from generation.models import AdapterTrial, Job, JobAdapter, JobStatus, Take
from generation.services.job_adapters import AdapterGone
from registry.events import send_on_commit
from registry.media import MediaAway, weights_media

logger = logging.getLogger(__name__)

#: The engine looks for weights that nobody reads any more for so long after their job.
JUST_ENDED: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class Dependents:
    """What hangs on an adapter. Takes are everybody's and stay."""

    queued_jobs: int
    running_jobs: int
    takes: int
    trials: int


@dataclass(frozen=True)
class Removal:
    """What became of it. `freed_bytes` is 0 while a running job or another adapter needs the file."""

    cancelled_jobs: int
    running_jobs: int
    takes: int
    freed_bytes: int


def dependents_of(adapter: Adapter) -> Dependents:
    """What deleting it would concern."""
    jobs = Job.objects.using_adapter(adapter.pk)
    return Dependents(
        queued_jobs=jobs.filter(status=JobStatus.QUEUED).count(),
        running_jobs=jobs.filter(status=JobStatus.RUNNING).count(),
        takes=Take.objects.kept().made_with(adapter.pk).count(),
        trials=AdapterTrial.objects.filter(adapter=adapter).count(),
    )


def delete_adapter(adapter: Adapter) -> Removal:
    """Delete the adapter and its proofs, cancel the queued jobs that need it, and remove its file once nobody reads it."""
    weights = adapter.weights_sha256
    with transaction.atomic():
        uses = JobAdapter.objects.filter(adapter=adapter, job__status=JobStatus.QUEUED).select_related("job")
        cancelled = sum(_cancel(use) for use in uses)
        dependents = dependents_of(adapter)
        tell_deed("adapter.deleted", adapter)
        adapter.delete()
        send_on_commit(AdaptersChanged())
    return Removal(
        cancelled_jobs=cancelled,
        running_jobs=dependents.running_jobs,
        takes=dependents.takes,
        freed_bytes=0 if is_being_read(weights) else _remove_file(weights),
    )


def _remove_file(weights_sha256: str) -> int:
    """The rows are gone: where the storage is away, the clean-up finds the file later."""
    try:
        return remove_unused_weights(weights_sha256)
    except MediaAway as problem:
        logger.warning("the weights %s stay without a row: %s", weights_sha256, problem)
        return 0


def _cancel(use: JobAdapter) -> bool:
    now = timezone.now()
    cancelled = use.job.change_status(
        JobStatus.CANCELLED,
        finished_at=now,
        cancel_requested_at=now,
        error_code="ADAPTER_DELETED",
        error_message=str(AdapterGone(use)),
    )
    if cancelled:
        announcement = f"Cancelled: {AdapterGone(use)}"
        send_on_commit(BoardChanged(owner_id=use.job.owner_id, announcement=announcement))
    return cancelled


def remove_deleted_weights() -> int:
    """Remove files that stayed because a job was using them. Returns the bytes freed. For the engine, now and then."""
    uses = JobAdapter.objects.filter(adapter=None)
    if weights_media().is_remote:
        # Each look is a request: only those whose job has ended lately. What is missed the clean-up finds.
        uses = uses.filter(job__finished_at__gte=timezone.now() - JUST_ENDED)
    deleted = uses.order_by().values_list("weights_sha256", flat=True)
    left = [weights for weights in deleted.distinct() if has_weights(weights)]
    return sum(remove_unused_weights(weights) for weights in left if not is_being_read(weights))


def is_being_read(weights_sha256: str) -> bool:
    """Whether a job that is not over names these weights."""
    return Job.objects.unfinished().filter(adapters__weights_sha256=weights_sha256).exists()

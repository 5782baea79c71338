"""What people and engine hosts do with jobs: cancel, try again, put away; claim, renew, hand back, end.

Every change of status is a conditional update. Losing the race is a return value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from generation.events import BoardChanged, JobCancelRequested, JobSubmitted
from generation.models import EngineHost, Job, JobStatus
from generation.services import live
from generation.services.hosts import process_lives
from generation.services.job_adapters import wishes_of
from generation.services.line import tell_who_waits
from generation.services.submission import GenerationRequest, submit_job
from generation.services.takes import remove_leftovers
from registry.events import send_on_commit

#: A job whose model is not loaded lets others pass for this long.
SWAP_PATIENCE: Final = timedelta(seconds=30)
#: Of the line, how many jobs are looked at for one that can join.
LOOKED_THROUGH: Final = 100
#: A job waits this long for a host that is idle, before one that works takes it in beside what it has.
IDLE_HOSTS_FIRST: Final = timedelta(seconds=1)
#: A job is begun this often before it counts as failed.
MAX_ATTEMPTS: Final = 2

LOST_ENGINE: Final = (
    "The engine stopped unexpectedly twice while making this. The machine may be short of memory: "
    "try a shorter duration or a smaller model."
)
HUNG_RUNNER: Final = (
    "The model's process stood still twice while making this and was ended. Try again; if it happens again, look at the "
    "studio's log, and at the machine's graphics driver and disk."
)
#: Code and sentence of a job that was begun too often.
STOPPED: Final = ("ENGINE_STOPPED", LOST_ENGINE)
HUNG: Final = ("RUNNER_HUNG", HUNG_RUNNER)


def request_cancel(job: Job) -> bool:
    """Ask for the end of a job. False when it had ended already.

    A queued job ends at once; a running one ends within a step of its engine, and what was made is kept.
    """
    with transaction.atomic():
        job.refresh_from_db()
        if job.status == JobStatus.QUEUED and job.change_status(
            JobStatus.CANCELLED, finished_at=timezone.now(), cancel_requested_at=timezone.now()
        ):
            send_on_commit(BoardChanged(owner_id=job.owner_id, announcement="Cancelled."))
            tell_who_waits(but=job.owner_id)
            return True
        # The engine may have taken it between our look and now, so ask the row again.
        asked = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING).update(
            cancel_requested_at=timezone.now()
        )
        if asked:
            send_on_commit(JobCancelRequested(job_id=job.pk), BoardChanged(owner_id=job.owner_id))
        return bool(asked)


def cancel_all_of(owner: Any) -> int:
    """Ask for the end of every job of a person whose account is closed. Returns how many."""
    return sum(map(request_cancel, Job.objects.for_user(owner).unfinished()))


def retry_job(job: Job) -> Job | None:
    """Queue the same request again as a new job and put the old card away. None when it is not over yet.

    Raises GenerationRefused when the request is no longer valid, for example after the model's limit changed or an
    adapter was deleted.
    """
    if job.is_unfinished:
        return None
    again = submit_job(
        owner=job.owner,
        request=GenerationRequest(
            prompt=job.prompt,
            duration_seconds=job.duration_seconds,
            model_id=job.model_id,
            seed=job.seed,
            guidance_scale=job.guidance_scale,
            temperature=job.temperature,
            top_k=job.top_k,
            top_p=job.top_p,
            variations=job.variations,
            adapters=wishes_of(job),
            extend=job.window_seconds is not None,
            continue_take=job.continued_take,
            continue_clip=job.continued_clip,
            continue_from_seconds=job.continued_from_seconds,
            melody_clip=job.melody_clip,
        ),
        trial=job.trial,
    )
    dismiss_job(job)
    return again


def dismiss_job(job: Job) -> bool:
    """Put the card of an ended job away. False when it has not ended."""
    put_away = Job.objects.filter(
        pk=job.pk, status__in=[JobStatus.FAILED, JobStatus.CANCELLED], dismissed_at__isnull=True
    ).update(dismissed_at=timezone.now())
    if put_away:
        send_on_commit(BoardChanged(owner_id=job.owner_id))
    return bool(put_away)


# What an engine host does.


def _lease() -> timedelta:
    """How long a host may hold a job without renewing. It renews four times a second while it works."""
    return timedelta(seconds=settings.STUDIO.lease_seconds)


def claim_next_job(host: str, *, only_job: int | None = None, loaded: Collection[str] = ()) -> Job | None:
    """A queued job, now held by `host`; None when nothing waits. Lost races are tried again.

    People take turns by seconds of audio, each with their oldest job first; except that jobs for models in `loaded`
    may pass one that would need a swap, until it has waited for SWAP_PATIENCE: models swap rarely and nobody starves.
    """
    while True:
        queue = Job.objects.filter(status=JobStatus.QUEUED, owner__is_active=True)
        if only_job is not None:
            queue = queue.filter(pk=only_job)
        # Asked twice a second by an engine at rest, and a fraction of what their order costs.
        if not queue.exists():
            return None
        now = timezone.now()
        job = queue.in_fair_order().select_related("model").first()
        if job is None:
            return None
        if job.model_id not in loaded and job.created_at > now - SWAP_PATIENCE:
            job = queue.filter(model__in=loaded).in_fair_order().select_related("model").first() or job
        if _claim(job, host):
            return job


def claim_job_beside(host: str, in_hand: Job, *, places: int) -> Job | None:
    """A queued job that can be made side by side with one that `host` has in hand; None when there is none.

    It is for the same model with the same adapters, has `places` takes at most, and is next in line of those. Once a job
    that cannot join has waited for SWAP_PATIENCE nobody passes it any more. What was begun before and ended with its
    engine is made alone: if it was the cause, nobody else shall fail with it.
    """
    if in_hand.attempts > 1:
        return None
    now = timezone.now()
    has_others = EngineHost.objects.alive().exclude(pk=host).exists()
    queue = Job.objects.filter(status=JobStatus.QUEUED, owner__is_active=True).select_related("model")
    wanted = _uses_of(in_hand)
    for job in queue.in_fair_order().prefetch_related("adapters")[:LOOKED_THROUGH]:
        if (
            job.model_id == in_hand.model_id
            and job.variations <= places
            and job.attempts == 0
            and not (has_others and job.created_at > now - IDLE_HOSTS_FIRST)
            and _uses_of(job) == wanted
            and _claim(job, host)
        ):
            return job
        if job.created_at <= now - SWAP_PATIENCE:
            return None
    return None


def _uses_of(job: Job) -> list[tuple[int | None, float]]:
    return [(used.adapter_id, used.strength) for used in job.adapters.all()]


def _claim(job: Job, host: str) -> bool:
    now = timezone.now()
    claimed = job.change_status(
        JobStatus.RUNNING,
        lease_owner=host,
        lease_expires_at=now + _lease(),
        attempts=job.attempts + 1,
        started_at=job.started_at or now,
        stage="starting",
        stage_fraction=None,
    )
    if claimed:
        tell_who_waits()
    return claimed


def write_progress(job: Job, host: str) -> bool | None:
    """Store how far the job is and renew its lease. True when a cancel was asked for, None when it is no longer ours."""
    held = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING, lease_owner=host)
    updated = held.update(
        stage=job.stage,
        stage_fraction=job.stage_fraction,
        frames_done=job.frames_done,
        frames_total=job.frames_total,
        seconds_per_frame=job.seconds_per_frame,
        live=job.live,
        lease_expires_at=timezone.now() + _lease(),
    )
    if not updated:
        return None
    return held.filter(cancel_requested_at__isnull=False).exists()


def hand_back(job: Job, host: str, *, counts_as_attempt: bool, reason: tuple[str, str] = STOPPED) -> bool:
    """Return a running job to the queue, or end it when it was tried often enough. False when it is no longer ours.

    `reason` is the code and sentence of that end.
    """
    if job.status != JobStatus.RUNNING:
        return False
    if Job.objects.filter(pk=job.pk, cancel_requested_at__isnull=False).exists():
        return end_job(job, JobStatus.CANCELLED, host=host)
    if counts_as_attempt and job.attempts >= MAX_ATTEMPTS:
        code, sentence = reason
        return end_job(job, JobStatus.FAILED, host=host, error_code=code, error_message=sentence)
    attempts = job.attempts if counts_as_attempt else max(0, job.attempts - 1)
    given = job.change_status(
        JobStatus.QUEUED,
        held_by=host,
        attempts=attempts,
        stage="",
        stage_fraction=None,
        frames_done=0,
        live=None,
    )
    if given:
        send_on_commit(JobSubmitted(), BoardChanged(owner_id=job.owner_id))
        tell_who_waits(but=job.owner_id)
    return given


def end_job(job: Job, status: JobStatus, *, host: str, announcement: str = "", **fields: Any) -> bool:
    """End a running job that `host` holds. False when it is no longer ours."""
    ended = job.change_status(
        status, held_by=host, finished_at=timezone.now(), stage="", stage_fraction=None, **fields
    )
    if ended:
        send_on_commit(BoardChanged(owner_id=job.owner_id, announcement=announcement))
    return ended


def recover_jobs(host: str, *, lapsed: Callable[[Job], bool], in_hand: Collection[int] = ()) -> int:
    """Hand back the jobs of hosts that are gone: lease `lapsed`, or process dead on this machine. Returns how many.

    Also those that this host holds by its row and does not work on: their end could not be written, or their claim
    was never heard of. `in_hand` are those that it does work on.
    """
    dead = {row.name for row in EngineHost.objects.all() if process_lives(row) is False}
    running = Job.objects.filter(status=JobStatus.RUNNING)
    recovered = 0
    for job in running.exclude(lease_owner=host):
        # Each is looked at, also those of the dead: a lease lapses by being looked at.
        if lapsed(job) or job.lease_owner in dead:
            recovered += _recover(job, counts_as_attempt=True)
    for job in running.filter(lease_owner=host).exclude(pk__in=in_hand):
        recovered += _recover(job, counts_as_attempt=False)
    EngineHost.objects.filter(name__in=dead).exclude(name=host).delete()
    return recovered


def _recover(job: Job, *, counts_as_attempt: bool) -> bool:
    heard = list(live.streams_of(job).values())
    given = hand_back(job, job.lease_owner, counts_as_attempt=counts_as_attempt)
    if given:
        # Whoever held it can no longer make a row of a file that it wrote.
        remove_leftovers(job)
        live.remove_streams(heard)
    return given

"""One request for music: what was asked for, how far it is, and how it ended.

A job is complete in itself: nothing outside its row decides what is rendered.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import models, transaction
from django.db.models import Case, F, FloatField, OuterRef, Q, Subquery, Sum, Value, When, Window
from django.db.models.expressions import Combinable, RowRange
from django.db.models.functions import Cast, Coalesce
from django.dispatch import Signal
from django.utils import timezone

from registry.models import ModelConfig

MAX_SEED: Final = 2**32 - 1
#: Sent with each end of a job, inside its transaction: what listeners write is there if and only if the end is.
job_ended: Final = Signal()
#: What somebody was given in this time counts when it is told whose turn it is.
FAIRNESS_WINDOW: Final = timedelta(hours=1)


class JobStatus(models.TextChoices):
    """Where a job stands."""

    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    FINISHED = "finished", "Finished"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


UNFINISHED: Final = (JobStatus.QUEUED, JobStatus.RUNNING)

#: Allowed changes of status. `Job.change_status` refuses every other one.
TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.FINISHED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


def audio_seconds() -> Combinable:
    """Seconds of audio that a job asks for, over all of its variations. For queries."""
    return Cast(F("duration_seconds") * F("variations"), FloatField())


def used_seconds() -> Combinable:
    """Seconds of audio that a job took of what the engine can make: of one that ended badly, what was made of it."""
    return Case(
        When(status__in=[JobStatus.FAILED, JobStatus.CANCELLED], frames_total=0, then=Value(0.0)),
        When(
            status__in=[JobStatus.FAILED, JobStatus.CANCELLED],
            then=audio_seconds() * Cast("frames_done", FloatField()) / Cast("frames_total", FloatField()),
        ),
        default=audio_seconds(),
        output_field=FloatField(),
    )


class JobQuerySet(models.QuerySet["Job"]):
    """The queue and its parts."""

    def in_fair_order(self) -> JobQuerySet:
        """Of queued jobs: whose turn comes first, by seconds of audio; one query.

        Each time it is the turn of who was given least in the last hour, with their oldest job. Repeating that gives
        the order of `fair_start`: what its owner was given, and what they will be given before it.
        """
        given = (
            Job.objects.filter(owner=OuterRef("owner"))
            .filter(Q(status=JobStatus.RUNNING) | Q(started_at__gte=timezone.now() - FAIRNESS_WINDOW))
            .exclude(status=JobStatus.QUEUED)
            .order_by()
            .values("owner")
            .annotate(seconds=Sum(used_seconds()))
            .values("seconds")
        )
        earlier = Window(
            Sum(audio_seconds()),
            partition_by=F("owner"),
            order_by=F("id").asc(),
            frame=RowRange(start=None, end=-1),
        )
        start = Coalesce(Subquery(given), Value(0.0)) + Coalesce(earlier, Value(0.0))
        return self.annotate(fair_start=start).order_by("fair_start", "id")

    def complete(self) -> JobQuerySet:
        """With everything that a job says of itself: its model and its adapters."""
        return self.select_related("model").prefetch_related("adapters")

    def using_adapter(self, adapter_id: int) -> JobQuerySet:
        """Jobs that name that adapter, at whatever strength."""
        return self.filter(adapters__adapter=adapter_id)

    def for_user(self, user: Any) -> JobQuerySet:
        """Jobs that this person may see: their own."""
        return self.filter(owner=user)

    def unfinished(self) -> JobQuerySet:
        """Queued and running jobs."""
        return self.filter(status__in=UNFINISHED)

    def on_the_board(self) -> JobQuerySet:
        """What the studio shows as cards: unfinished jobs, and those that ended badly and were not put away."""
        return self.filter(
            Q(status__in=[JobStatus.QUEUED, JobStatus.RUNNING])
            | Q(status__in=[JobStatus.FAILED, JobStatus.CANCELLED], dismissed_at__isnull=True)
        )


class Job(models.Model):
    """One to eight takes of one prompt, rendered with seed, seed + 1, ... side by side."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="jobs")
    status = models.CharField(max_length=10, choices=JobStatus.choices, default=JobStatus.QUEUED)
    model = models.ForeignKey(ModelConfig, on_delete=models.PROTECT, related_name="jobs")
    prompt = models.TextField()
    duration_seconds = models.FloatField()
    seed = models.PositiveBigIntegerField()
    guidance_scale = models.FloatField()
    temperature = models.FloatField()
    top_k = models.PositiveIntegerField()
    top_p = models.FloatField()
    variations = models.PositiveSmallIntegerField(default=1)
    # A take longer than the model's window: how long a window is, and how far the next one lies behind it. Else null.
    window_seconds = models.FloatField(null=True, blank=True)
    stride_seconds = models.FloatField(null=True, blank=True)
    # The take or clip that it goes on from, by its file, and from where; `duration_seconds` is what is added.
    # Its number only: it may go, and rows of jobs and takes must not need each other.
    continued_take = models.PositiveBigIntegerField(null=True, blank=True)
    continued_clip = models.PositiveBigIntegerField(null=True, blank=True)
    continued_sha256 = models.CharField(max_length=64, blank=True, editable=False, default="", db_default="")
    continued_from_seconds = models.FloatField(null=True, blank=True)
    # The clip whose melody it follows, likewise.
    melody_clip = models.PositiveBigIntegerField(null=True, blank=True)
    melody_sha256 = models.CharField(max_length=64, blank=True, editable=False, default="", db_default="")
    # The comparison it is a part of, if any.
    trial = models.ForeignKey(
        "generation.AdapterTrial", null=True, blank=True, on_delete=models.SET_NULL, related_name="jobs"
    )

    # Progress, written by the engine at most four times a second. Frames count over all variations.
    stage = models.CharField(max_length=20, blank=True)
    stage_fraction = models.FloatField(null=True, blank=True)
    frames_done = models.PositiveIntegerField(default=0)
    frames_total = models.PositiveIntegerField(default=0)
    seconds_per_frame = models.FloatField(null=True, blank=True)
    # What can be heard of its takes while they are made, by variation: see services.live.
    live = models.JSONField(null=True, blank=True, editable=False)

    # The engine host that holds the job, and until when it may without renewing.
    lease_owner = models.CharField(max_length=80, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)

    # Of the request that asked for it, to be found again in the log.
    # The default in the database too: a process of the release before this one writes jobs while it is migrated.
    request_id = models.CharField(max_length=64, blank=True, editable=False, default="", db_default="")

    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.TextField(blank=True)
    error_detail = models.TextField(blank=True)

    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    dismissed_at = models.DateTimeField(null=True, blank=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["status", "id"], name="job_queue"),
            models.Index(fields=["owner", "status"], name="job_owner_status"),
            models.Index(fields=["owner", "started_at"], name="job_owner_started"),
            models.Index(fields=["owner", "created_at"], name="job_owner_created"),
            models.Index(
                fields=["continued_sha256"], name="job_clip", condition=Q(continued_clip__isnull=False)
            ),
            models.Index(fields=["melody_sha256"], name="job_melody", condition=Q(melody_clip__isnull=False)),
            # What is counted of ended jobs, without reading them. Progress of running ones does not touch these.
            models.Index(
                fields=["model", "status", "frames_done"],
                name="job_outcomes",
                condition=Q(finished_at__isnull=False),
            ),
            models.Index(
                fields=["finished_at", "status"], name="job_ends", condition=Q(finished_at__isnull=False)
            ),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(duration_seconds__gt=0), name="job_duration_positive"),
            models.CheckConstraint(condition=Q(variations__gte=1), name="job_has_variations"),
            models.CheckConstraint(condition=Q(status__in=JobStatus.values), name="job_status_known"),
            models.CheckConstraint(
                condition=~Q(status=JobStatus.RUNNING) | ~Q(lease_owner=""), name="running_job_is_leased"
            ),
        ]

    def __str__(self) -> str:
        return f"job {self.pk}: {self.prompt[:60]}"

    @property
    def is_unfinished(self) -> bool:
        """Whether it may still change."""
        return bool(TRANSITIONS[self.status])

    @property
    def seeds(self) -> list[int]:
        """The seed of each variation. They wrap at 2^32, so that every one is a valid seed."""
        return [(self.seed + index) % (MAX_SEED + 1) for index in range(self.variations)]

    def elapsed_seconds(self, now: datetime | None = None) -> float:
        """Seconds since the engine took it, up to its end."""
        if self.started_at is None:
            return 0.0
        return max(0.0, ((self.finished_at or now or timezone.now()) - self.started_at).total_seconds())

    def change_status(self, new: JobStatus, *, held_by: str | None = None, **fields: Any) -> bool:
        """Move this row to `new` if it still stands where we read it; False when somebody else was faster.

        `held_by` also asks that this engine host still holds the lease. Raises ValueError for a change that the
        table of transitions does not know.
        """
        old = self.status
        if new not in TRANSITIONS[old]:
            raise ValueError(f"A {old} job cannot become {new}.")
        row = Job.objects.filter(pk=self.pk, status=old)
        if held_by is not None:
            row = row.filter(lease_owner=held_by)
        if new != JobStatus.RUNNING:
            fields = {"lease_owner": "", "lease_expires_at": None, **fields}
        fields["status"] = new
        before = {name: getattr(self, name) for name in fields}
        try:
            with transaction.atomic():
                if row.update(**fields) != 1:
                    return False
                for name, value in fields.items():
                    setattr(self, name, value)
                if not self.is_unfinished:
                    job_ended.send(sender=Job, job=self)
        except BaseException:
            # What was not written, or nobody knows whether it was, must not be taken for done: it may be tried again.
            for name, value in before.items():
                setattr(self, name, value)
            raise
        return True

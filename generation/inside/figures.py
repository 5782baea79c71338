"""Figures of queue, jobs, engine and switches, each one query over rows, so that every process tells the same.

Both the page and the metrics ask here. Nothing is kept between two questions: a restart loses nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count, DurationField, ExpressionWrapper, F, Min, Q, Sum
from django.utils import timezone

from generation.models import (
    DeliveryStatus,
    EngineHost,
    Job,
    JobStatus,
    Take,
    Webhook,
    WebhookDelivery,
)
from registry.models import ModelConfig, ModelSwitch, SwitchStage

ENDED: Final = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED)
ENDED_SWITCHES: Final = (SwitchStage.READY, SwitchStage.FAILED, SwitchStage.CANCELLED)
#: Takes that the engine's speed is told from: the newest, of the last hour.
SPEED_TAKES: Final = 100
SPEED_WINDOW: Final = timedelta(hours=1)
#: Upper bounds of the histogram of switch times, in seconds.
SWITCH_BOUNDS: Final = (1, 2, 5, 10, 30, 60, 300, 1800)


@dataclass(frozen=True)
class Queue:
    """What waits and what is in hand."""

    queued: int
    running: int
    oldest_seconds: float  # 0 when nothing waits


def queue() -> Queue:
    """The queue now."""
    found = Job.objects.filter(status__in=[JobStatus.QUEUED, JobStatus.RUNNING]).aggregate(
        queued=Count("pk", filter=Q(status=JobStatus.QUEUED)),
        running=Count("pk", filter=Q(status=JobStatus.RUNNING)),
        oldest=Min("created_at", filter=Q(status=JobStatus.QUEUED)),
    )
    oldest: datetime | None = found["oldest"]
    waited = (timezone.now() - oldest).total_seconds() if oldest is not None else 0.0
    return Queue(found["queued"], found["running"], max(0.0, waited))


@dataclass(frozen=True)
class Ended:
    """Jobs of one model that ended in one way, and the frames they made."""

    model_id: str
    outcome: str
    jobs: int
    frames: int
    audio_seconds: float


def ended_jobs() -> list[Ended]:
    """Every job that ever ended, by model and outcome. Rows of jobs stay when their takes are deleted."""
    frame_rates: dict[str, int] = dict(ModelConfig.objects.values_list("pk", "tokens_per_second"))
    rows = (
        Job.objects.filter(finished_at__isnull=False)
        .values("model_id", "status")
        .annotate(jobs=Count("pk"), frames=Sum("frames_done"))
        .order_by("model_id", "status")
    )
    return [
        Ended(
            row["model_id"],
            row["status"],
            row["jobs"],
            row["frames"],
            row["frames"] / frame_rates[row["model_id"]],
        )
        for row in rows
    ]


def outcomes_since(moment: datetime) -> dict[str, int]:
    """Jobs by outcome that ended since then; each outcome is there."""
    rows = Job.objects.filter(finished_at__gte=moment).values("status").annotate(jobs=Count("pk")).order_by()
    found = {row["status"]: row["jobs"] for row in rows}
    return {outcome.value: found.get(outcome.value, 0) for outcome in ENDED}


def recent_failures(limit: int) -> list[Job]:
    """The last jobs that failed, newest first."""
    failed = Job.objects.filter(finished_at__isnull=False, status=JobStatus.FAILED)
    return list(failed.select_related("model", "owner").order_by("-finished_at")[:limit])


@dataclass(frozen=True)
class Speed:
    """Decoder steps a second of one model on one machine."""

    machine: str
    model_id: str
    steps_per_second: float


def speeds() -> list[Speed]:
    """How fast each machine has been with each model in the last hour, whole takes counted from start to end."""
    since = timezone.now() - SPEED_WINDOW
    newest = Take.objects.order_by("-id").values_list(
        "host", "model_id", "frames", "render_seconds", "created_at"
    )[:SPEED_TAKES]
    work: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for machine, model_id, frames, seconds, created_at in newest:
        if seconds > 0 and created_at >= since:
            work[machine, model_id][0] += frames
            work[machine, model_id][1] += seconds
    return [Speed(*place, frames / seconds) for place, (frames, seconds) in sorted(work.items())]


def engine_hosts() -> list[EngineHost]:
    """Every engine host that has a row, by machine and name. `is_alive` goes by its heartbeat alone, so that every
    machine tells the same.
    """
    return list(EngineHost.objects.with_silence().order_by("hostname", "name"))


def jobs_in_hand(hosts: Iterable[EngineHost]) -> dict[str, list[Job]]:
    """The running jobs of each host, by its name."""
    held: dict[str, list[Job]] = {host.name: [] for host in hosts}
    for job in Job.objects.filter(status=JobStatus.RUNNING).select_related("model").order_by("id"):
        if job.lease_owner in held:
            held[job.lease_owner].append(job)
    return held


@dataclass(frozen=True)
class SwitchTimes:
    """Switches that reached their end well: how many took at most so long, and all their seconds."""

    at_most: dict[float, int]  # cumulative, by bound in seconds
    count: int
    seconds: float


def switch_times() -> SwitchTimes:
    """How long switches took, from being asked for to a proven model."""
    took = ExpressionWrapper(F("finished_at") - F("created_at"), output_field=DurationField())
    ready = ModelSwitch.objects.filter(stage=SwitchStage.READY, finished_at__isnull=False).annotate(took=took)
    within: dict[str, Any] = {
        f"within_{bound}": Count("pk", filter=Q(took__lte=timedelta(seconds=bound)))
        for bound in SWITCH_BOUNDS
    }
    found = ready.aggregate(count=Count("pk"), seconds=Sum("took"), **within)
    total: timedelta = found["seconds"] or timedelta()
    at_most = {float(bound): found[f"within_{bound}"] for bound in SWITCH_BOUNDS}
    return SwitchTimes(at_most, found["count"], total.total_seconds())


def ended_switches() -> dict[str, int]:
    """Switches by how they ended; each way is there."""
    rows = (
        ModelSwitch.objects.filter(open_slot__isnull=True).values("stage").annotate(n=Count("pk")).order_by()
    )
    found = {row["stage"]: row["n"] for row in rows}
    return {stage.value: found.get(stage.value, 0) for stage in ENDED_SWITCHES}


def recent_switches(limit: int) -> list[ModelSwitch]:
    """The last switches, newest first."""
    return list(ModelSwitch.objects.select_related("model")[:limit])


@dataclass(frozen=True)
class WaitingDeliveries:
    """What webhooks have yet to hear."""

    count: int
    overdue_seconds: float
    disabled: int


def waiting_deliveries() -> WaitingDeliveries:
    """Messages that wait, how long the first is due, and how many webhooks were turned off."""
    pending = WebhookDelivery.objects.filter(status=DeliveryStatus.PENDING, webhook__owner__is_active=True)
    found = pending.aggregate(count=Count("pk"), first=Min("due_at"))
    overdue = (timezone.now() - found["first"]).total_seconds() if found["first"] else 0.0
    disabled = Webhook.objects.filter(disabled_at__isnull=False).count()
    return WaitingDeliveries(found["count"], max(0.0, overdue), disabled)

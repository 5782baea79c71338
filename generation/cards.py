"""Jobs as the studio shows them: one card each, every sentence ready to print. Reads rows, writes none.

The same cards serve the first page, an HTMX answer and a push over the socket.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.urls import reverse

from gated_configs.wording import THIN_SPACE, ordinal, plain_number, rough_seconds, spoken_seconds
from generation.engine.frames import frames_for
from generation.models import Job, JobStatus, Take
from generation.partials import reading
from generation.services import live
from generation.services.speed import seconds_per_audio_second

#: Takes that the studio page shows; the library has them all.
RECENT_TAKES = 12
#: Cards that one page shows.
MAX_CARDS = 60

#: Prompts to click: what the demo model does well, and any other too.
EXAMPLES = [
    "lo-fi hip hop with electric piano, bass and drums",
    "hip hop drum beat, laid back",
    "calm music box lullaby",
    "peaceful church organ hymn",
]

_STAGE_LINES = {
    "starting": "Starting",
    "proving": "Checking its adapters",
    "encoding": "Reading the prompt",
    "decoding": "Turning frames into sound",
}


@dataclass(frozen=True)
class LiveTake:
    """A take that can be heard while it is made. `variation` counts from 0, people count from 1."""

    variation: int
    url: str
    sample_rate: int
    duration_seconds: float

    @property
    def number(self) -> int:
        """As people count."""
        return self.variation + 1


@dataclass(frozen=True)
class JobCard:
    """One card. `state` is one of queued, starting, running, cancelling, failed, cancelled."""

    job: Job
    state: str
    percent: float | None
    status_line: str
    side_line: str
    facts: str
    error_message: str = ""
    error_detail: str = ""
    kept_line: str = ""
    can_cancel: bool = False
    can_retry: bool = False
    can_dismiss: bool = False
    queue_position: int | None = None
    elapsed_seconds: float = 0.0
    remaining_seconds: float | None = None
    live: tuple[LiveTake, ...] = ()

    @property
    def pk(self) -> int:
        """The job's number."""
        return self.job.pk


class Queue:
    """Everybody's unfinished jobs, those that wait in the order of their turns: who waits for how long.

    Read once, and only for a card that asks.
    """

    def __init__(self) -> None:
        self._speeds: dict[str, float | None] = {}

    @cached_property
    def _running(self) -> list[Job]:
        return list(Job.objects.select_related("model").filter(status=JobStatus.RUNNING))

    @cached_property
    def _line(self) -> list[Job]:
        return list(Job.objects.select_related("model").filter(status=JobStatus.QUEUED).in_fair_order())

    @cached_property
    def _places(self) -> dict[int, int]:
        return {job.pk: place for place, job in enumerate(self._line)}

    def _before(self, job: Job) -> list[Job]:
        """Jobs that start before a queued one; none before one that an engine has taken since it was read."""
        return self._line[: self._places.get(job.pk, 0)]

    def position(self, job: Job) -> int:
        """Place in line of a queued job, 1 for the next one to start."""
        return 1 + len(self._before(job))

    def wait_seconds(self, job: Job) -> float | None:
        """Seconds until a queued job starts; None when this machine has no record for what is ahead."""
        # What runs is made side by side.
        running = [self.remaining_seconds(other) for other in self._running]
        before = [self.remaining_seconds(other) for other in self._before(job)]
        known = [left for left in (*running, *before) if left is not None]
        if len(known) < len(running) + len(before):
            return None
        return max(known[: len(running)], default=0.0) + sum(known[len(running) :])

    def remaining_seconds(self, job: Job) -> float | None:
        """Seconds of work left in a job, from its own pace, else from this machine's record."""
        rate = job.seconds_per_frame
        if rate is None:
            speed = self._speed(job.model_id)
            if speed is None:
                return None
            rate = speed / job.model.tokens_per_second
        total = job.frames_total or job.variations * frames_for(
            job.duration_seconds, job.model.tokens_per_second
        )
        return max(0.0, (total - job.frames_done) * rate)

    def _speed(self, model_id: str) -> float | None:
        if model_id not in self._speeds:
            self._speeds[model_id] = seconds_per_audio_second(model_id)
        return self._speeds[model_id]


def board(user: Any, queue: Queue | None = None) -> list[JobCard]:
    """Every card of this person: what runs and waits first, then what ended badly, newest first."""
    jobs = Job.objects.for_user(user).on_the_board().complete()
    queue = queue or Queue()
    unfinished = [job for job in jobs if job.is_unfinished]
    ended = sorted((job for job in jobs if not job.is_unfinished), key=lambda job: -job.pk)
    shown = [*unfinished, *ended][:MAX_CARDS]
    kept = _kept_seconds(ended)
    return [make_card(job, queue, kept_seconds=kept.get(job.pk)) for job in shown]


def queue_context(user: Any, queue: Queue | None = None) -> dict[str, Any]:
    """For the template `generation/_queue.html`. `queue` is one that was read for several people."""
    return {"read_at": reading(), "cards": board(user, queue)}


def card_of(job: Job) -> JobCard:
    """The card of one job."""
    return make_card(job, Queue(), kept_seconds=_kept_seconds([job]).get(job.pk))


def recent_takes(user: Any) -> list[Take]:
    """The newest takes of this person, for the studio page. Those of a comparison are on its own page."""
    found = Take.objects.for_user(user).kept().filter(job__trial__isnull=True)
    return list(found.order_by("-id")[:RECENT_TAKES])


def _kept_seconds(jobs: Iterable[Job]) -> dict[int, float]:
    """Seconds of audio kept from each cancelled or failed job."""
    kept: dict[int, float] = {}
    takes = Take.objects.kept().filter(job__in=[job.pk for job in jobs])
    for job_id, seconds in takes.values_list("job_id", "duration_seconds"):
        kept[job_id] = kept.get(job_id, 0.0) + seconds
    return kept


def make_card(job: Job, queue: Queue, *, kept_seconds: float | None = None) -> JobCard:
    """Put a job into words."""
    facts = [
        f"{plain_number(job.duration_seconds)}{THIN_SPACE}s",
        job.model.display_name,
        f"seed {job.seed}",
        *(str(used) for used in job.adapters.all()),
    ]
    if job.variations > 1:
        facts.insert(0, f"{job.variations} takes")
    common: dict[str, Any] = {"job": job, "facts": " · ".join(facts)}
    match job.status:
        case JobStatus.QUEUED:
            return _queued_card(job, queue, common)
        case JobStatus.RUNNING:
            return _running_card(job, queue, common)
        case JobStatus.FAILED:
            return JobCard(
                state="failed",
                percent=None,
                status_line="Failed",
                side_line=_kept_line(kept_seconds),
                error_message=job.error_message,
                error_detail=job.error_detail,
                can_retry=True,
                can_dismiss=True,
                **common,
            )
        case JobStatus.CANCELLED:
            return JobCard(
                state="cancelled",
                percent=None,
                status_line="Cancelled",
                side_line="",
                kept_line=_kept_line(kept_seconds) or "nothing was made yet",
                error_message=job.error_message,
                can_retry=True,
                can_dismiss=True,
                **common,
            )
        case _:
            return JobCard(state="finished", percent=100.0, status_line="Finished", side_line="", **common)


def _kept_line(seconds: float | None) -> str:
    return f"kept {spoken_seconds(seconds)}" if seconds else ""


def _queued_card(job: Job, queue: Queue, common: dict[str, Any]) -> JobCard:
    position = queue.position(job)
    wait = queue.wait_seconds(job)
    line = "Next in line" if position == 1 else f"{ordinal(position)} in line"
    if wait is not None and wait >= 1:
        line += f" · about {rough_seconds(wait)}"
    return JobCard(
        state="queued",
        percent=None,
        status_line=line,
        side_line="trying again" if job.attempts else "",
        can_cancel=True,
        queue_position=position,
        remaining_seconds=wait,
        **common,
    )


def _running_card(job: Job, queue: Queue, common: dict[str, Any]) -> JobCard:
    elapsed = job.elapsed_seconds()
    side = [f"{spoken_seconds(round(elapsed))} elapsed"]
    per_take = job.frames_total // job.variations if job.frames_total else 0
    percent = 100 * job.frames_done / job.frames_total if job.frames_total else None
    remaining: float | None = None
    if job.cancel_requested_at is not None:
        state, line = "cancelling", "Cancelling, keeping what was made"
    elif job.stage == "loading":
        state, line = "starting", f"Loading {job.model.display_name}"
        if job.stage_fraction is not None:
            line += f" · {round(job.stage_fraction * 100)}%"
        percent = None if job.stage_fraction is None else 100 * job.stage_fraction
    elif job.stage == "generating" and per_take:
        state = "running"
        made = job.duration_seconds * job.frames_done / per_take
        line = f"{made:.1f} of {plain_number(job.duration_seconds * job.variations)}{THIN_SPACE}s"
        remaining = queue.remaining_seconds(job)
        if remaining is not None:
            line += f" · {rough_seconds(remaining)} left"
    else:
        state = "running" if job.frames_done else "starting"
        line = _STAGE_LINES.get(job.stage, "Starting")
        percent = percent if job.frames_done else None
    return JobCard(
        state=state,
        percent=percent,
        status_line=line,
        side_line=" · ".join(side),
        can_cancel=state != "cancelling",
        elapsed_seconds=elapsed,
        remaining_seconds=remaining,
        live=tuple(
            LiveTake(
                variation,
                reverse("api:live", args=[job.pk, variation]),
                stream.sample_rate,
                live.heard_seconds(job),
            )
            for variation, stream in live.audible(job).items()
        ),
        **common,
    )

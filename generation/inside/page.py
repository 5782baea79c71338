"""What the activity page shows: the figures of the metrics, in words. Prompts stay with those who wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.utils import timezone

from gated_configs.wording import THIN_SPACE, plain_number
from generation.engine_state import device_word
from generation.inside import disk, figures
from generation.models import CleanUp, EngineHost, Job
from generation.open_sockets import open_sockets
from generation.retention.run import RULES
from generation.services import storage
from registry.models import ModelConfig

#: Lines of each list that grows.
SHOWN: Final = 8
DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class HostRow:
    """One engine host."""

    host: EngineHost
    state: str
    device: str
    runners: list[dict[str, Any]]
    jobs: list[str]
    heartbeat_seconds: float


def inside_context() -> dict[str, Any]:
    """Everything the page shows."""
    names = dict(ModelConfig.objects.values_list("pk", "display_name"))
    since = timezone.now() - DAY
    return {
        "queue": figures.queue(),
        "outcomes": figures.outcomes_since(since),
        "speeds": [
            (f"{names[each.model_id]} on {each.machine}", _steps(each.steps_per_second))
            for each in figures.speeds()
        ],
        "hosts": _host_rows(names),
        "switches": figures.recent_switches(SHOWN),
        "failures": figures.recent_failures(SHOWN),
        "disk": _disk_or_none(),
        "storage": storage.total_storage(),
        "users": storage.largest_users(SHOWN),
        "rules": _rule_rows(),
        "open_sockets": open_sockets(),
        "read_at": timezone.now(),
    }


def _host_rows(names: dict[str, str]) -> list[HostRow]:
    hosts = figures.engine_hosts()
    held = figures.jobs_in_hand(hosts)
    return [_row(host, held[host.name], names) for host in hosts]


def _row(host: EngineHost, jobs: list[Job], names: dict[str, str]) -> HostRow:
    runners = [
        {**runner, "name": names.get(runner["model_id"], runner["model_id"])} for runner in host.runners
    ]
    return HostRow(
        host=host,
        state=_state_of(host),
        device=" · ".join(
            # A processor has no other name.
            dict.fromkeys(filter(None, (device_word(host.device), host.device_name, host.dtype)))
        ),
        runners=runners,
        jobs=[_job_line(job) for job in jobs],
        heartbeat_seconds=max(0.0, host.silence.total_seconds()),
    )


def _state_of(host: EngineHost) -> str:
    if not host.is_alive:
        return "silent"
    return "waiting for storage" if host.waits_for_storage else host.state


def _job_line(job: Job) -> str:
    """ "job 12, MusicGen Small, 42%, 51 steps/s"."""
    parts = [f"job {job.pk}", job.model.display_name]
    if job.frames_total:
        parts.append(f"{round(100 * job.frames_done / job.frames_total)}%")
    if job.seconds_per_frame:
        parts.append(_steps(1 / job.seconds_per_frame))
    return ", ".join(parts)


def _steps(per_second: float) -> str:
    return f"{plain_number(round(per_second, 1))}{THIN_SPACE}steps/s"


@dataclass(frozen=True)
class RuleRow:
    """One rule of the clean-up and its last run; None before the first."""

    meaning: str
    last: CleanUp | None


def _rule_rows() -> list[RuleRow]:
    ran = {row.name: row for row in CleanUp.objects.filter(ran_at__isnull=False)}
    return [RuleRow(rule.meaning, ran.get(rule.name)) for rule in RULES]


def _disk_or_none() -> disk.DiskUse | None:
    try:
        return disk.disk_use()
    except OSError:
        return None

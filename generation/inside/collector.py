"""The same figures for Prometheus, read at each scrape. Only the sockets are this process's own.

Labels are few and steady: machines and models, never jobs, people or processes.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from generation.inside import disk, figures
from generation.models import CleanUp, EngineHost
from generation.open_sockets import open_sockets
from generation.services import storage
from generation.version import VERSION

logger = logging.getLogger(__name__)


class StudioCollector(Collector):
    """Asks rows and disk each time it is collected; registering it asks nothing."""

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are not worth a query at start."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every figure. Raises DatabaseError where the rows cannot be read."""
        yield InfoMetricFamily("musicgen_build", "Release of the studio.", value={"version": VERSION})
        yield from _queue()
        yield from _jobs()
        yield from _speeds()
        yield from _switches()
        yield from _hosts(figures.engine_hosts())
        yield from _disk()
        yield from _takes()
        yield from _clean_up()
        yield from _webhooks()
        yield GaugeMetricFamily(
            "musicgen_open_sockets", "Pages connected to this web process.", value=open_sockets()
        )


def studio_registry() -> CollectorRegistry:
    """A registry of the studio's figures and of this process's memory, time and files."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StudioCollector())
    ProcessCollector(registry=registry)
    return registry


def _queue() -> Iterator[Metric]:
    queue = figures.queue()
    yield GaugeMetricFamily("musicgen_jobs_queued", "Jobs that wait.", value=queue.queued)
    yield GaugeMetricFamily("musicgen_jobs_running", "Jobs in an engine's hands.", value=queue.running)
    yield GaugeMetricFamily(
        "musicgen_queue_oldest_seconds",
        "How long the oldest waiting job has waited; 0 when none waits.",
        value=queue.oldest_seconds,
    )


def _jobs() -> Iterator[Metric]:
    labels = ["model", "outcome"]
    ended = CounterMetricFamily("musicgen_jobs_ended", "Jobs that ended, by outcome.", labels=labels)
    frames = CounterMetricFamily("musicgen_frames", "Codec frames that ended jobs made.", labels=labels)
    audio = CounterMetricFamily("musicgen_audio_seconds", "Audio that ended jobs made.", labels=labels)
    for row in figures.ended_jobs():
        place = [row.model_id, row.outcome]
        ended.add_metric(place, row.jobs)
        frames.add_metric(place, row.frames)
        audio.add_metric(place, row.audio_seconds)
    yield from (ended, frames, audio)


def _speeds() -> Iterator[Metric]:
    speed = GaugeMetricFamily(
        "musicgen_steps_per_second",
        "Decoder steps a second over the newest takes of the last hour, whole jobs counted.",
        labels=["machine", "model"],
    )
    for each in figures.speeds():
        speed.add_metric([each.machine, each.model_id], each.steps_per_second)
    yield speed


def _switches() -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "musicgen_switches", "Switches of the active model, by outcome.", labels=["outcome"]
    )
    for outcome, count in figures.ended_switches().items():
        ended.add_metric([outcome], count)
    yield ended
    times = figures.switch_times()
    buckets = [(str(bound), float(count)) for bound, count in times.at_most.items()]
    yield HistogramMetricFamily(
        "musicgen_switch_duration_seconds",
        "From the request to a proven model, of switches that succeeded.",
        buckets=[*buckets, ("+Inf", float(times.count))],
        sum_value=times.seconds,
    )


def _hosts(hosts: list[EngineHost]) -> Iterator[Metric]:
    alive = [host for host in hosts if host.is_alive]
    by_machine: dict[str, int] = defaultdict(int)
    memory: dict[tuple[str, str, str], int] = defaultdict(int)
    for host in alive:
        by_machine[host.hostname] += 1
        for runner in host.runners:
            memory[host.hostname, runner["model_id"], runner["device"]] += runner["memory_bytes"]
    yield GaugeMetricFamily("musicgen_hosts_alive", "Engine hosts heard of lately.", value=len(alive))
    engines = GaugeMetricFamily("musicgen_machine_hosts", "Engine hosts of a machine.", labels=["machine"])
    for machine, count in by_machine.items():
        engines.add_metric([machine], count)
    held = GaugeMetricFamily(
        "musicgen_runner_memory_bytes",
        "Memory that loaded models hold on their device.",
        labels=["machine", "model", "device"],
    )
    for place, size in memory.items():
        held.add_metric(list(place), size)
    yield from (engines, held)


def _disk() -> Iterator[Metric]:
    try:
        use = disk.disk_use()
    except OSError as problem:  # the rest is worth telling without it
        logger.warning("the studio's folder cannot be looked at: %s", problem)
        return
    parts = GaugeMetricFamily("musicgen_disk_used_bytes", "Bytes of the home, by part.", labels=["part"])
    for part, size in use.parts.items():
        parts.add_metric([part], size)
    yield parts
    kept = GaugeMetricFamily("musicgen_bucket_used_bytes", "Bytes in the bucket, by kind.", labels=["kind"])
    for kind, size in use.in_bucket.items():
        kept.add_metric([kind], size)
    yield kept
    yield GaugeMetricFamily("musicgen_disk_free_bytes", "Free on the disk of the home.", value=use.free_bytes)
    yield GaugeMetricFamily("musicgen_disk_total_bytes", "Size of that disk.", value=use.total_bytes)


def _takes() -> Iterator[Metric]:
    use = storage.total_storage()
    yield GaugeMetricFamily("musicgen_takes", "Takes that are kept.", value=use.takes)
    size = GaugeMetricFamily(
        "musicgen_takes_bytes", "Bytes of takes and clips, by what they are.", labels=["kind"]
    )
    size.add_metric(["favourite"], use.favourite_bytes)
    size.add_metric(["other"], use.kept_bytes - use.favourite_bytes)
    size.add_metric(["deleted"], use.deleted_bytes)
    size.add_metric(["clips"], use.clip_bytes)
    yield size
    yield GaugeMetricFamily(
        "musicgen_takes_limit_bytes",
        "Most that takes and clips may use; 0 for no limit.",
        value=use.max_bytes or 0,
    )


def _clean_up() -> Iterator[Metric]:
    removed = CounterMetricFamily("musicgen_cleaned_up", "What the rules removed.", labels=["rule"])
    freed = CounterMetricFamily("musicgen_cleaned_up_bytes", "Bytes that this freed.", labels=["rule"])
    left = GaugeMetricFamily("musicgen_clean_up_left", "What a rule found and left.", labels=["rule"])
    ran = GaugeMetricFamily("musicgen_clean_up_ran_timestamp_seconds", "When it ran last.", labels=["rule"])
    for rule in CleanUp.objects.filter(ran_at__isnull=False):
        removed.add_metric([rule.name], rule.removed_total)
        freed.add_metric([rule.name], rule.freed_bytes_total)
        left.add_metric([rule.name], rule.found)
        ran.add_metric([rule.name], rule.ran_at.timestamp() if rule.ran_at else 0)
    yield from (removed, freed, left, ran)


def _webhooks() -> Iterator[Metric]:
    waiting = figures.waiting_deliveries()
    yield GaugeMetricFamily(
        "musicgen_webhook_deliveries_waiting", "Messages to webhooks that wait.", value=waiting.count
    )
    yield GaugeMetricFamily(
        "musicgen_webhook_overdue_seconds",
        "How long the first of them could have been sent; more than seconds means that nobody sends.",
        value=waiting.overdue_seconds,
    )
    yield GaugeMetricFamily(
        "musicgen_webhooks_off", "Webhooks turned off after failing for days.", value=waiting.disabled
    )

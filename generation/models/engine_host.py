"""One process that carries out jobs, and what it last said of itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.db import models
from django.utils import timezone

#: A host that has said nothing for this long counts as gone.
HEARTBEAT_BOUND: Final = timedelta(seconds=10)


class EngineHost(models.Model):
    """A heartbeat. Pages read the engine's state here; a command learns here whether a server is running."""

    name = models.CharField(primary_key=True, max_length=80)
    hostname = models.CharField(max_length=80)
    pid = models.PositiveIntegerField()
    serves_all_jobs = models.BooleanField(default=True)
    # "starting" | "ready" | "loading" | "working": of the engine, not of one job.
    state = models.CharField(max_length=10, default="starting")
    model_id = models.CharField(max_length=80, blank=True)
    device = models.CharField(max_length=20, blank=True)
    device_name = models.CharField(max_length=120, blank=True)
    dtype = models.CharField(max_length=20, blank=True)
    stage = models.CharField(max_length=30, blank=True)
    stage_fraction = models.FloatField(null=True, blank=True)
    # One entry a loaded model: model_id, pid, device, dtype, memory_bytes, is_busy, idle_seconds.
    runners = models.JSONField(default=list)
    free_memory_requested = models.BooleanField(default=False)
    last_error = models.TextField(blank=True)
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-heartbeat_at"]

    def __str__(self) -> str:
        return self.name

    @property
    def runner_memory_bytes(self) -> int | None:
        """Memory that all of its loaded models hold; None when none is loaded."""
        return sum(runner["memory_bytes"] for runner in self.runners) or None

    @property
    def is_alive(self) -> bool:
        """Whether it was heard of lately."""
        return timezone.now() - self.heartbeat_at < HEARTBEAT_BOUND

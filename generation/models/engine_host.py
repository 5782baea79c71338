"""One process that carries out jobs, and what it last said of itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.db import models
from django.db.models import DurationField, ExpressionWrapper, F
from django.db.models.functions import Now
from django.utils import timezone

from registry.media import says_away

#: A host that has said nothing for this long counts as gone.
HEARTBEAT_BOUND: Final = timedelta(seconds=10)


class EngineHostQuerySet(models.QuerySet["EngineHost"]):
    """Hosts by how long ago they were heard of, all by the database's clock: those of machines differ."""

    def alive(self) -> EngineHostQuerySet:
        """Hosts heard of lately."""
        return self.filter(heartbeat_at__gte=Now() - HEARTBEAT_BOUND)

    def with_silence(self) -> EngineHostQuerySet:
        """Knowing their `silence`, the time since each was heard of."""
        silence = ExpressionWrapper(Now() - F("heartbeat_at"), output_field=DurationField())
        # Not as a keyword: the types' plugin would take it for a second definition.
        return self.annotate(silent_for=silence)


class EngineHost(models.Model):
    """A heartbeat. Pages read the engine's state here; a command learns here whether a server is running."""

    name = models.CharField(primary_key=True, max_length=80)
    hostname = models.CharField(max_length=80)
    pid = models.PositiveIntegerField()
    # Tells this process from any other that ever has its number, on any machine; empty where that cannot be told.
    # The default in the database too: a host of the release before this one announces itself while it is migrated.
    process = models.CharField(max_length=120, blank=True, editable=False, default="", db_default="")
    serves_all_jobs = models.BooleanField(default=True)
    # "starting" | "ready" | "loading" | "working" | "stopping": of the engine, not of one job.
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

    objects = EngineHostQuerySet.as_manager()

    class Meta:
        ordering = ["-heartbeat_at"]

    def __str__(self) -> str:
        return self.name

    @property
    def runner_memory_bytes(self) -> int | None:
        """Memory that all of its loaded models hold; None when none is loaded."""
        return sum(runner["memory_bytes"] for runner in self.runners) or None

    @property
    def waits_for_storage(self) -> bool:
        """Whether it takes no jobs since what it would make cannot be kept; `last_error` says why."""
        return self.state in ("ready", "none", "starting") and says_away(self.last_error)

    @property
    def no_kernels(self) -> str:
        """Why its loaded models are slower than they could be; empty where they are not."""
        return next((reason for runner in self.runners if (reason := runner.get("no_kernels"))), "")

    @property
    def silence(self) -> timedelta:
        """Time since it was heard of. Of rows that were asked for `with_silence`."""
        silence: timedelta = self.silent_for  # type: ignore[attr-defined]
        return silence

    @property
    def is_alive(self) -> bool:
        """Whether it was heard of lately. Of rows that were asked for `with_silence`."""
        return self.silence < HEARTBEAT_BOUND

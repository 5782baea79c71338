"""Engine hosts as others see them: who lives, and what somebody asks of them."""

from __future__ import annotations

import os
import platform

import psutil
from django.utils import timezone

from generation.models import EngineHost
from generation.models.engine_host import HEARTBEAT_BOUND
from registry.events import SwitchRequested, send_on_commit


def running_host() -> EngineHost | None:
    """The engine that serves everybody's jobs and was heard of lately; None when no server or worker runs."""
    lately = EngineHost.objects.filter(
        serves_all_jobs=True, heartbeat_at__gte=timezone.now() - HEARTBEAT_BOUND
    ).order_by("-heartbeat_at")
    # Of this machine's own processes we need not wait for the silence: a killed one is gone at once.
    return next((row for row in lately if row.hostname != platform.node() or process_lives(row)), None)


def is_alive(name: str) -> bool:
    """Whether the host of that name lives, as far as can be told from here."""
    row = EngineHost.objects.filter(pk=name).first()
    return row is not None and (process_lives(row) if row.hostname == platform.node() else row.is_alive)


def process_lives(row: EngineHost) -> bool:
    """Whether the process of a row of this machine lives. A later one may have been given the same number."""
    if row.pid == os.getpid():
        return True
    try:
        process = psutil.Process(row.pid)
        return bool(process.create_time() <= row.started_at.timestamp() + 1)
    except psutil.Error:
        return False


def request_free_memory() -> int:
    """Ask every living engine to end its idle runners. Returns how many engines there are."""
    asked = EngineHost.objects.filter(heartbeat_at__gte=timezone.now() - HEARTBEAT_BOUND).update(
        free_memory_requested=True
    )
    send_on_commit(SwitchRequested())
    return asked


def take_free_memory_request(name: str) -> bool:
    """Whether somebody asked this host for its memory; asking counts once."""
    return bool(
        EngineHost.objects.filter(pk=name, free_memory_requested=True).update(free_memory_requested=False)
    )

"""Engine hosts as others see them: who lives, and what somebody asks of them."""

from __future__ import annotations

import os
import platform

import psutil

from generation.models import EngineHost
from generation.process_identity import identity_of, is_of_here
from registry.events import SwitchRequested, send_on_commit


def running_host() -> EngineHost | None:
    """The engine that serves everybody's jobs and was heard of lately; None when no server or worker runs.

    One that is about to end counts only where there is no other.
    """
    lately = EngineHost.objects.alive().filter(serves_all_jobs=True).order_by("-heartbeat_at")
    # Of this machine's own processes we need not wait for the silence: a killed one is gone at once.
    living = [row for row in lately if process_lives(row) is not False]
    return min(living, key=lambda row: row.state == "stopping", default=None)


def is_alive(name: str) -> bool:
    """Whether the host of that name lives, as far as can be told from here."""
    row = EngineHost.objects.filter(pk=name).first()
    if row is None:
        return False
    lives = process_lives(row)
    return EngineHost.objects.alive().filter(pk=name).exists() if lives is None else lives


def process_lives(row: EngineHost) -> bool | None:
    """Whether the process of a row lives; None for one of another machine or container, which cannot be told here."""
    if row.process:
        return identity_of(row.pid) == row.process if is_of_here(row.process) else None
    if row.hostname != platform.node():
        return None
    if row.pid == os.getpid():
        return True
    try:
        # A later process may have been given the same number.
        return bool(psutil.Process(row.pid).create_time() <= row.started_at.timestamp() + 1)
    except psutil.Error:
        return False


def request_free_memory() -> int:
    """Ask every living engine to end its idle runners. Returns how many engines there are."""
    asked = EngineHost.objects.alive().update(free_memory_requested=True)
    send_on_commit(SwitchRequested())
    return asked


def take_free_memory_request(name: str) -> bool:
    """Whether somebody asked this host for its memory; asking counts once."""
    return bool(
        EngineHost.objects.filter(pk=name, free_memory_requested=True).update(free_memory_requested=False)
    )

"""This engine host's row: announced, renewed with every beat, and gone at the end. What others know of it.

Every function is synchronous and runs in a thread; a beat that comes after the end changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Exists
from django.db.models.functions import Now

from generation.models import EngineHost
from generation.process_identity import identity_of
from registry.media.files import ON_THE_WAY
from registry.models import ModelConfig


@dataclass(frozen=True)
class Heard:
    """What a beat heard: the active model, and whether somebody wants this host's memory back."""

    active_id: str
    memory_wanted: bool


class HostRow:
    """The row of one host, and its folder for files of running jobs."""

    def __init__(self, *, serves_all: bool) -> None:
        self.hostname = platform.node()
        self.name = f"{self.hostname[:50]}-{os.getpid()}-{secrets.token_hex(3)}"
        self.scratch = Path(settings.STUDIO.home) / "scratch" / self.name
        self._serves_all = serves_all
        self._lock = threading.Lock()  # of the row, and of:
        self._has_left = False

    def announce(self) -> None:
        """Write the row. Raises DatabaseError."""
        EngineHost.objects.create(
            name=self.name,
            hostname=self.hostname,
            pid=os.getpid(),
            process=identity_of(os.getpid()),
            serves_all_jobs=self._serves_all,
            heartbeat_at=Now(),
        )

    def beat(self, facts_beside: Callable[[str], dict[str, Any]]) -> Heard:
        """Renew the row with what `facts_beside(active model)` says. Raises DatabaseError."""
        asked = EngineHost.objects.filter(pk=self.name, free_memory_requested=True)
        active = ModelConfig.objects.filter(is_active=True).annotate(asked=Exists(asked))
        active_id, memory_wanted = active.values_list("pk", "asked").first() or ("", False)
        facts = facts_beside(active_id)
        # A beat may still be under way in its thread when the loop that sent it is over: it must not come after the end.
        with self._lock:
            row = EngineHost.objects.filter(pk=self.name)
            if not self._has_left and not row.update(**facts, heartbeat_at=Now()):
                # Another host took us for dead, after a long sleep of this machine for example.
                self.announce()
        return Heard(active_id, memory_wanted)

    def sign_off(self) -> None:
        """Take the row away, and the folder."""
        with self._lock:
            self._has_left = True
            EngineHost.objects.filter(pk=self.name).delete()
        with contextlib.suppress(OSError):
            for leftover in self.scratch.glob("*"):
                leftover.unlink()
            self.scratch.rmdir()

    def sweep_scratch(self) -> None:
        """Files that a killed host left half-made belong to nobody."""
        # The folders first: a host that announces itself meanwhile has made none of them. Files on their way to and
        # from a bucket belong to no host; what is left of those the clean-up removes by age.
        folders = [
            folder
            for folder in self.scratch.parent.glob("*")
            if folder.is_dir() and not folder.name.startswith(ON_THE_WAY)
        ]
        known = {*EngineHost.objects.values_list("name", flat=True), self.name}
        for folder in folders:
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

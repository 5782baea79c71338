"""A process that is started again whenever it ends, as a service manager does. Knows nothing of the studio."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import ROOT

#: A service manager waits this long before it starts a process again, in seconds.
RESTART_AFTER = 0.5


@dataclass
class Service:
    """One supervised process. Nothing but `stop` ends it for good."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    log: Path
    options: dict[str, Any] = field(default_factory=dict)
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _ending: threading.Event = field(default_factory=threading.Event)
    _supervisor: threading.Thread | None = None

    def start(self) -> None:
        """Start it, and again each time it ends."""
        self._begin()
        self._supervisor = threading.Thread(target=self._supervise, name=self.name, daemon=True)
        self._supervisor.start()

    def _begin(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.arguments,
                **{"cwd": ROOT, **self.options},
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _supervise(self) -> None:
        while not self._ending.is_set():
            assert self._process is not None
            self._process.wait()
            if not self._ending.wait(RESTART_AFTER):
                self._begin()

    @property
    def pid(self) -> int:
        """Its process now, or the last one."""
        assert self._process is not None
        return self._process.pid

    def children(self) -> list[psutil.Process]:
        """The processes that it started and that live."""
        try:
            return list(psutil.Process(self.pid).children(recursive=True))
        except psutil.Error:
            return []

    def send(self, number: int) -> bool:
        """Send it a signal; False when it is not there just now."""
        assert self._process is not None
        if self._process.poll() is not None:
            return False
        self._process.send_signal(number)
        return True

    def stop(self, *, number: int = signal.SIGTERM, seconds: float = 20) -> None:
        """End it for good."""
        self._ending.set()
        if self._supervisor is not None:
            deadline = time.monotonic() + seconds
            while self._supervisor.is_alive() and time.monotonic() < deadline:
                self.send(number)
                self._supervisor.join(timeout=1)
                number = number if time.monotonic() < deadline - seconds / 2 else signal.SIGKILL
            self._supervisor.join(timeout=5)


def runners_of(service: Service) -> list[psutil.Process]:
    """Runner processes of an engine host."""
    found = []
    for child in service.children():
        try:
            if "generation.engine" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.Error:
            continue
    return found


def until(condition: Callable[[], bool], *, seconds: float, what: str) -> float:
    """Wait for it and answer how long that took. Raises TimeoutError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.1)
    return time.monotonic() - began


def as_postgres() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; Debian's package brings a user for it."""
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}

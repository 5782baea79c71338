"""What may befall each process at any moment: killed by the kernel, or put to sleep until its lease has run out."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from tests.chaos.services import runners_of
from tests.chaos.world import World

#: How often each happens among so many kills.
WEIGHTS = {"runner": 5, "engine host": 5, "web": 3, "redis": 2, "postgres": 2, "connection": 1, "sleep": 2}


@dataclass
class Killer:
    """Strikes at random, but the same for the same seed. `sleep_seconds` is longer than a lease."""

    world: World
    seed: int
    sleep_seconds: float
    say: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)
    _sleepers: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def plan(self, kills: int) -> list[str]:
        """What is struck, in order. Everything at least once where there are kills enough."""
        kinds = list(WEIGHTS)[:kills]
        rest = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=kills - len(kinds))
        plan = [*kinds, *rest]
        self._random.shuffle(plan)
        return plan

    def strike(self, kind: str, *, patience: float = 20) -> bool:
        """Strike one process of that kind; False when none is there within `patience` seconds."""
        deadline = time.monotonic() + patience
        while not self._once(kind):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        self.done[kind] += 1
        return True

    def wait_for_sleepers(self) -> None:
        """Until everybody is awake again."""
        for thread in self._sleepers:
            thread.join()

    def _once(self, kind: str) -> bool:
        world = self.world
        match kind:
            case "runner":
                runners = [runner for host in world.hosts for runner in runners_of(host)]
                return bool(runners) and _kill(self._random.choice(runners).pid)
            case "engine host":
                return self._random.choice(world.hosts).send(signal.SIGKILL)
            case "web":
                return self._random.choice(world.webs).send(signal.SIGKILL)
            case "redis":
                return world.redis.send(signal.SIGKILL)
            case "postgres":
                return world.postgres.send(signal.SIGKILL)
            case "connection":
                # PostgreSQL then ends every connection and recovers.
                backends = [child for child in world.postgres.children() if _is_backend(child)]
                return bool(backends) and _kill(self._random.choice(backends).pid)
            case "sleep":
                return self._put_to_sleep()
        raise ValueError(kind)

    def _put_to_sleep(self) -> bool:
        host = self._random.choice(self.world.hosts)
        pid = host.pid
        if not host.send(signal.SIGSTOP):
            return False

        def wake() -> None:
            time.sleep(self.sleep_seconds)
            _signal(pid, signal.SIGCONT)

        thread = threading.Thread(target=wake, daemon=True)
        thread.start()
        self._sleepers.append(thread)
        return True


def _kill(pid: int) -> bool:
    return _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> bool:
    try:
        psutil.Process(pid).send_signal(number)
    except psutil.Error:
        return False
    return True


def _is_backend(process: psutil.Process) -> bool:
    try:
        return "postgres postgres 127.0.0.1" in " ".join(process.cmdline())
    except psutil.Error:
        return False

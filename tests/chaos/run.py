"""One run of chaos: jobs come in while processes fall, then everything settles by itself, and is looked at."""

import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos import checks
from tests.chaos.killing import Killer
from tests.chaos.services import until
from tests.chaos.world import MODELS, World, running_world

#: A lease short enough that sleeping past it does not take the day.
LEASE_SECONDS = 6.0
#: How long everything may take to settle after the last kill, by itself.
SETTLE_SECONDS = 900.0


@dataclass
class Submitter:
    """Sends jobs in, through either web process, as people do: again when no answer came and no job is there."""

    world: World
    jobs: int
    seed: int
    every_seconds: float
    models: tuple[str, ...]
    sent: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until all are in."""
        choose = random.Random(self.seed)
        for number in range(self.jobs):
            wanted = {
                "prompt": f"slow piano number {number}",
                "duration_seconds": choose.choice([0.5, 2.0, 6.0, 12.0]),
                "variations": choose.choice([1, 1, 1, 2]),
                "model": choose.choice(self.models),
                "seed": number,
            }
            while not self._ended.is_set() and not self._submit(choose, wanted):
                time.sleep(0.3)
            if number % 25 == 10:
                with contextlib.suppress(OSError):
                    self.world.ask(
                        choose.randrange(len(self.world.webs)),
                        "models/switch",
                        {"model_id": choose.choice(self.models)},
                    )
            time.sleep(self.every_seconds)

    def _submit(self, choose: random.Random, wanted: dict[str, Any]) -> bool:
        try:
            self.world.ask(choose.randrange(len(self.world.webs)), "generations", wanted)
        except (OSError, ValueError):
            # It may be in all the same: the answer was lost.
            with contextlib.suppress(psycopg.OperationalError):
                found = self.world.rows("SELECT id FROM generation_job WHERE prompt = %s", wanted["prompt"])
                if found:
                    self.sent.add(wanted["prompt"])
                return bool(found)
            return False
        self.sent.add(wanted["prompt"])
        return True

    def stop(self) -> None:
        """Give up."""
        self._ended.set()


def chaos(
    *,
    kills: int,
    jobs: int,
    seed: int,
    webs: int,
    pause: tuple[float, float],
    say: Callable[[str], None],
    models: tuple[str, ...] = MODELS,
    kernels: Path | None = None,
) -> checks.Findings:
    """Run it and answer what was found.

    `pause` is the least and the most between two kills, in seconds, `kernels` a folder of compiled ones.
    """
    settings = {"MUSICGEN_LEASE_SECONDS": f"{LEASE_SECONDS:g}", "MUSICGEN_DRAIN_SECONDS": "2"}
    with running_world(webs=webs, settings=settings, kernels=kernels, say=say) as world:
        began = time.monotonic()
        killer = Killer(world, seed, LEASE_SECONDS * 2, say)
        every_seconds = kills * sum(pause) / 2 / jobs * 0.9
        sender = Submitter(world, jobs, seed, every_seconds, models)
        sending = threading.Thread(target=sender.run, daemon=True)
        sending.start()
        choose = random.Random(seed + 1)
        for number, kind in enumerate(killer.plan(kills), 1):
            time.sleep(choose.uniform(*pause))
            if not killer.strike(kind):
                say(f"{kind}: none was there, so it is the turn of a web process")
                killer.strike("web", patience=120)
            say(f"{number}/{kills} {kind}, {len(sender.sent)} jobs in")
        last_kill = time.monotonic()
        killer.wait_for_sleepers()
        try:
            until(lambda: not sending.is_alive(), seconds=SETTLE_SECONDS, what="the last submission")
            until(lambda: _settled(world), seconds=SETTLE_SECONDS, what="the end of every job")
        except TimeoutError as problem:
            say(str(problem))
        sender.stop()
        settled = time.monotonic() - last_kill
        findings = _look_until_good(world, sender.sent)
        facts = {
            "kills": sum(killer.done.values()),
            "by kind": dict(killer.done),
            **findings.counts,
            "seconds": round(last_kill - began),
            "seconds from the last kill to the last end": round(settled, 1),
        }
        return checks.Findings(facts, findings.faults)


def _settled(world: World) -> bool:
    try:
        return checks.unfinished(world) == 0
    except psycopg.OperationalError:
        return False


def _look_until_good(world: World, sent: set[str]) -> checks.Findings:
    """Hosts come back and what dead ones left is swept within seconds, by themselves."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(psycopg.OperationalError):
            findings = checks.look(world, sent)
            if not findings.faults or time.monotonic() > deadline:
                return findings
        time.sleep(1)

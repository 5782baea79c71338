"""A silent runner is judged by what its process does: one that computes is left alone, one that stands still is not."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from generation import runners
from generation.engine import protocol
from generation.runner_silence import BUSY_FACTOR, Silence
from generation.runners import Runner, RunnerHung


@contextmanager
def process(program: str) -> Iterator[int]:
    """A process that runs `program`, by its number."""
    running = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield running.pid
    finally:
        running.kill()
        running.wait()


def looks_until_over(silence: Silence, *, at_most: float) -> str:
    """What it says in the end; "" when it said nothing within so many seconds of silence."""
    while silence.silent_seconds < at_most:
        time.sleep(silence.step)
        if said := silence.look():
            return said
    return ""


def test_a_process_that_does_nothing_is_over_after_its_bound() -> None:
    with process("import time; time.sleep(60)") as pid:
        time.sleep(0.3)  # its start is work
        assert looks_until_over(Silence(pid, 0.8), at_most=4) == "said nothing and did nothing for 1 s"


def test_a_process_that_computes_is_left_alone_and_not_for_ever() -> None:
    with process("while True: pass") as pid:
        silence = Silence(pid, 0.1)
        said = looks_until_over(silence, at_most=0.1 * BUSY_FACTOR + 1)
    assert said == "said nothing for 2 s, though it was busy"


def test_what_we_slept_through_does_not_count() -> None:
    """A studio that was stopped itself comes back to runners that had nobody to speak to."""
    with process("import time; time.sleep(60)") as pid:
        silence = Silence(pid, 1.0)
        time.sleep(1.5)
        assert silence.look() == ""
        assert silence.silent_seconds == silence.step


def test_a_process_that_is_gone_does_nothing() -> None:
    with process("pass") as pid:
        pass
    assert looks_until_over(Silence(pid, 0.1), at_most=1).startswith("said nothing and did nothing")


@contextmanager
def standing_runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Runner, asyncio.Event]]:
    """A runner whose process reads nothing and says nothing, and when it has begun."""
    begin = asyncio.create_subprocess_exec
    begun = asyncio.Event()

    async def silent(*arguments: Any, **options: Any) -> Any:
        process = await begin("sleep", "60", **options)
        # Once whoever asked for it has it.
        asyncio.get_running_loop().call_soon(begun.set)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", silent)
    yield Runner(), begun


def test_a_start_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"runner_still_seconds": 1})

    async def scenario(runner: Runner) -> int:
        with pytest.raises(RunnerHung, match="did nothing for 1 s, so it was ended"):
            await runner.start()
        assert not runner.is_alive
        assert runner._process is not None
        return runner._process.returncode or 0

    with standing_runner(monkeypatch) as (runner, _):
        assert asyncio.run(scenario(runner)) == -signal.SIGKILL


def test_a_command_that_is_not_read_does_not_hold_us_up(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """A pipe holds some kilobytes; the config of an adapter may have more."""
    settings.STUDIO = settings.STUDIO.model_copy(update={"runner_still_seconds": 1})
    monkeypatch.setattr(runners, "SEND_BOUND", 0.2)

    async def scenario(runner: Runner, begun: asyncio.Event) -> None:
        task = asyncio.create_task(runner.start())
        await begun.wait()
        use = protocol.AdapterUse(path="/x", sha256="0", config="x" * 1_000_000)
        began = time.monotonic()
        await runner.send(protocol.Prove(request="1", adapter=use))
        assert time.monotonic() - began < 1
        with pytest.raises(RunnerHung):
            await task

    with standing_runner(monkeypatch) as (runner, begun):
        asyncio.run(scenario(runner, begun))


def test_one_that_cannot_be_ended_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a driver that holds it: the system kills it when it can, and we go on."""
    monkeypatch.setattr(runners, "END_BOUND", 0.1)
    monkeypatch.setattr(runners, "KILL_BOUND", 0.1)

    async def scenario(runner: Runner, begun: asyncio.Event) -> None:
        task = asyncio.create_task(runner.start())
        await begun.wait()
        pid, held = runner.pid, runner._process
        assert held is not None
        assert pid is not None
        runner.versions = {"python": "3"}
        with monkeypatch.context() as system:
            system.setattr(held, "kill", lambda: None)
            await runner.end()
        assert f"the system does not end process {pid}" in caplog.text
        os.kill(pid, signal.SIGKILL)
        await held.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with standing_runner(monkeypatch) as (runner, begun):
        asyncio.run(scenario(runner, begun))

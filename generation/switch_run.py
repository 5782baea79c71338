"""One switch in the engine's hands: fetch, verify, make room, load, prove, and only then change the active model.

Whatever goes wrong, the previous model is active and can generate when this ends, and the row says why.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from generation import installation
from generation.database import going_on, in_database
from generation.engine import protocol
from generation.runner_pool import RunnerPool
from generation.runners import LoadRefused, Runner, RunnerDied, RunnerHung
from registry.downloads import DownloadCancelled, DownloadFailed
from registry.events import SwitchChanged, send
from registry.models import ModelSwitch, SwitchStage
from registry.services import ModelNotFound, ModelNotPlayable, switches

logger = logging.getLogger(__name__)

#: Progress is stored and told this often, in seconds.
PROGRESS_EVERY: Final = 0.25
#: What a new runner is asked for before it is trusted.
PROOF: Final[dict[str, Any]] = {"prompt": "piano", "duration_seconds": 0.1, "seed": 0, "top_k": 1}


class SwitchLost(Exception):
    """The switch is no longer ours."""


class NotProven(RuntimeError):
    """The model loaded but could not make a sound. `str()` is the sentence for people."""

    error_code = "NOT_PROVEN"

    def __init__(self, name: str, detail: str) -> None:
        self.detail = detail
        super().__init__(f"{name} was loaded but could not make a sound, so it was not made active.")


def _of_death(problem: RunnerDied) -> tuple[str, str]:
    """Code and sentence for people."""
    if isinstance(problem, RunnerHung):
        return (
            "RUNNER_HUNG",
            f"The model's process {problem.what}, so it was ended. Switch again to try once more.",
        )
    return "RUNNER_DIED", "The model's process ended while it was loading, most often for want of memory."


@dataclass
class SwitchRun:
    """A claimed switch. `wait_for_jobs` returns once no job runs; no job starts while `holds_jobs` is set."""

    switch: ModelSwitch
    host: str
    pool: RunnerPool
    scratch: Path
    stopping: asyncio.Event
    holds_jobs: asyncio.Event
    wait_for_jobs: Callable[[], Awaitable[object]]
    _stop: threading.Event = field(default_factory=threading.Event)
    _over: bool = False
    _cancelled: bool = False
    _lost: bool = False
    _ended_previous: bool = False

    async def carry_out(self) -> None:
        """Carry the switch out. Ends with the row in a state that is true, whatever happens."""
        watch = asyncio.create_task(self._watch())
        try:
            await self._until_stopped()
        except SwitchLost:
            logger.warning("switch %s is no longer ours", self.switch.pk)
        except DownloadCancelled:
            if self._cancelled:
                await self._bring_back()
                await self._end(SwitchStage.CANCELLED, "CANCELLED", f"Cancelled. {self._what_stays()}")
            else:
                await self._fail("ENGINE_STOPPED", "The engine was stopped. Switch again to go on.", "")
        except (DownloadFailed, LoadRefused, NotProven) as problem:
            await self._fail(problem.error_code, str(problem), problem.detail)
        except (ModelNotPlayable, ModelNotFound) as problem:  # an admin was faster
            await self._fail("MODEL_NOT_PLAYABLE", str(problem), "")
        except RunnerDied as problem:
            logger.warning("the new runner died: %s\n%s", problem, problem.detail)
            await self._fail(*_of_death(problem), problem.detail)
        except Exception as problem:
            logger.exception("switch %s met an unexpected error", self.switch.pk)
            await self._fail("STUDIO_ERROR", "Something in the studio went wrong.", repr(problem))
        finally:
            self._over = True
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            self.holds_jobs.clear()

    async def _until_stopped(self) -> None:
        work = asyncio.create_task(self._run())
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._stop.set()
                await asyncio.wait({work}, timeout=3)
                if not work.done():
                    work.cancel()
                    await asyncio.wait({work})
                    raise DownloadCancelled
            work.result()
        finally:
            stop.cancel()

    # The stages.

    async def _run(self) -> None:
        switch, model = self.switch, self.switch.model
        warm = None if switch.is_reload else self.pool.loaded(model.pk)
        if warm is None:
            await self._install()
        if not await self._may_go_on():
            raise DownloadCancelled
        if warm is not None:
            await self._enter(SwitchStage.LOADING)
            self.holds_jobs.set()
            # What has made a sound before needs no proof, nor what a job is using right now.
            if not warm.is_proven and not warm.is_generating:
                await self._prove(warm)
            await self._complete(warm)
            self.pool.touch(warm)
            return
        await self._make_room()
        if not await self._may_go_on():
            raise DownloadCancelled
        await self._enter(SwitchStage.LOADING)
        self.holds_jobs.set()
        runner = await self.pool.start_beside(model, on_progress=self._note_load)
        try:
            await self._prove(runner)
            await self._complete(runner)
        except BaseException:
            await runner.end()
            raise
        await self.pool.adopt(runner)
        await self._remember_memory(runner)

    async def _install(self) -> None:
        model = self.switch.model
        if await asyncio.to_thread(installation.installed_folder, model) is None and not model.local_path:
            await self._enter(SwitchStage.DOWNLOADING)
        folder, plan = await installation.fetch(model, on_bytes=self._note_bytes, stop=self._stop)
        await self._enter(SwitchStage.VERIFYING)
        await installation.verify(folder, plan, on_fraction=self._note_fraction, stop=self._stop)

    async def _make_room(self) -> None:
        """Free memory for the new runner: idle others first; where both do not fit, after the running jobs ours too.

        A reload always waits for the running job: its runner is about to end.
        """
        model, previous = self.switch.model, self.switch.previous
        keep = frozenset({previous.pk}) if previous is not None else frozenset()
        await self.pool.settled()
        fits = await self.pool.make_room(model, keep=keep)
        if fits and not self.switch.is_reload:
            return
        await self._enter(SwitchStage.WAITING)
        self.holds_jobs.set()
        waiting = asyncio.ensure_future(self.wait_for_jobs())
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=PROGRESS_EVERY)
            if self._stop.is_set():
                waiting.cancel()
                raise DownloadCancelled
        if fits:
            return
        # Even where the figures say that it will not fit, they may be wrong: the load decides, and we can go back.
        self._ended_previous = True
        await self.pool.free_memory()

    async def _prove(self, runner: Runner) -> None:
        """A short generation through the whole model: text encoder, decoder, codec."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        request = f"proof-{secrets.token_hex(4)}"
        output = self.scratch / f"{request}.wav"
        name = self.switch.model.display_name
        try:
            command = protocol.Generate(request=request, output=str(output), **PROOF)
            async for event in runner.generate(command):
                if isinstance(event, protocol.RequestFailed):
                    raise NotProven(name, f"{event.message}\n{event.detail}")
                if isinstance(event, protocol.RequestFinished) and not event.frames:
                    raise NotProven(name, "no frame was made")
        finally:
            output.unlink(missing_ok=True)

    async def _complete(self, runner: Runner) -> None:
        if not await in_database(switches.complete_switch)(self.switch, host=self.host):
            raise SwitchLost

    async def _remember_memory(self, runner: Runner) -> None:
        loaded = runner.loaded
        if loaded is not None and loaded.device == "cpu" and (peak := runner.peak_bytes()):
            await in_database(switches.note_measured_memory)(self.switch.model, "cpu", loaded.dtype, peak)

    # How it ends badly.

    async def _fail(self, code: str, message: str, detail: str) -> None:
        if not self.switch.is_open:
            logger.error("switch %s had ended: %s %s", self.switch.pk, message, detail)
            return
        await self._bring_back()
        await self._end(SwitchStage.FAILED, code, f"{message} {self._what_stays()}", detail)

    async def _end(self, stage: SwitchStage, code: str, message: str, detail: str = "") -> None:
        ended = await in_database(switches.enter_stage)(
            self.switch, stage, host=self.host, error_code=code, message=message, error_detail=detail[-4000:]
        )
        if not ended:
            logger.warning("switch %s is no longer ours", self.switch.pk)

    async def _bring_back(self) -> None:
        previous = self.switch.previous
        if not self._ended_previous or previous is None or self.stopping.is_set():
            return
        try:
            await self.pool.get(previous, on_progress=lambda stage, fraction: None)
        except (DownloadFailed, LoadRefused, RunnerDied) as problem:
            # It stays the active model: the next job tries again and says what is wrong.
            logger.exception("the previous model could not be brought back: %s", problem)

    def _what_stays(self) -> str:
        previous = self.switch.previous
        return f"{previous.display_name} stays active." if previous is not None else "Nothing changed."

    # Progress.

    def _note_bytes(self, done: int, total: int) -> None:
        self.switch.bytes_done, self.switch.bytes_total = done, total
        self.switch.fraction = done / total if total else None

    def _note_fraction(self, fraction: float) -> None:
        self.switch.fraction = fraction

    def _note_load(self, stage: str, fraction: float | None) -> None:
        self.switch.fraction = fraction if stage == "reading weights" else None

    async def _enter(self, stage: SwitchStage) -> None:
        if not await in_database(switches.enter_stage)(self.switch, stage, host=self.host):
            raise SwitchLost

    async def _may_go_on(self) -> bool:
        await self.look()
        if self._lost:
            raise SwitchLost
        return not self._stop.is_set()

    async def look(self) -> None:
        """Store progress and renew the lease now; notice a cancel."""
        wanted = await in_database(switches.write_switch_progress)(self.switch, self.host)
        if wanted is None and self.switch.is_open:
            self._lost = True
            self._stop.set()
        elif wanted and self.switch.can_be_cancelled:
            self._cancelled = True
            self._stop.set()
        await send(SwitchChanged())

    async def _watch(self) -> None:
        # Not until it is cancelled: on its way through asgiref 3.13 and redis 8.1 a cancel can be lost.
        while not self._over:
            # The database may be away for a moment; the lease is longer than that.
            with going_on(logger, f"progress of switch {self.switch.pk} could not be stored"):
                await self.look()
            await asyncio.sleep(PROGRESS_EVERY)

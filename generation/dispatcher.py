"""The engine's heart: claims jobs and switches, keeps the runners they need, and says that it lives.

It works on rows and runs on one event loop. Hints only wake it earlier; without any it still finds its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.utils import timezone

from generation.database import in_database
from generation.job_log import logged
from generation.job_run import JobRun
from generation.models import EngineHost, Job
from generation.proof_run import IdleProofs
from generation.runner_pool import RunnerPool
from generation.runners import LoadRefused, Runner, RunnerDied
from generation.services import adapters, hosts, jobs
from generation.switch_run import SwitchRun
from registry.downloads import DownloadFailed
from registry.events import EngineChanged, send
from registry.models import ModelConfig, ModelSwitch
from registry.services import switches

logger = logging.getLogger(__name__)

#: Rows are asked for work this often when no hint came, in seconds.
POLL: Final = 0.5
#: The engine says that it lives this often, in seconds.
HEARTBEAT_EVERY: Final = 2.0
#: The same while a model is loading, for its progress.
LOADING_HEARTBEAT_EVERY: Final = 0.5
#: A spare process is made once the engine has had nothing to do for so long, in seconds.
SPARE_AFTER: Final = 10.0
#: A switch under way gets this long to end truly when the engine stops, in seconds.
STOP_BOUND: Final = 6.0
#: Leases of other hosts are looked at this often, in seconds.
RECOVER_EVERY: Final = 5.0


class Dispatcher:
    """One engine host. `run()` until `stop()`; `wake()` and `cancel()` may be called from the same loop.

    With `only_job` or `only_switch` it carries out just that and ends: what commands do when no server runs.
    """

    def __init__(self, *, only_job: int | None = None, only_switch: int | None = None) -> None:
        self.only_job = only_job
        self.only_switch = only_switch
        self.hostname = platform.node()
        self.host = f"{self.hostname[:50]}-{os.getpid()}-{secrets.token_hex(3)}"
        self._scratch = Path(settings.STUDIO.home) / "scratch" / self.host
        self._pool = RunnerPool(keeps_spare=self._serves_all)
        self._load_stage: tuple[str, str, float | None] | None = None  # model id, stage, fraction
        self._job: JobRun | None = None
        self._no_job = asyncio.Event()
        self._no_job.set()
        self._switch: SwitchRun | None = None
        self._no_switch = asyncio.Event()
        self._no_switch.set()
        self._holds_jobs = asyncio.Event()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._proofs = IdleProofs(self._pool, self._stopping)
        self._last_error = ""
        self._last_state = ""
        self._began = False
        self._busy_until = time.monotonic()
        self._row_lock = threading.Lock()  # of this host's row, and of:
        self._has_left = False

    @property
    def _serves_all(self) -> bool:
        return self.only_job is None and self.only_switch is None

    # What others ask of it.

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    async def cancel(self, job_id: int) -> None:
        """Look at that job's row at once, if it is the one in hand."""
        if self._job is not None and self._job.job.pk == job_id:
            await self._job.look()

    async def look_at_switch(self) -> None:
        """Look at the switch's row at once: somebody asked for one, or for its end."""
        self.wake()
        if self._switch is not None:
            await self._switch.look()

    async def stop(self) -> None:
        """Take nothing new, hand the running job back, end the runners."""
        self._stopping.set()
        self._wake.set()

    # The loops.

    async def run(self) -> None:
        """Work until stopped. With `only_job` or `only_switch`, until that has ended."""
        await in_database(self._announce)()
        await in_database(switches.recover_switches)(is_alive=hosts.is_alive)
        loops = [asyncio.create_task(self._keep_beating())]
        if self.only_job is None:
            loops.append(asyncio.create_task(self._carry_out_switches()))
        if self._serves_all:
            # The model that people will want first is made ready before they ask.
            loops.append(asyncio.create_task(self._keep_active_loaded()))
        try:
            await (self._wait_for_switch() if self.only_switch is not None else self._carry_out_jobs())
        finally:
            self._stopping.set()
            await self._finish_switch()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._pool.end_all()
            await in_database(self._sign_off)()
            await send(EngineChanged())

    async def _carry_out_jobs(self) -> None:
        recovered_at = 0.0
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                if time.monotonic() - recovered_at > RECOVER_EVERY:
                    recovered_at = time.monotonic()
                    await in_database(self._recover)()
                if not self._holds_jobs.is_set():
                    # From the look at the switch's hold to the end of the job nobody may count us as idle.
                    self._no_job.clear()
                    job = await in_database(jobs.claim_next_job)(
                        self.host,
                        only_job=self.only_job,
                        loaded=[runner.model_id for runner in self._pool.living()],
                    )
                    if job is not None:
                        await self._carry_out(job)
                        continue
                    if await self._prove_something():
                        continue
                    self._no_job.set()
                    if self.only_job is not None and not await self._is_unfinished(self.only_job):
                        return
            except Exception:
                # A database that is away for a moment must not end the engine: the next round tries again.
                logger.exception("the engine's loop met an error and goes on")
                self._no_job.set()
                await asyncio.sleep(1)
            await self._rest()

    async def _carry_out(self, job: Job) -> None:
        self._job = JobRun(job, self.host, self.hostname, self._pool, self._scratch, self._stopping)
        await self._tell()
        try:
            await logged(job, self._job.carry_out())
        finally:
            self._job = None
            self._no_job.set()
            self._busy_until = time.monotonic()
            await self._tell()

    async def _prove_something(self) -> bool:
        """Adapters that were imported are proven when nothing else wants the engine; a job then waits for one at most."""
        if not self._serves_all or self._switch is not None:
            return False
        idle_seconds = time.monotonic() - self._busy_until
        return await self._proofs.prove_next(idle_seconds=idle_seconds)

    async def _is_unfinished(self, job_id: int) -> bool:
        return bool(await in_database(Job.objects.filter(pk=job_id).unfinished().exists)())

    async def _carry_out_switches(self) -> None:
        """Beside the jobs: a download may take an hour, in which music is made."""
        while not self._stopping.is_set():
            try:
                switch = await in_database(switches.claim_switch)(self.host)
                if switch is not None:
                    await self._carry_out_switch(switch)
                    continue
            except Exception:
                logger.exception("the engine's loop met an error and goes on")
                await asyncio.sleep(1)
            await self._rest()

    async def _carry_out_switch(self, switch: ModelSwitch) -> None:
        self._no_switch.clear()
        self._switch = SwitchRun(
            switch=switch,
            host=self.host,
            pool=self._pool,
            scratch=self._scratch,
            stopping=self._stopping,
            holds_jobs=self._holds_jobs,
            wait_for_jobs=self._no_job.wait,
        )
        try:
            await self._switch.carry_out()
        finally:
            self._switch = None
            self._busy_until = time.monotonic()
            self._no_switch.set()
            self._wake.set()
            await self._tell()

    async def _wait_for_switch(self) -> None:
        while not self._stopping.is_set():
            switch = await in_database(
                ModelSwitch.objects.filter(pk=self.only_switch or 0, open_slot=True).exists
            )()
            if not switch:
                return
            await self._rest()

    async def _finish_switch(self) -> None:
        """A switch under way ends by itself once the engine stops; its row must be true before we go."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._no_switch.wait(), STOP_BOUND)

    async def _rest(self) -> None:
        """Until a hint comes, or it is time to look for oneself."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), POLL)
            self._wake.clear()

    async def _keep_active_loaded(self) -> None:
        """Load the active model when nothing else is going on, and again should its runner die."""
        refused: str | None = None
        while not self._stopping.is_set():
            model = await in_database(ModelConfig.objects.filter(is_active=True).first)()
            idle = self._job is None and self._switch is None
            rested = self._pool.is_resting
            if (
                model is not None
                and idle
                and not rested
                and self._pool.loaded(model.pk) is None
                and refused != model.pk
            ):
                try:
                    await self._load(model)
                except (DownloadFailed, LoadRefused, RunnerDied) as problem:
                    # A job that needs it will say so on its card; until then the chip does. Not tried over and over.
                    refused = model.pk
                    self._last_error = str(problem)
                    logger.warning("the active model could not be made ready: %s", problem)
                    await self._tell()
            self._began = True
            await asyncio.sleep(HEARTBEAT_EVERY)

    async def _load(self, model: ModelConfig) -> Runner:
        def note(stage: str, fraction: float | None) -> None:
            self._load_stage = (model.pk, stage, fraction)

        note("starting", None)
        await self._tell()
        began = time.monotonic()
        try:
            runner = await self._pool.get(model, on_progress=note)
        finally:
            self._load_stage = None
        self._last_error = ""
        assert runner.loaded is not None
        logger.info(
            "%s is ready on %s, %s, after %.1f s",
            model.display_name,
            runner.loaded.device_name,
            runner.loaded.dtype,
            time.monotonic() - began,
        )
        await self._tell()
        return runner

    # What pages see of it.

    @property
    def _state(self) -> str:
        if self._job is not None:
            return "working"
        if self._load_stage is not None:
            return "loading"
        if self._pool.living():
            return "ready"
        return "none" if self._began or self._last_error else "starting"

    async def _tell(self) -> None:
        await in_database(self._beat)()
        await send(EngineChanged())

    async def _keep_beating(self) -> None:
        while True:
            try:
                await self._keep_house()
                state = self._state
                await in_database(self._beat)()
                if state != self._last_state or state == "loading":
                    await send(EngineChanged())
                self._last_state = state
            except Exception:
                logger.exception("the engine's heartbeat could not be stored")
            await asyncio.sleep(LOADING_HEARTBEAT_EVERY if self._state == "loading" else HEARTBEAT_EVERY)

    async def _keep_house(self) -> None:
        """End what nobody used for a while, and everything idle when somebody asks for the memory."""
        if self._switch is not None:
            return
        if await in_database(hosts.take_free_memory_request)(self.host):
            await self._pool.free_memory()
            await self._tell()
            return
        minutes = settings.STUDIO.keep_alive_minutes
        active = await in_database(
            ModelConfig.objects.filter(is_active=True).values_list("pk", flat=True).first
        )()
        if await self._pool.end_idle(for_seconds=60 * minutes, keep=active):
            await self._tell()
        if self._state == "ready" and time.monotonic() - self._busy_until > SPARE_AFTER:
            self._pool.prepare_spare()

    def _announce(self) -> None:
        # Files that a killed host left half-made belong to nobody.
        known = set(EngineHost.objects.values_list("name", flat=True))
        for folder in self._scratch.parent.glob("*"):
            if folder.is_dir() and folder.name not in known and folder != self._scratch:
                shutil.rmtree(folder, ignore_errors=True)
        EngineHost.objects.create(
            name=self.host, hostname=self.hostname, pid=os.getpid(), serves_all_jobs=self._serves_all
        )

    def _recover(self) -> None:
        jobs.recover_jobs(self.host)
        # Another host may have taken our row away; that we live we know better.
        switches.recover_switches(is_alive=lambda name: name == self.host or hosts.is_alive(name))
        adapters.remove_deleted_weights()

    def _beat(self) -> None:
        living = self._pool.living()
        shown = self._job.job.model_id if self._job is not None else ""
        active = ModelConfig.objects.filter(is_active=True).values_list("pk", flat=True).first() or ""
        # At rest the active model is what pages name, whichever was used last for a proof or somebody's job.
        newest = self._pool.loaded(shown or active) or (living[0] if living else None)
        loaded = newest.loaded if newest is not None else None
        loading = self._load_stage
        model_id = loading[0] if loading is not None else shown or (newest.model_id if newest else "")
        facts: dict[str, Any] = {
            "state": self._state,
            "model_id": model_id,
            "device": loaded.device if loaded is not None else "",
            "device_name": loaded.device_name if loaded is not None else "",
            "dtype": loaded.dtype if loaded is not None else "",
            "stage": loading[1] if loading is not None else "",
            "stage_fraction": loading[2] if loading is not None else None,
            "runners": [self._runner_facts(runner) for runner in living],
            "last_error": self._last_error,
            "heartbeat_at": timezone.now(),
        }
        # A beat may still be under way in its thread when the loop that sent it is over: it must not come after the end.
        with self._row_lock:
            if not self._has_left and not EngineHost.objects.filter(pk=self.host).update(**facts):
                # Another host took us for dead, after a long sleep of this machine for example.
                self._announce()

    def _runner_facts(self, runner: Runner) -> dict[str, Any]:
        assert runner.loaded is not None
        return {
            "model_id": runner.model_id,
            "pid": runner.pid,
            "is_busy": runner.is_busy,
            "device": runner.loaded.device,
            "dtype": runner.loaded.dtype,
            "memory_bytes": self._pool.bytes_of(runner),
            "idle_seconds": 0 if runner.is_busy else round(time.monotonic() - runner.last_used),
        }

    def _sign_off(self) -> None:
        with self._row_lock:
            self._has_left = True
            EngineHost.objects.filter(pk=self.host).delete()
        with contextlib.suppress(OSError):
            for leftover in self._scratch.glob("*"):
                leftover.unlink()
            self._scratch.rmdir()

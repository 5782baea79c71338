"""The engine's heart: claims jobs and switches, keeps the runners they need, and says that it lives.

It works on rows and runs on one event loop. Hints only wake it earlier; without any it still finds its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError

from generation.database import going_on, in_database
from generation.host_row import HostRow
from generation.job_log import logged
from generation.job_run import JobRun
from generation.models import Job
from generation.proof_run import IdleProofs
from generation.recovery import Recovery
from generation.runner_pool import RunnerPool
from generation.runners import Runner
from generation.services import hosts, jobs
from generation.switch_run import SwitchRun
from generation.warmth import Warmth
from registry.events import EngineChanged, send
from registry.media import probe
from registry.models import ModelSwitch
from registry.services import switches

logger = logging.getLogger(__name__)

#: Rows are asked for work this often when no hint came, in seconds: where a hint from another process cannot reach us,
#: and where it can and would only have to be lost.
POLL: Final = 0.5
POLL_BESIDE_HINTS: Final = 5.0
#: The engine says that it lives this often, in seconds.
HEARTBEAT_EVERY: Final = 3.0
#: The same while a model is loading, for its progress.
LOADING_HEARTBEAT_EVERY: Final = 0.5
#: A switch under way gets this long to end truly when the engine stops, in seconds.
STOP_BOUND: Final = 6.0
#: A database that cannot be used at the start is asked again after so many seconds.
BEGIN_AGAIN_AFTER: Final = 2.0


class Dispatcher:
    """One engine host. `run()` until `stop()`; `wake()` and `cancel()` may be called from the same loop.

    With `only_job` or `only_switch` it carries out just that and ends: what commands do when no server runs.
    """

    def __init__(self, *, only_job: int | None = None, only_switch: int | None = None) -> None:
        self.only_job = only_job
        self.only_switch = only_switch
        self._row = HostRow(serves_all=self._serves_all)
        self.host = self._row.name
        self._recovery = Recovery(self._row)
        self._poll = POLL_BESIDE_HINTS if settings.STUDIO.redis_url else POLL
        self._pool = RunnerPool(keeps_spare=self._serves_all and settings.STUDIO.spare_runner)
        self._runs: dict[int, JobRun] = {}  # of jobs in hand, by their number
        self._tasks: set[asyncio.Task[None]] = set()  # that carry them out
        self._claiming = asyncio.Lock()  # from the row of a job to `_runs`
        self._no_job = asyncio.Event()
        self._no_job.set()
        self._switch: SwitchRun | None = None
        self._no_switch = asyncio.Event()
        self._no_switch.set()
        self._holds_jobs = asyncio.Event()
        # Of each loop that looks for work its own: one must not take the other's hint away.
        self._job_hint = asyncio.Event()
        self._switch_hint = asyncio.Event()
        self._draining = asyncio.Event()
        self._stopping = asyncio.Event()
        self._proofs = IdleProofs(self._pool, self._stopping)
        self._warmth = Warmth(self._pool, self._is_idle, lambda: self._active_id, self._tell, self._stopping)
        self._media_problem = ""
        self._last_state = ""
        self._busy_until = time.monotonic()
        # What the last beat heard.
        self._active_id = ""
        self._memory_wanted = False

    @property
    def _serves_all(self) -> bool:
        return self.only_job is None and self.only_switch is None

    def _is_idle(self) -> bool:
        return not self._runs and self._switch is None and not self._draining.is_set()

    # What others ask of it.

    def wake(self) -> None:
        """There may be work."""
        self._job_hint.set()
        self._switch_hint.set()

    async def cancel(self, job_id: int) -> None:
        """Look at that job's row at once, if it is in hand."""
        if job_id in self._runs:
            await self._runs[job_id].look()

    async def look_at_switch(self) -> None:
        """Look at the switch's row at once: somebody asked for one, or for its end."""
        self.wake()
        if self._switch is not None:
            await self._switch.look()

    async def drain(self, seconds: float) -> None:
        """Take nothing new, give what is in hand so long to end, and stop."""
        self._draining.set()
        self.wake()
        await self._tell()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._no_job.wait()
                await self._no_switch.wait()
        await self.stop()

    async def stop(self) -> None:
        """Take nothing new, hand the running jobs back, end the runners."""
        self._stopping.set()
        self.wake()

    # The loops.

    async def run(self) -> None:
        """Work until stopped. With `only_job` or `only_switch`, until that has ended."""
        await self._begin()
        loops = [asyncio.create_task(self._keep_beating())]
        if self.only_switch is None:
            loops.append(asyncio.create_task(self._keep_order()))
        if self.only_job is None:
            loops.append(asyncio.create_task(self._carry_out_switches()))
        if self._serves_all:
            # The model that people will want first is made ready before they ask.
            loops.append(asyncio.create_task(self._warmth.keep_active_loaded()))
        try:
            await (self._wait_for_switch() if self.only_switch is not None else self._carry_out_jobs())
        finally:
            self._stopping.set()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._no_job.set()
            await self._finish_switch()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._pool.end_all()
            # Our process is gone in a moment, and others see that.
            with going_on(logger, "the engine could not sign off"):
                await in_database(self._row.sign_off)()
            await send(EngineChanged())

    async def _begin(self) -> None:
        """Announce this host, however long the database keeps us waiting. Raises DatabaseError to a command."""
        while not self._stopping.is_set():
            try:
                await in_database(self._row.announce)()
                await in_database(switches.recover_switches)(is_alive=hosts.is_alive)
                return
            except DatabaseError as problem:
                if not self._serves_all:
                    raise
                logger.warning(
                    "The database cannot be used yet, trying again: %s", str(problem).partition("\n")[0]
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), BEGIN_AGAIN_AFTER)

    async def _carry_out_jobs(self) -> None:
        while not self._stopping.is_set():
            self._job_hint.clear()
            # A database that is away for a moment must not end the engine: the next round tries again.
            with going_on(logger, "the engine could not look for jobs"):
                if not self._holds_jobs.is_set() and not self._draining.is_set():
                    # From the look at the switch's hold to the end of the job nobody may count us as idle.
                    self._no_job.clear()
                    if await self._do_something():
                        continue
                    if (
                        self.only_job is not None
                        and not self._runs
                        and not await self._is_unfinished(self.only_job)
                    ):
                        self._no_job.set()
                        return
            if not self._runs:
                self._no_job.set()
            await self._rest(self._job_hint)

    async def _do_something(self) -> bool:
        """Begin the next job, or prove an adapter. False when there is neither."""
        if self._media_problem:
            # What was made could not be kept: jobs wait as they would for an engine.
            await in_database(probe)()
            self._media_problem = ""
            await self._tell()
        async with self._claiming:
            claim = self._claim()
            job = await in_database(claim)() if claim is not None else None
            if job is not None:
                run = self._runs[job.pk] = JobRun(
                    job, self.host, self._row.hostname, self._pool, self._row.scratch, self._stopping
                )
        if job is None:
            return not self._runs and await self._prove_something()
        task = asyncio.create_task(self._carry_out(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _claim(self) -> Callable[[], Job | None] | None:
        """How to claim a job now: any, or one to be made beside those in hand.

        None while there is no place, and where one in hand met a storage that is away: it is back in the queue a moment
        before it is out of hand.
        """
        if not self._runs:
            loaded = [runner.model_id for runner in self._pool.living()]
            return partial(jobs.claim_next_job, self.host, only_job=self.only_job, loaded=loaded)
        first, *_ = self._runs.values()
        places = settings.STUDIO.takes_at_once - sum(run.takes_left for run in self._runs.values())
        is_away = any(run.media_problem for run in self._runs.values())
        if (
            self.only_job is not None
            or is_away
            or places <= 0
            or self._pool.loaded(first.job.model_id) is None
        ):
            return None
        return partial(jobs.claim_job_beside, self.host, first.job, places=places)

    async def _carry_out(self, run: JobRun) -> None:
        try:
            await self._tell()
            await logged(run.job, run.carry_out())
        finally:
            # Who only came for this job tries it again at once, and then it ends.
            if self._serves_all:
                self._media_problem = run.media_problem or self._media_problem
            del self._runs[run.job.pk]
            self._busy_until = time.monotonic()
            self._job_hint.set()
            await self._tell()
        await run.live.remove_later(self._stopping)

    async def _keep_order(self) -> None:
        """Mend what other hosts left, beside the work: a long job must not keep us from it."""
        while not self._stopping.is_set():
            with going_on(logger, "what other hosts left could not be looked at"):
                async with self._claiming:
                    await in_database(self._recovery.recover)(list(self._runs))
            await asyncio.sleep(self._recovery.every_seconds)

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
            self._switch_hint.clear()
            with going_on(logger, "the engine could not look for switches"):
                draining = self._draining.is_set()
                switch = None if draining else await in_database(switches.claim_switch)(self.host)
                if switch is not None:
                    await self._carry_out_switch(switch)
                    continue
            await self._rest(self._switch_hint)

    async def _carry_out_switch(self, switch: ModelSwitch) -> None:
        self._no_switch.clear()
        self._switch = SwitchRun(
            switch=switch,
            host=self.host,
            pool=self._pool,
            scratch=self._row.scratch,
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
            self.wake()
            await self._tell()

    async def _wait_for_switch(self) -> None:
        while not self._stopping.is_set():
            switch = await in_database(
                ModelSwitch.objects.filter(pk=self.only_switch or 0, open_slot=True).exists
            )()
            if not switch:
                return
            await self._rest(self._job_hint)

    async def _finish_switch(self) -> None:
        """A switch under way ends by itself once the engine stops; its row must be true before we go."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._no_switch.wait(), STOP_BOUND)

    async def _rest(self, hint: asyncio.Event) -> None:
        """Until a hint comes, or it is time to look for oneself."""
        with contextlib.suppress(TimeoutError):
            # A job that may join what is in hand may have had to leave time to other hosts.
            await asyncio.wait_for(hint.wait(), POLL if self._runs else self._poll)

    # What pages see of it.

    @property
    def _state(self) -> str:
        if self._draining.is_set():
            return "stopping"
        if self._runs:
            return "working"
        if self._warmth.load_stage is not None:
            return "loading"
        if self._pool.living():
            return "ready"
        return "none" if self._warmth.has_begun or self._warmth.last_error else "starting"

    async def _tell(self) -> None:
        # The next beat tells it again.
        with going_on(logger, "the engine's state could not be stored"):
            await self._beat()
        await send(EngineChanged())

    async def _beat(self) -> None:
        heard = await in_database(self._row.beat)(self._facts)
        self._active_id, self._memory_wanted = heard.active_id, heard.memory_wanted

    async def _keep_beating(self) -> None:
        while not self._stopping.is_set():
            with going_on(logger, "the engine's heartbeat could not be stored"):
                state = self._state
                await self._beat()
                if state != self._last_state or state == "loading":
                    await send(EngineChanged())
                self._last_state = state
                if self._switch is None:
                    await self._warmth.keep_house(
                        self.host,
                        active=self._active_id,
                        memory_wanted=self._memory_wanted,
                        idle_seconds=time.monotonic() - self._busy_until if state == "ready" else 0,
                    )
            await asyncio.sleep(LOADING_HEARTBEAT_EVERY if self._state == "loading" else HEARTBEAT_EVERY)

    def _facts(self, active: str) -> dict[str, Any]:
        living = self._pool.living()
        shown = next((run.job.model_id for run in self._runs.values()), "")
        # At rest the active model is what pages name, whichever was used last for a proof or somebody's job.
        newest = self._pool.loaded(shown or active) or (living[0] if living else None)
        loaded = newest.loaded if newest is not None else None
        loading = self._warmth.load_stage
        model_id = loading[0] if loading is not None else shown or (newest.model_id if newest else "")
        return {
            "state": self._state,
            "model_id": model_id,
            "device": loaded.device if loaded is not None else "",
            "device_name": loaded.device_name if loaded is not None else "",
            "dtype": loaded.dtype if loaded is not None else "",
            "stage": loading[1] if loading is not None else "",
            "stage_fraction": loading[2] if loading is not None else None,
            "runners": [self._runner_facts(runner) for runner in living],
            "last_error": self._media_problem or self._warmth.last_error,
        }

    def _runner_facts(self, runner: Runner) -> dict[str, Any]:
        assert runner.loaded is not None
        return {
            "model_id": runner.model_id,
            "pid": runner.pid,
            "is_busy": runner.is_busy,
            "device": runner.loaded.device,
            "dtype": runner.loaded.dtype,
            "no_kernels": runner.loaded.no_kernels,
            "memory_bytes": self._pool.bytes_of(runner),
            "idle_seconds": 0 if runner.is_busy else round(time.monotonic() - runner.last_used),
        }

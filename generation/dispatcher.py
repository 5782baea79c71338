"""The engine's heart: claims jobs, keeps a runner for the model they need, renews leases, saves takes.

It works on rows and runs on one event loop. Hints only wake it earlier; without any it still finds its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import platform
import secrets
import shutil
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from channels.db import database_sync_to_async
from django.conf import settings
from django.utils import timezone

from generation import events
from generation.engine import protocol
from generation.engine.frames import frames_for
from generation.models import EngineHost, Job, JobStatus
from generation.runners import LoadRefused, Runner, RunnerDied
from generation.services import jobs, takes
from generation.services.speed import seconds_per_audio_second
from registry.models import ModelConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Rows are asked for work this often when no hint came, in seconds.
POLL: Final = 0.5
#: Progress is stored and told this often, in seconds.
PROGRESS_EVERY: Final = 0.25
#: The engine says that it lives this often, in seconds.
HEARTBEAT_EVERY: Final = 2.0
#: Leases of other hosts are looked at this often, in seconds.
RECOVER_EVERY: Final = 5.0
#: How long a stopping engine waits for a running step to hand over, in seconds.
STOP_BOUND: Final = 6.0


class JobLost(Exception):
    """The job is no longer ours: another host took over, or somebody removed it."""


class JobCancelled(Exception):
    """Somebody wants the running job to end."""


class RequestRefused(RuntimeError):
    """The runner could not render. `str()` is the sentence for people; the runner stays usable."""

    def __init__(self, failure: protocol.RequestFailed) -> None:
        self.error_code = failure.error_code
        self.detail = failure.detail
        super().__init__(failure.message)


@dataclass
class CurrentJob:
    """The job in hand and what is asked of it."""

    job: Job
    cancelled: asyncio.Event
    lost: asyncio.Event
    # Requests are told apart by a nonce: a runner may still speak of an attempt we gave up.
    request: str = ""


class Dispatcher:
    """One engine host. `run()` until `stop()`; `wake()` and `cancel()` may be called from the same loop."""

    def __init__(self, *, only_job: int | None = None) -> None:
        self.only_job = only_job
        self.hostname = platform.node()
        self.host = f"{self.hostname[:50]}-{os.getpid()}-{secrets.token_hex(3)}"
        self.state = "starting"
        self._home = Path(settings.STUDIO.home)
        self._scratch = self._home / "scratch" / self.host
        self._runner: Runner | None = None
        self._loading: asyncio.Task[Runner] | None = None
        self._load_stage: tuple[str, float | None] = ("", None)
        self._current: CurrentJob | None = None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._last_error = ""
        self._preloading: asyncio.Task[None] | None = None

    # What others ask of it.

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    async def cancel(self, job_id: int) -> None:
        """Look at that job's row at once, if it is the one in hand."""
        if self._current is not None and self._current.job.pk == job_id:
            await self._write_progress(self._current)

    async def stop(self) -> None:
        """Take no new job, hand the running one back, end the runner."""
        self._stopping.set()
        self._wake.set()

    # The loop.

    async def run(self) -> None:
        """Work until stopped. With `only_job`, until that job has ended."""
        await _db(self._announce)()
        if self.only_job is None:
            # The model that people will want first is made ready before they ask.
            self._preloading = asyncio.create_task(self._preload())
        heartbeat = asyncio.create_task(self._keep_beating())
        recovered_at = 0.0
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                try:
                    if time.monotonic() - recovered_at > RECOVER_EVERY:
                        recovered_at = time.monotonic()
                        await _db(jobs.recover_jobs)(self.host)
                        await _db(takes.purge_deleted_takes)()
                    job = await _db(jobs.claim_next_job)(self.host, only_job=self.only_job)
                    if job is not None:
                        await self._carry_out(job)
                        continue
                    if self.only_job is not None and await self._only_job_has_ended():
                        break
                except Exception:
                    # A database that is away for a moment must not end the engine: the next round tries again.
                    logger.exception("the engine's loop met an error and goes on")
                    await asyncio.sleep(1)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL)
        finally:
            background = [heartbeat, *([self._preloading] if self._preloading else [])]
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self._end_runner()
            await _db(self._sign_off)()
            await events.send(events.EngineChanged())

    async def _preload(self) -> None:
        model = await _db(lambda: ModelConfig.objects.filter(is_active=True).first())()
        if model is None or self._current is not None or self._is_loading:
            # A job decides what is loaded; this is only for an engine that has nothing to do.
            return
        try:
            await self._runner_for(model)
        except (LoadRefused, RunnerDied) as problem:
            # A job that needs it will say so on its card; until then the chip does.
            logger.warning("the active model could not be made ready: %s", problem)

    @property
    def _is_loading(self) -> bool:
        return self._loading is not None and not self._loading.done()

    async def _only_job_has_ended(self) -> bool:
        return not await _db(lambda: Job.objects.filter(pk=self.only_job).unfinished().exists())()

    # One job.

    async def _carry_out(self, job: Job) -> None:
        current = CurrentJob(job, asyncio.Event(), asyncio.Event())
        self._current = current
        await self._set_state("working")
        watch = asyncio.create_task(self._watch(current))
        try:
            await self._until_stopped(self._render_all(current), current)
            await _db(jobs.end_job)(
                job, JobStatus.FINISHED, host=self.host, announcement=f"Take ready: {job.prompt[:80]}"
            )
        except JobCancelled:
            if self._stopping.is_set() and not current.cancelled.is_set():
                await _db(jobs.hand_back)(job, self.host, counts_as_attempt=False)
            else:
                await _db(jobs.end_job)(job, JobStatus.CANCELLED, host=self.host, announcement="Cancelled.")
        except JobLost:
            logger.warning("job %s is no longer ours, its result is dropped", job.pk)
        except (LoadRefused, RequestRefused) as problem:
            await self._fail(job, problem.error_code, str(problem), problem.detail)
        except RunnerDied as problem:
            logger.warning("the runner died during job %s: %s\n%s", job.pk, problem, problem.detail)
            await _db(self._note_death)(job, problem)
            await _db(jobs.hand_back)(job, self.host, counts_as_attempt=True)
        except OSError as problem:
            message = (
                "The disk is full. Free some space in the studio's folder and try again."
                if problem.errno == errno.ENOSPC
                else "The take could not be written. Check that the studio's folder can be written to."
            )
            await self._fail(job, "DISK_ERROR", message, str(problem))
        except Exception as problem:
            logger.exception("job %s met an unexpected error", job.pk)
            await self._fail(
                job, "STUDIO_ERROR", "Something in the studio went wrong with this job.", repr(problem)
            )
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            self._current = None
            await self._set_state("ready" if self._runner is not None and self._runner.is_alive else "none")

    async def _until_stopped(self, work: Coroutine[Any, Any, T], current: CurrentJob) -> T:
        """Await the work, but not for longer than a bound once the engine is asked to stop."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                if self._runner is not None and current.request:
                    await self._runner.send(protocol.Cancel(request=current.request))
                await asyncio.wait({task}, timeout=STOP_BOUND)
                if not task.done():
                    task.cancel()
                    await asyncio.wait({task})
                    raise JobCancelled
            return task.result()
        finally:
            stop.cancel()

    async def _fail(self, job: Job, code: str, message: str, detail: str) -> None:
        await _db(jobs.end_job)(
            job,
            JobStatus.FAILED,
            host=self.host,
            announcement=f"Failed: {message}",
            error_code=code,
            error_message=message,
            error_detail=detail[-4000:],
        )

    def _note_death(self, job: Job, problem: RunnerDied) -> None:
        detail = f"{problem}\n{problem.detail}".strip()[-4000:]
        Job.objects.filter(pk=job.pk, lease_owner=self.host).update(error_detail=detail)

    async def _render_all(self, current: CurrentJob) -> None:
        job = current.job
        done = await _db(lambda: set(job.takes.values_list("variation", flat=True)))()
        rate = await _db(seconds_per_audio_second)(job.model_id)
        job.seconds_per_frame = rate / job.model.tokens_per_second if rate else None
        per_take = frames_for(job.duration_seconds, job.model.tokens_per_second)
        job.frames_total = per_take * job.variations
        runner = await self._loaded_runner(current)
        assert runner.loaded is not None
        per_take = frames_for(job.duration_seconds, runner.loaded.frame_rate)
        job.frames_total = per_take * job.variations
        finished = len(done)
        for variation, seed in enumerate(job.seeds):
            if variation in done:
                continue
            job.frames_done = finished * per_take
            await self._render_one(current, runner, variation, seed)
            finished += 1

    async def _loaded_runner(self, current: CurrentJob) -> Runner:
        """The runner for the job's model. The load goes on in the background when the job is cancelled meanwhile."""
        load = asyncio.create_task(self._runner_for(current.job.model))
        cancel = asyncio.create_task(current.cancelled.wait())
        lost = asyncio.create_task(current.lost.wait())
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({load, cancel, lost, stop}, return_when=asyncio.FIRST_COMPLETED)
            if load.done():
                return load.result()
            raise JobLost if lost.done() else JobCancelled
        finally:
            for task in (load, cancel, lost, stop):
                task.cancel()
            await asyncio.gather(load, cancel, lost, stop, return_exceptions=True)

    async def _render_one(self, current: CurrentJob, runner: Runner, variation: int, seed: int) -> None:
        job = current.job
        current.request = f"{job.pk}-{variation}-{secrets.token_hex(4)}"
        self._scratch.mkdir(parents=True, exist_ok=True)
        output = self._scratch / f"{current.request}.wav"
        before = job.frames_done
        command = protocol.Generate(
            request=current.request,
            prompt=job.prompt,
            duration_seconds=job.duration_seconds,
            seed=seed,
            guidance_scale=job.guidance_scale,
            temperature=job.temperature,
            top_k=job.top_k,
            top_p=job.top_p,
            output=str(output),
        )
        began = time.monotonic()
        first_frame: tuple[float, int] | None = None
        finished: protocol.RequestFinished | None = None
        try:
            async for event in runner.generate(command):
                if isinstance(event, protocol.RequestProgress):
                    job.stage = event.stage
                    job.stage_fraction = None
                    job.frames_done = before + event.frames_done
                    first_frame = _learn_speed(job, event, first_frame)
                elif isinstance(event, protocol.RequestFailed):
                    raise RequestRefused(event)
                else:
                    finished = event
        finally:
            if finished is None:
                output.unlink(missing_ok=True)
            current.request = ""
        assert finished is not None
        if current.lost.is_set():
            output.unlink(missing_ok=True)
            raise JobLost
        if finished.output is None or (self._stopping.is_set() and finished.cancelled):
            # Stopping hands the whole job back: a partial take is only for those who asked for the end.
            if not current.cancelled.is_set() or finished.output is None:
                output.unlink(missing_ok=True)
                raise JobCancelled
        assert runner.loaded is not None
        recipe = takes.recipe_of(
            job,
            seed=seed,
            is_partial=finished.cancelled,
            frames=finished.frames,
            engine_facts={
                "revision": runner.loaded.revision,
                "device": runner.loaded.device,
                "dtype": runner.loaded.dtype,
                "versions": runner.versions,
            },
        )
        take = await _db(takes.save_take)(
            job,
            host=self.host,
            variation=variation,
            source=output,
            recipe=recipe,
            frames=finished.frames,
            render_seconds=0 if finished.cancelled else time.monotonic() - began,
            hostname=self.hostname,
        )
        if take is None:
            raise JobLost
        if finished.cancelled:
            raise JobCancelled

    async def _watch(self, current: CurrentJob) -> None:
        """Store and tell progress while the job runs, and look whether somebody wants it to end."""
        while True:
            try:
                await self._write_progress(current)
            except Exception:  # the database may be away for a moment; the lease is longer than that
                logger.exception("progress of job %s could not be stored", current.job.pk)
            await asyncio.sleep(PROGRESS_EVERY)

    async def _write_progress(self, current: CurrentJob) -> None:
        job = current.job
        if self._is_loading:
            job.stage, job.stage_fraction = "loading", self._load_stage[1]
        wanted = await _db(jobs.write_progress)(job, self.host)
        if wanted is None:
            current.lost.set()
        elif wanted:
            current.cancelled.set()
        if wanted is not False and current.request and self._runner is not None:
            await self._runner.send(protocol.Cancel(request=current.request))
        await events.send(events.JobProgressed(owner_id=job.owner_id, job_id=job.pk))

    # The runner.

    async def _runner_for(self, model: ModelConfig) -> Runner:
        """A living runner that holds the model; loads it when needed, once for all who wait. Raises LoadRefused, RunnerDied."""
        if self._loading is not None:
            # Somebody's load goes on: wait for it, whatever it loads, so that two never load side by side.
            with contextlib.suppress(LoadRefused, RunnerDied):
                await asyncio.shield(self._loading)
        runner = self._runner
        if runner is not None and runner.is_alive and runner.model_id == model.pk:
            return runner
        if not self._is_loading:
            self._loading = asyncio.create_task(self._load(model))
        assert self._loading is not None
        return await asyncio.shield(self._loading)

    async def _load(self, model: ModelConfig) -> Runner:
        await self._end_runner(loading=False)
        runner = Runner(model_id=model.pk, home=self._home)
        self._runner = runner
        began = time.monotonic()
        if self._current is None:
            await self._set_state("loading")

        def note(stage: str, fraction: float | None) -> None:
            self._load_stage = (stage, fraction)

        try:
            loaded = await runner.load(
                checkpoint=model.checkpoint,
                revision=model.revision or None,
                device=settings.STUDIO.device,
                dtype=settings.STUDIO.dtype,
                on_progress=note,
            )
        except (LoadRefused, RunnerDied) as problem:
            self._last_error = str(problem)
            self._runner = None
            await runner.end()
            if self._current is None:
                await self._set_state("none")
            raise
        self._last_error = ""
        self._load_stage = ("", None)
        logger.info(
            "%s is ready on %s, %s, after %.1f s",
            model.display_name,
            loaded.device_name,
            loaded.dtype,
            time.monotonic() - began,
        )
        await self._set_state("working" if self._current is not None else "ready")
        return runner

    async def _end_runner(self, *, loading: bool = True) -> None:
        if loading and self._loading is not None and self._is_loading:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._runner is not None:
            await self._runner.end()
            self._runner = None

    # What pages see of it.

    async def _set_state(self, state: str) -> None:
        self.state = state
        await _db(self._beat)()
        await events.send(events.EngineChanged())

    async def _keep_beating(self) -> None:
        while True:
            try:
                if self.state == "ready" and (self._runner is None or not self._runner.is_alive):
                    # It died while nobody was looking. The next job starts another one.
                    await self._set_state("none")
                    if not self._stopping.is_set() and self.only_job is None:
                        self._preloading = asyncio.create_task(self._preload())
                else:
                    await _db(self._beat)()
                    if self.state == "loading":
                        await events.send(events.EngineChanged())
            except Exception:
                logger.exception("the engine's heartbeat could not be stored")
            await asyncio.sleep(HEARTBEAT_EVERY if self.state != "loading" else HEARTBEAT_EVERY / 4)

    def _announce(self) -> None:
        # Files that a killed host left half-made belong to nobody.
        known = set(EngineHost.objects.values_list("name", flat=True))
        for folder in self._scratch.parent.glob("*"):
            if folder.is_dir() and folder.name not in known and folder != self._scratch:
                shutil.rmtree(folder, ignore_errors=True)
        EngineHost.objects.create(
            name=self.host,
            hostname=self.hostname,
            pid=os.getpid(),
            serves_all_jobs=self.only_job is None,
        )

    def _beat(self) -> None:
        runner = self._runner
        loaded = runner.loaded if runner is not None else None
        facts = {
            "state": self.state,
            "model_id": runner.model_id if runner is not None else "",
            "device": loaded.device if loaded is not None else "",
            "device_name": loaded.device_name if loaded is not None else "",
            "dtype": loaded.dtype if loaded is not None else "",
            "stage": self._load_stage[0],
            "stage_fraction": self._load_stage[1],
            "runner_memory_bytes": runner.memory_bytes() if runner is not None else None,
            "last_error": self._last_error,
            "heartbeat_at": timezone.now(),
        }
        if not EngineHost.objects.filter(pk=self.host).update(**facts):
            # Another host took us for dead, after a long sleep of this machine for example.
            self._announce()

    def _sign_off(self) -> None:
        EngineHost.objects.filter(pk=self.host).delete()
        with contextlib.suppress(OSError):
            for leftover in self._scratch.glob("*"):
                leftover.unlink()
            self._scratch.rmdir()


def _learn_speed(
    job: Job, event: protocol.RequestProgress, first: tuple[float, int] | None
) -> tuple[float, int] | None:
    """Measure seconds a frame over this take as it goes; the record of earlier takes serves until a second has passed."""
    if event.stage != "generating" or not event.frames_done:
        return first
    now = time.monotonic()
    if first is None:
        return now, event.frames_done
    seconds, frames = now - first[0], event.frames_done - first[1]
    if seconds >= 1 and frames > 0:
        job.seconds_per_frame = seconds / frames
    return first


def _db(function: Any) -> Any:
    """The function in a thread that may use the database. Any thread will do: every call is a transaction of its own."""
    return database_sync_to_async(function, thread_sensitive=False)

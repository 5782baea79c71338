"""One job in the engine's hands: its runner, its variations side by side, its progress, and how it ends.

It talks to the rows through services and to a runner through the pool; what comes next is the dispatcher's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from django.db import InterfaceError, OperationalError

from adapters.models import Adapter
from adapters.services.proofs import FILE_CODES
from generation import installation
from generation.database import going_on, in_database, written
from generation.engine import protocol
from generation.engine.frames import frames_for
from generation.events import BoardChanged, JobProgressed
from generation.live_takes import LiveTakes
from generation.models import Job, JobAdapter, JobStatus
from generation.proof_run import NotProven, prove, require_proofs
from generation.runner_pool import RunnerPool
from generation.runners import LoadRefused, Runner, RunnerDied, RunnerHung
from generation.services import jobs, takes
from generation.services.continuing import SourceGone, melody_file, source_file
from generation.services.job_adapters import AdapterGone, adapters_of, use_of
from generation.services.speed import seconds_per_audio_second
from registry.downloads import DownloadCancelled, DownloadFailed
from registry.events import send
from registry.media import MEDIA_AWAY, MediaAway
from registry.services import switches

logger = logging.getLogger(__name__)

#: Progress is stored and told this often, in seconds.
PROGRESS_EVERY: Final = 0.25
#: How long a stopping engine waits for a running step to hand over, in seconds.
STOP_BOUND: Final = 6.0


class JobLost(Exception):
    """The job is no longer ours: another host took over, or somebody removed it."""


class JobCancelled(Exception):
    """Somebody wants the running job to end, or the engine stops."""


class RequestRefused(RuntimeError):
    """The runner could not render. `str()` is the sentence for people; the runner stays usable."""

    def __init__(self, failure: protocol.RequestFailed) -> None:
        self.error_code = failure.error_code
        self.detail = failure.detail
        super().__init__(failure.message)


@dataclass
class _Variation:
    """One take of the job on its way."""

    number: int
    seed: int
    frames_done: int = 0
    is_kept: bool = False
    stage: str = ""
    # Its name with the runner, while that has it.
    request: str = ""


class _Pace:
    """Seconds a frame over all takes of a job, measured as they go; for the first second there is no telling."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def seconds_per_frame(self, frames_done: int) -> float | None:
        """So many frames are made now."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, frames_done
        seconds, frames = now - self._first[0], frames_done - self._first[1]
        return seconds / frames if seconds >= 1 and frames > 0 else None


@dataclass
class JobRun:
    """A claimed job. `carry_out()` ends with the row in a state that is true, whatever happens."""

    job: Job
    host: str
    hostname: str
    pool: RunnerPool
    scratch: Path
    stopping: asyncio.Event
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    # Why it went back, where that was for want of the storage.
    media_problem: str = ""
    _over: bool = False
    # Told to downloads, which run in threads.
    _stop_fetching: threading.Event = field(default_factory=threading.Event)
    _runner: Runner | None = None
    # What the takes go on from, and the clip that they follow, while these lie on this machine.
    _source: Path | None = None
    _melody: Path | None = None
    _variations: list[_Variation] = field(default_factory=list)
    _adapters: list[tuple[JobAdapter, Adapter]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.live = LiveTakes(self.job, self.scratch, self.look)

    @property
    def takes_left(self) -> int:
        """Takes that are still to be made."""
        done = sum(variation.is_kept for variation in self._variations)
        return self.job.variations - done

    async def carry_out(self) -> None:
        """Render every variation that has no take yet and end the job."""
        job = self.job
        watch = asyncio.create_task(self._watch())
        try:
            await self._until_stopped()
            await self._end(
                JobStatus.FINISHED, f"Take ready: {job.prompt[:80]}", frames_done=job.frames_total
            )
        except (JobCancelled, DownloadCancelled):
            if self.stopping.is_set() and not self.cancelled.is_set():
                await self._hand_back(counts_as_attempt=False)
            else:
                await self._end(JobStatus.CANCELLED, "Cancelled.", frames_done=job.frames_done)
        except AdapterGone as problem:
            await self._end(
                JobStatus.CANCELLED,
                f"Cancelled: {problem}",
                error_code="ADAPTER_DELETED",
                error_message=str(problem),
            )
        except JobLost:
            logger.warning("job %s is no longer ours, its result is dropped", job.pk)
        except (LoadRefused, RequestRefused, NotProven, DownloadFailed, SourceGone) as problem:
            await self._fail(problem.error_code, str(problem), problem.detail)
        except RunnerDied as problem:
            logger.warning("the runner died during job %s: %s\n%s", job.pk, problem, problem.detail)
            await written(self._note_death)(problem)
            reason = jobs.HUNG if isinstance(problem, RunnerHung) else jobs.STOPPED
            await self._hand_back(counts_as_attempt=True, reason=reason)
        except MediaAway as problem:
            # Whoever is next may reach it; this engine takes nothing until it does itself.
            logger.warning("job %s goes back: %s", job.pk, problem.in_full)
            self.media_problem = str(problem)
            await self._hand_back(counts_as_attempt=True, reason=(MEDIA_AWAY, str(problem)))
        except OSError as problem:
            message = (
                "The disk is full. Free some space in the studio's folder and try again."
                if problem.errno in (errno.ENOSPC, errno.EDQUOT)
                else "The take could not be written. Check that the studio's folder can be written to."
            )
            await self._fail("DISK_ERROR", message, str(problem))
        except (OperationalError, InterfaceError) as problem:
            # What was made is kept, and the job stays ours by its row until we find that nobody works on it.
            logger.warning("job %s is left, the database is away: %s", job.pk, problem)
        except Exception as problem:
            logger.exception("job %s met an unexpected error", job.pk)
            await self._fail(
                "STUDIO_ERROR", "Something in the studio went wrong with this job.", repr(problem)
            )
        finally:
            self._over = True
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def look(self) -> None:
        """Store progress and renew the lease now; notice a cancel."""
        job = self.job
        wanted = await in_database(jobs.write_progress)(job, self.host)
        if wanted is None:
            self.lost.set()
        elif wanted:
            self.cancelled.set()
        if wanted is not False:
            self._stop_fetching.set()
            await self._cancel_requests()
        await send(JobProgressed(owner_id=job.owner_id, job_id=job.pk))

    async def _watch(self) -> None:
        # Not until it is cancelled: on its way through asgiref 3.13 and redis 8.1 a cancel can be lost.
        while not self._over:
            # The database may be away for a moment; the lease is longer than that.
            with going_on(logger, f"progress of job {self.job.pk} could not be stored"):
                await self.look()
            await asyncio.sleep(PROGRESS_EVERY)

    async def _until_stopped(self) -> None:
        """Render, but not for longer than a bound once the engine is asked to stop."""
        work = asyncio.create_task(self._render_all())
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._stop_fetching.set()
                await self._cancel_requests()
                await asyncio.wait({work}, timeout=STOP_BOUND)
                if not work.done():
                    work.cancel()
                    await asyncio.wait({work})
                    raise JobCancelled
            work.result()
        finally:
            stop.cancel()

    async def _cancel_requests(self) -> None:
        for variation in self._variations:
            if variation.request and self._runner is not None:
                await self._runner.send(protocol.Cancel(request=variation.request))

    async def _end(self, status: JobStatus, announcement: str, **fields: Any) -> None:
        # A short job may end between two looks: its last figures are written with its end.
        job = self.job
        end = {
            "announcement": announcement,
            "frames_total": job.frames_total,
            "live": job.live,
            **fields,
        }
        if not await written(jobs.end_job)(job, status, host=self.host, **end):
            await self._see_how_it_ended(announcement)

    async def _hand_back(self, *, counts_as_attempt: bool, **reason: tuple[str, str]) -> None:
        given = await written(jobs.hand_back)(
            self.job, self.host, counts_as_attempt=counts_as_attempt, **reason
        )
        if not given:
            await self._see_how_it_ended("")

    async def _see_how_it_ended(self, announcement: str) -> None:
        """Somebody was faster, or we were and the database's answer was lost: then nobody was told yet."""
        await written(self._read_status)()
        await send(BoardChanged(owner_id=self.job.owner_id, announcement=announcement))

    def _read_status(self) -> None:
        status = Job.objects.filter(pk=self.job.pk).values_list("status", flat=True).first()
        self.job.status = status or self.job.status

    async def _fail(self, code: str, message: str, detail: str) -> None:
        await self._end(
            JobStatus.FAILED,
            f"Failed: {message}",
            error_code=code,
            error_message=message,
            error_detail=detail[-4000:],
        )

    def _note_death(self, problem: RunnerDied) -> None:
        detail = f"{problem}\n{problem.detail}".strip()[-4000:]
        Job.objects.filter(pk=self.job.pk, lease_owner=self.host).update(error_detail=detail)

    async def _render_all(self) -> None:
        job = self.job
        done = await in_database(lambda: set(job.takes.values_list("variation", flat=True)))()
        self._adapters = await in_database(adapters_of)(job)
        rate = await in_database(seconds_per_audio_second)(job.model_id)
        job.seconds_per_frame = rate / job.model.tokens_per_second if rate else None
        job.frames_total = job.variations * frames_for(job.duration_seconds, job.model.tokens_per_second)
        await installation.fetch(job.model, on_bytes=self._note_bytes, stop=self._stop_fetching)
        runner = self._runner = await self._loaded_runner()
        assert runner.loaded is not None
        try:
            per_take = frames_for(job.duration_seconds, runner.loaded.frame_rate)
            job.frames_total = per_take * job.variations
            await self._prove_adapters(runner)
            self._variations = [_Variation(number, seed) for number, seed in enumerate(job.seeds)]
            for variation in self._variations:
                if variation.number in done:
                    variation.frames_done, variation.is_kept = per_take, True
            with contextlib.ExitStack() as stack:
                self._source = await in_database(stack.enter_context)(source_file(job))
                self._melody = await in_database(stack.enter_context)(melody_file(job))
                await self._render_variations(runner)
            await self._remember_memory(runner)
        finally:
            runner.let_go()

    async def _render_variations(self, runner: Runner) -> None:
        """All that have no take yet, side by side. The first that fails ends the others."""
        pace = _Pace()
        works = [
            asyncio.create_task(self._render_one(runner, variation, pace))
            for variation in self._variations
            if not variation.is_kept
        ]
        if not works:  # the last was kept just before its engine ended
            return
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_EXCEPTION)
            if any(work.done() and not isinstance(work.exception(), JobCancelled | None) for work in works):
                await self._cancel_requests()
            # Those that were asked to end come with their last words, and what they made is kept.
            await asyncio.wait(works)
        finally:
            for work in works:
                work.cancel()
            ends = await asyncio.gather(*works, return_exceptions=True)
        # That all were cancelled says less than why one failed.
        for problem in sorted(filter(None, ends), key=lambda end: isinstance(end, JobCancelled)):
            raise problem

    async def _prove_adapters(self, runner: Runner) -> None:
        """What was never proven on this model is proven before it is used."""
        if not self._adapters:
            return
        self.job.stage, self.job.stage_fraction = "proving", None
        await require_proofs(runner, self.job.model, [adapter for _, adapter in self._adapters])
        if self.cancelled.is_set():
            raise JobCancelled

    async def _note_broken(self, runner: Runner, failure: protocol.RequestFailed) -> None:
        """A file that is gone or changed since its proof: find out which, so that its row says it."""
        if failure.error_code in FILE_CODES:
            for _, adapter in self._adapters:
                with contextlib.suppress(NotProven):
                    await prove(runner, self.job.model, adapter)

    async def _remember_memory(self, runner: Runner) -> None:
        """A long take needs more than a load: what fits is told from the most that a model ever took."""
        loaded = runner.loaded
        if loaded is not None and loaded.device == "cpu" and (peak := runner.peak_bytes()):
            await in_database(switches.note_measured_memory)(self.job.model, "cpu", loaded.dtype, peak)

    def _note_bytes(self, done: int, total: int) -> None:
        self.job.stage, self.job.stage_fraction = "downloading", done / total if total else None

    def _note_load(self, stage: str, fraction: float | None) -> None:
        self.job.stage, self.job.stage_fraction = "loading", fraction

    async def _loaded_runner(self) -> Runner:
        """The runner for the job's model; a load that only this job wanted ends with it."""
        load = asyncio.create_task(self.pool.get(self.job.model, on_progress=self._note_load, is_busy=True))
        waits = [asyncio.create_task(event.wait()) for event in (self.cancelled, self.lost, self.stopping)]
        try:
            await asyncio.wait({load, *waits}, return_when=asyncio.FIRST_COMPLETED)
            if load.done():
                return load.result()
            load.cancel()
            (late,) = await asyncio.gather(load, return_exceptions=True)
            if isinstance(late, Runner):
                late.let_go()
            raise JobLost if self.lost.is_set() else JobCancelled
        finally:
            for wait in waits:
                wait.cancel()

    async def _render_one(self, runner: Runner, variation: _Variation, pace: _Pace) -> None:
        job = self.job
        # Requests are told apart by a nonce: a runner may still speak of an attempt we gave up.
        request = f"{job.pk}-{variation.number}-{secrets.token_hex(4)}"
        self.scratch.mkdir(parents=True, exist_ok=True)
        output = self.scratch / f"{request}.wav"
        assert runner.loaded is not None
        uses = [await written(use_of)(adapter, used.strength) for used, adapter in self._adapters]
        command = protocol.Generate(
            request=request,
            prompt=job.prompt,
            duration_seconds=job.duration_seconds,
            seed=variation.seed,
            guidance_scale=job.guidance_scale,
            temperature=job.temperature,
            top_k=job.top_k,
            top_p=job.top_p,
            output=str(output),
            adapters=uses,
            window_seconds=job.window_seconds,
            stride_seconds=job.stride_seconds,
            beginning=str(self._source) if self._source else None,
            beginning_seconds=job.continued_from_seconds if self._source else None,
            reference=str(self._melody or ""),
            live=self.live.begin(variation.number, request, runner.loaded),
        )
        finished: protocol.RequestFinished | None = None
        try:
            variation.request = request
            async for event in runner.generate(command):
                if isinstance(event, protocol.RequestProgress):
                    variation.stage, variation.frames_done = event.stage, event.frames_done
                    self._note_progress(pace)
                elif isinstance(event, protocol.RequestAudio):
                    await self.live.hand_on(variation.number, event)
                elif isinstance(event, protocol.RequestFailed):
                    await self._note_broken(runner, event)
                    raise RequestRefused(event)
                else:
                    finished = event
        finally:
            variation.request = ""
            if finished is None:
                output.unlink(missing_ok=True)
        assert finished is not None
        if self.lost.is_set():
            output.unlink(missing_ok=True)
            raise JobLost
        # An engine that stops hands the whole job back: a partial take is for those who asked for the end.
        is_unasked = finished.cancelled and not self.cancelled.is_set()
        if finished.output is None or is_unasked:
            output.unlink(missing_ok=True)
            raise JobCancelled
        try:
            await self._keep(runner, variation, finished, output)
        finally:
            output.unlink(missing_ok=True)
        variation.is_kept = True
        if finished.cancelled:
            raise JobCancelled

    def _note_progress(self, pace: _Pace) -> None:
        """The job's figures over all of its variations; its stage is that of the busiest."""
        job = self.job
        stages = {variation.stage for variation in self._variations if variation.request}
        job.stage = next((stage for stage in ("generating", "encoding", "decoding") if stage in stages), "")
        job.stage_fraction = None
        job.frames_done = sum(variation.frames_done for variation in self._variations)
        if job.stage == "generating" and (seconds := pace.seconds_per_frame(job.frames_done)):
            job.seconds_per_frame = seconds

    async def _keep(
        self,
        runner: Runner,
        variation: _Variation,
        finished: protocol.RequestFinished,
        output: Path,
    ) -> None:
        assert runner.loaded is not None
        recipe = takes.recipe_of(
            self.job,
            seed=variation.seed,
            is_partial=finished.cancelled,
            frames=finished.frames,
            adapters=[used for used, _ in self._adapters],
            engine_facts={
                "revision": runner.revision,
                "device": runner.loaded.device,
                "dtype": runner.loaded.dtype,
                "versions": {**runner.versions, "kernels": runner.loaded.kernels},
            },
        )
        take = await written(takes.write_take)(
            self.job,
            variation=variation.number,
            source=output,
            recipe=recipe,
            frames=finished.frames,
            render_seconds=0 if finished.cancelled else finished.work_seconds,
            hostname=self.hostname,
            file_name=takes.new_file_name(self.job, variation.number),
        )
        if await written(takes.keep_take)(take, self.job, host=self.host) is None:
            raise JobLost

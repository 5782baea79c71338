"""Switches through a real engine, real runners and dwarf checkpoints: each ends with one model active that plays.

One engine serves the whole module: a test that breaks something also shows that it recovers.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from generation import installation
from generation.engine import protocol
from generation.models import EngineHost, Job, JobStatus
from generation.runners import Runner
from generation.services import jobs
from generation.switch_run import SwitchRun
from registry.downloads import DownloadCancelled
from registry.models import ModelConfig, ModelSwitch, SwitchStage
from registry.services import cancel_switch, get_model_config, switches
from tests.conftest import wait_until
from tests.generation.test_dispatcher import Engine, runners
from tests.slow_model import standing_still
from tests.switching.models import (
    PATIENCE,
    active_id,
    assert_stays,
    begin_with,
    dwarf,
    submit,
    switch_to,
    until_finished,
    until_stage,
)

pytestmark = pytest.mark.django_db(transaction=True)

DEMO = "musicgen-demo"


@pytest.fixture(autouse=True)
def _demo_is_loaded(engine: Engine) -> None:
    """Every test begins with the demo active, as a new table has it, and loaded."""
    wait_until(lambda: engine.pid_of(DEMO) is not None, seconds=PATIENCE, what="the demo being loaded")
    wait_until(lambda: not busy(engine), seconds=PATIENCE, what="an engine with nothing in hand")


def busy(engine: Engine) -> bool:
    """Whether the engine has a job or a switch in hand."""
    return bool(engine.dispatcher._runs) or engine.dispatcher._switch is not None


@contextmanager
def running_job(engine: Engine, owner: User) -> Iterator[Job]:
    """A job that stays in the demo's hands inside the block, however quick the machine is."""
    with standing_still(engine.pid_of(DEMO)):
        job = submit(owner)

        def begun() -> bool:
            job.refresh_from_db()
            return job.status == JobStatus.RUNNING

        wait_until(begun, seconds=PATIENCE, what="a job being begun")
        yield job


@pytest.fixture
def demo() -> ModelConfig:
    """What is active at the start."""
    return get_model_config(DEMO)


@pytest.fixture
def before_the_proof(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[SwitchRun, Runner], Any]]]:
    """What to do when a runner has loaded and is about to be proven."""
    prove = SwitchRun._prove
    todo: list[Callable[[SwitchRun, Runner], Any]] = []

    async def proven(run: SwitchRun, runner: Runner) -> None:
        for act in todo:
            waits = act(run, runner)
            if waits is not None:
                await waits
        await prove(run, runner)

    monkeypatch.setattr(SwitchRun, "_prove", proven)
    yield todo
    todo.clear()


# It succeeds.


def test_a_switch_goes_through_its_stages_and_a_switch_back_is_warm(
    engine: Engine, owner: User, dwarfs: Path, demo: ModelConfig
) -> None:
    alpha = dwarf("alpha", dwarfs / "mono")
    switch = until_stage(switch_to(alpha, user=owner), SwitchStage.READY)
    assert list(switch.stage_seconds) == ["queued", "verifying", "loading"], "nothing to fetch or wait for"
    assert (switch.message, switch.error_code, switch.requested_by) == ("Alpha is ready.", "", owner)
    assert active_id() == "alpha"
    assert until_finished(submit(owner)).model_id == "alpha"
    alpha.refresh_from_db()
    assert alpha.measured_bytes["cpu float32"] > 50_000_000

    loaded = {DEMO: engine.pid_of(DEMO), "alpha": engine.pid_of("alpha")}
    assert None not in loaded.values(), "both fit, so the old one stays warm"
    host = EngineHost.objects.filter(pk=engine.dispatcher.host)
    wait_until(lambda: len(host.get().runners) >= 2, seconds=30, what="both being shown")
    shown = {runner["model_id"]: runner for runner in host.get().runners}
    assert shown["alpha"]["pid"] == loaded["alpha"]
    assert shown["alpha"]["memory_bytes"] > 50_000_000
    for model in (demo, alpha, demo):
        back = until_stage(switch_to(model), SwitchStage.READY)
        assert set(back.stage_seconds) == {"queued", "loading"}
        assert back.stage_seconds["loading"] < 5
        assert active_id() == model.pk
    assert loaded == {DEMO: engine.pid_of(DEMO), "alpha": engine.pid_of("alpha")}


def test_a_reload_starts_anew_after_the_running_job(engine: Engine, owner: User, demo: ModelConfig) -> None:
    old = engine.pid_of(DEMO)
    with running_job(engine, owner) as job:
        switch = switch_to(demo, reload=True)
        until_stage(switch, SwitchStage.WAITING)
    until_finished(job)
    assert job.attempts == 1, "it was not disturbed"
    until_stage(switch, SwitchStage.READY)
    wait_until(lambda: engine.pid_of(DEMO) not in (old, None), seconds=30, what="another process")
    # The new one serves at once; the old one takes a moment to end.
    wait_until(lambda: old not in [runner.pid for runner in runners()], seconds=30, what="the old one's end")
    assert active_id() == DEMO
    until_finished(submit(owner))


def test_jobs_wait_during_a_switch_and_finish_with_the_model_they_name(
    engine: Engine,
    owner: User,
    dwarfs: Path,
    before_the_proof: list[Callable[[SwitchRun, Runner], Any]],
) -> None:
    alpha = dwarf("alpha2", dwarfs / "mono")
    goes_on = asyncio.Event()
    before_the_proof.append(lambda run, runner: goes_on.wait())
    switch = switch_to(alpha)
    try:
        until_stage(switch, SwitchStage.LOADING)
        wait_until(engine.dispatcher._holds_jobs.is_set, seconds=PATIENCE, what="jobs being held")
        waiting = [submit(owner), submit(owner, model_id="alpha2"), submit(owner)]
        assert [job.model_id for job in waiting] == [DEMO, "alpha2", DEMO], "the old one is still the default"
        asyncio.run_coroutine_threadsafe(
            engine.dispatcher._rest(engine.dispatcher._job_hint), engine._loop
        ).result(timeout=30)
        assert set(Job.objects.values_list("status", flat=True)) == {JobStatus.QUEUED}
        assert active_id() == DEMO
    finally:
        engine._loop.call_soon_threadsafe(goes_on.set)
    until_stage(switch, SwitchStage.READY)
    for job in waiting:
        assert until_finished(job).attempts == 1


def test_requests_share_a_runner_one_after_the_other(engine: Engine, tmp_path: Path) -> None:
    # As a job and a switch's proof may, when a job starts while its model is being switched to.
    runner = engine.dispatcher._pool.loaded(DEMO)

    async def render(number: int) -> str:
        command = protocol.Generate(
            request=f"shared-{number}",
            prompt="piano",
            duration_seconds=0.1 + 0.1 * number,
            seed=1,
            output=str(tmp_path / f"{number}.wav"),
        )
        return [type(event).__name__ async for event in runner.generate(command)][-1]

    async def all_at_once() -> list[str]:
        return await asyncio.wait_for(asyncio.gather(*map(render, range(6))), 90)

    ends = asyncio.run_coroutine_threadsafe(all_at_once(), engine._loop).result(timeout=120)
    assert ends == ["RequestFinished"] * 6


# It fails.


@pytest.mark.parametrize(
    ("folder", "code", "says"),
    [
        ("truncated", "FILE_CORRUPT", "model.safetensors of truncated is damaged."),
        ("other", "WRONG_ARCHITECTURE", "not a MusicGen model"),
        ("no-such-folder", "CHECKPOINT_NOT_FOUND", "is not there. Correct it in the admin."),
        ("misfit", "CHECKPOINT_CORRUPT", ""),
        ("nan", "NOT_PROVEN", "was loaded but could not make a sound, so it was not made active."),
    ],
)
def test_a_checkpoint_that_cannot_play_leaves_the_old_model(
    engine: Engine, owner: User, dwarfs: Path, demo: ModelConfig, folder: str, code: str, says: str
) -> None:
    held = engine.pid_of(DEMO)
    broken = dwarf(folder, dwarfs / folder)
    switch = switch_to(broken)
    assert_stays(switch, demo, owner, code=code)
    assert says in switch.message
    assert engine.pid_of(DEMO) == held
    assert engine.pid_of(broken.pk) is None
    assert {runner.pid for runner in runners()} <= {
        runner.pid for runner in engine.dispatcher._pool.living()
    } | {engine.dispatcher._pool._spare.pid if engine.dispatcher._pool._spare else None}
    broken.refresh_from_db()
    assert broken.measured_bytes == {}


@pytest.mark.parametrize("when", ["starting", "loading", "proof"])
def test_a_runner_that_is_killed_leaves_the_old_model(
    owner: User,
    dwarfs: Path,
    demo: ModelConfig,
    when: str,
    monkeypatch: pytest.MonkeyPatch,
    before_the_proof: list[Callable[[SwitchRun, Runner], Any]],
) -> None:
    def kill(runner: Runner) -> None:
        if runner.model_id == model.pk or when == "starting":
            assert runner.pid is not None
            os.kill(runner.pid, signal.SIGKILL)

    if when == "proof":
        before_the_proof.append(lambda run, runner: kill(runner))
    elif when == "loading":
        load = Runner.load

        async def killed(runner: Runner, **options: Any) -> Any:
            kill(runner)
            return await load(runner, **options)

        monkeypatch.setattr(Runner, "load", killed)
    else:
        hear = Runner._next

        async def killed_at_once(runner: Runner, events: Any) -> Any:
            if not runner.versions:
                kill(runner)
            return await hear(runner, events)

        monkeypatch.setattr(Runner, "_next", killed_at_once)
    model = dwarf(f"killed-{when}", dwarfs / "mono")
    switch = switch_to(model)
    until_stage(switch, SwitchStage.FAILED)
    monkeypatch.undo()
    assert_stays(switch, demo, owner, code="RUNNER_DIED")
    assert "process ended while it was loading" in switch.message


def test_a_model_that_stands_still_does_not_become_active(
    engine: Engine,
    owner: User,
    dwarfs: Path,
    demo: ModelConfig,
    settings: Any,
    before_the_proof: list[Callable[[SwitchRun, Runner], Any]],
) -> None:
    def stop(run: SwitchRun, runner: Runner) -> None:
        assert runner.pid is not None
        os.kill(runner.pid, signal.SIGSTOP)

    settings.STUDIO = settings.STUDIO.model_copy(update={"runner_still_seconds": 1})
    before_the_proof.append(stop)
    switch = until_stage(switch_to(dwarf("still", dwarfs / "mono")), SwitchStage.FAILED)
    assert_stays(switch, demo, owner, code="RUNNER_HUNG")
    assert "said nothing and did nothing for 1 s, so it was ended." in switch.message


def test_a_switch_that_is_no_longer_ours_changes_nothing(
    engine: Engine,
    owner: User,
    dwarfs: Path,
    before_the_proof: list[Callable[[SwitchRun, Runner], Any]],
) -> None:
    taken: list[int] = []

    def take(run: SwitchRun, runner: Runner) -> Any:
        assert runner.pid is not None
        taken.append(runner.pid)
        return asyncio.to_thread(
            ModelSwitch.objects.filter(pk=run.switch.pk).update, host="another-host", lease_expires_at=None
        )

    before_the_proof.append(take)
    switch = switch_to(dwarf("taken", dwarfs / "mono"))
    wait_until(lambda: bool(taken) and not busy(engine), seconds=PATIENCE, what="giving it up")
    assert active_id() == DEMO
    assert taken[0] not in [runner.pid for runner in runners()]
    # Its holder never lived, so in the end it fails and the way is free.
    until_stage(switch, SwitchStage.FAILED)
    assert switch.error_code == "ENGINE_STOPPED"
    until_finished(submit(owner))


def test_a_model_locked_during_its_switch_does_not_become_active(
    owner: User,
    dwarfs: Path,
    demo: ModelConfig,
    before_the_proof: list[Callable[[SwitchRun, Runner], Any]],
) -> None:
    model = dwarf("locked", dwarfs / "mono")
    locked = ModelConfig.objects.filter(pk=model.pk)
    before_the_proof.append(
        lambda run, runner: asyncio.to_thread(locked.update, is_playable=False, unplayable_reason="Not now.")
    )
    switch = switch_to(model)
    assert_stays(switch, demo, owner, code="MODEL_NOT_PLAYABLE")
    assert "Not now." in switch.message


def test_a_cancel_while_verifying_leaves_the_old_model(
    owner: User, dwarfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def verify(folder: Path, plan: Any, *, on_fraction: Callable[[float], None], stop: Any) -> None:
        on_fraction(0.5)
        await asyncio.to_thread(stop.wait, PATIENCE)
        raise DownloadCancelled

    monkeypatch.setattr(installation, "verify", verify)
    switch = switch_to(dwarf("verified", dwarfs / "mono"))
    until_stage(switch, SwitchStage.VERIFYING)
    wait_until(lambda: ModelSwitch.objects.get().fraction == 0.5, seconds=30, what="its progress in the row")
    assert cancel_switch(switch)
    until_stage(switch, SwitchStage.CANCELLED)
    assert switch.message == "Cancelled. MusicGen Demo stays active."
    assert active_id() == DEMO
    until_finished(submit(owner))


def test_a_job_cancelled_while_its_runner_starts_leaves_no_process(
    engine: Engine, owner: User, dwarfs: Path
) -> None:
    dwarf("unwanted", dwarfs / "mono")
    wait_until(lambda: engine.dispatcher._pool._making_spare is None, seconds=PATIENCE, what="a spare")
    known = {runner.pid for runner in runners()}
    spare = engine.dispatcher._pool._spare
    job = submit(owner, model_id="unwanted")
    wait_until(
        lambda: Job.objects.get(pk=job.pk).stage == "loading" or not Job.objects.get(pk=job.pk).is_unfinished,
        seconds=PATIENCE,
        what="its runner starting",
    )
    job.refresh_from_db()
    jobs.request_cancel(job)
    wait_until(lambda: not Job.objects.get(pk=job.pk).is_unfinished, seconds=PATIENCE, what="its end")
    if spare is None and Job.objects.get(pk=job.pk).status == JobStatus.CANCELLED:
        assert {runner.pid for runner in runners()} <= known


# Both models do not fit.


@pytest.fixture
def small_machine(settings: Any) -> None:
    """A machine on which one dwarf of `HEAVY` GB fits, and no second runner beside it."""
    settings.STUDIO = settings.STUDIO.model_copy(update={"memory_gb": 1.0})


HEAVY = {"vram_requirement_gb": 0.95}


@pytest.mark.usefixtures("small_machine")
def test_where_both_do_not_fit_the_running_job_finishes_first(
    engine: Engine, owner: User, dwarfs: Path
) -> None:
    with running_job(engine, owner) as job:
        switch = switch_to(dwarf("heavy", dwarfs / "mono", **HEAVY))
        until_stage(switch, SwitchStage.WAITING)
        following = submit(owner)
        assert active_id() == DEMO
    until_stage(switch, SwitchStage.READY)
    job.refresh_from_db()
    assert (job.status, job.attempts) == ("finished", 1)
    assert switch.stage_seconds["waiting for jobs"] > 0
    assert engine.pid_of(DEMO) is None, "it made room"
    pool = engine.dispatcher._pool
    wait_until(lambda: not pool.is_resting, seconds=30, what="the engine keeping its model loaded again")
    # The job that waited swaps back, and by its end the active model is the new one still.
    assert until_finished(following).model_id == DEMO
    assert active_id() == "heavy"


@pytest.mark.usefixtures("small_machine")
def test_where_both_do_not_fit_a_failure_brings_the_old_model_back(
    engine: Engine, owner: User, dwarfs: Path, demo: ModelConfig
) -> None:
    held = engine.pid_of(DEMO)
    switch = until_stage(switch_to(dwarf("heavy-nan", dwarfs / "nan", **HEAVY)), SwitchStage.FAILED)
    assert "waiting for jobs" in switch.stage_seconds
    assert engine.pid_of(DEMO) not in (None, held), "it was ended, and is back before the row says failed"
    assert_stays(switch, demo, owner, code="NOT_PROVEN")


@pytest.mark.usefixtures("small_machine")
def test_a_cancel_while_waiting_for_jobs_disturbs_nothing(engine: Engine, owner: User, dwarfs: Path) -> None:
    held = engine.pid_of(DEMO)
    with running_job(engine, owner) as job:
        switch = switch_to(dwarf("heavy-not", dwarfs / "mono", **HEAVY))
        until_stage(switch, SwitchStage.WAITING)
        following = submit(owner)
        assert cancel_switch(switch)
        until_stage(switch, SwitchStage.CANCELLED)
    assert switch.message == "Cancelled. MusicGen Demo stays active."
    assert until_finished(job).attempts == 1
    until_finished(following)
    assert engine.pid_of(DEMO) == held


@pytest.mark.usefixtures("small_machine")
def test_a_cancel_after_the_old_runner_ended_brings_it_back(
    engine: Engine, owner: User, dwarfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = engine.dispatcher._pool
    free = pool.free_memory

    async def freed() -> int:
        ended = await free()
        await asyncio.to_thread(lambda: cancel_switch(ModelSwitch.objects.get()))
        return int(ended)

    monkeypatch.setattr(pool, "free_memory", freed)
    switch = until_stage(switch_to(dwarf("heavy-late", dwarfs / "mono", **HEAVY)), SwitchStage.CANCELLED)
    assert "loading" not in switch.stage_seconds
    assert engine.pid_of(DEMO) is not None
    assert active_id() == DEMO
    until_finished(submit(owner))


def test_measured_memory_is_what_counts_from_then_on(dwarfs: Path) -> None:
    model = dwarf("measured", dwarfs / "mono")
    begin_with(get_model_config(DEMO))
    for peak, kept in ((5, 5), (9, 9), (7, 9)):
        switches.note_measured_memory(model, "cpu", "float32", peak)
        model.refresh_from_db()
        assert model.measured_bytes == {"cpu float32": kept}

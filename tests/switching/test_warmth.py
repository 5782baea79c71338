"""Models that stay loaded: many switches and jobs at once, least recently used first, keep-alive, and memory on request.

The tests of this module build on each other's loaded models, in their order, to start few processes.
"""

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.contrib.auth.models import User
from django.db import connections

from generation.models import EngineHost, Job
from generation.runner_pool import RunnerPool
from generation.services.hosts import request_free_memory
from registry.models import ModelConfig, SwitchStage
from registry.services import get_model_config
from tests.conftest import wait_until
from tests.generation.test_dispatcher import Engine, runners
from tests.switching.models import (
    PATIENCE,
    active_id,
    dwarf,
    submit,
    switch_to,
    until_finished,
    until_stage,
)

pytestmark = pytest.mark.django_db(transaction=True)

DEMO = "musicgen-demo"


def loaded(engine: Engine) -> list[str]:
    """The loaded models, most recently used first."""
    return [runner.model_id for runner in engine.dispatcher._pool.living()]


def on_loop(engine: Engine, work: Any) -> Any:
    """Carry a coroutine out where the engine runs."""
    return asyncio.run_coroutine_threadsafe(work, engine._loop).result(timeout=PATIENCE)


@pytest.fixture
def pair(dwarfs: Path) -> tuple[ModelConfig, ModelConfig]:
    """Two models beside the demo."""
    return dwarf("left", dwarfs / "mono"), dwarf("right", dwarfs / "stereo", channels=2)


@pytest.mark.slow
def test_twenty_switches_and_fifty_jobs(
    engine: Engine, owner: User, pair: tuple[ModelConfig, ModelConfig]
) -> None:
    for model in pair:
        until_stage(switch_to(model), SwitchStage.READY)
        # What a model holds settles with its first takes.
        for seconds in (0.2, 0.1):
            until_finished(submit(owner, model_id=model.pk, seconds=seconds))
    wait_until(lambda: engine.dispatcher._pool._making_spare is None, seconds=PATIENCE, what="no spare begun")
    processes = {runner.pid for runner in runners() if runner.pid in held_pids(engine)}
    assert len(processes) >= 2
    server = psutil.Process()
    files, memory = server.num_fds(), total_memory(processes)

    draw = random.Random(3)
    wanted = [draw.choice(pair).pk for _ in range(50)]
    submitted: list[Job] = []

    def submit_all() -> None:
        try:
            for model_id in wanted:
                submitted.append(submit(owner, model_id=model_id, seconds=draw.choice([0.1, 0.2])))
        finally:
            connections.close_all()

    submitting = threading.Thread(target=submit_all)
    submitting.start()
    for number in range(20):
        model = pair[number % 2]
        switch = until_stage(switch_to(model), SwitchStage.READY)
        assert set(switch.stage_seconds) == {"queued", "loading"}, "it was warm"
        assert active_id() == model.pk
    submitting.join(timeout=PATIENCE)
    assert len(submitted) == 50
    for job, model_id in zip(submitted, wanted, strict=True):
        assert until_finished(job).model_id == model_id
        assert job.attempts == 1

    assert {runner.pid for runner in runners() if runner.pid in held_pids(engine)} == processes
    assert total_memory(processes) < 1.1 * memory + 20_000_000
    # Connections of the engine's threads to the database come and go.
    wait_until(lambda: server.num_fds() <= files + 6, seconds=30, what="as many open files as before")


def held_pids(engine: Engine) -> set[int | None]:
    """Processes that hold a model; the spare holds none."""
    return {runner.pid for runner in engine.dispatcher._pool.living()}


def total_memory(processes: set[int]) -> int:
    """Their resident memory in bytes."""
    return sum(psutil.Process(pid).memory_info().rss for pid in processes)


def test_the_least_recently_used_goes_first(
    engine: Engine, owner: User, pair: tuple[ModelConfig, ModelConfig], settings: Any, dwarfs: Path
) -> None:
    left, right = pair
    wait_until(lambda: DEMO in loaded(engine), seconds=PATIENCE, what="the demo being loaded")
    for model_id in (DEMO, right.pk, left.pk):
        until_finished(submit(owner, model_id=model_id))
    assert loaded(engine) == [left.pk, right.pk, DEMO]
    pool = engine.dispatcher._pool
    on_loop(engine, pool._end_spare())

    # A machine as large as what is held: one more model needs the place of one.
    sizes = {runner.model_id: pool.bytes_of(runner) for runner in pool.living()}
    total = sum(sizes.values()) + 20_000_000
    settings.STUDIO = settings.STUDIO.model_copy(update={"memory_gb": total / 1e9})
    wanted = dwarf("wanted", dwarfs / "mono", vram_requirement_gb=(sizes[right.pk] - 20_000_000) / 1e9)
    # The active one is the oldest, and is kept for a switch that wants to go back to it.
    assert on_loop(engine, pool.make_room(wanted, keep=frozenset({DEMO})))
    assert loaded(engine) == [left.pk, DEMO]

    too_large = dwarf("too-large", dwarfs / "mono", vram_requirement_gb=1000)
    assert not on_loop(engine, pool.make_room(too_large, keep=frozenset({DEMO, left.pk})))
    assert loaded(engine) == [left.pk, DEMO], "what is to be kept is kept"
    with pool.loaded(left.pk).in_use():
        assert not on_loop(engine, pool.make_room(too_large, keep=frozenset({DEMO})))
        assert loaded(engine) == [left.pk, DEMO], "what is in use is never ended"


def test_idle_models_end_after_the_keep_alive_and_the_active_one_stays(
    engine: Engine, owner: User, pair: tuple[ModelConfig, ModelConfig], settings: Any
) -> None:
    left, _ = pair
    wait_until(lambda: DEMO in loaded(engine), seconds=PATIENCE, what="the demo being loaded")
    until_finished(submit(owner, model_id=left.pk))
    assert set(loaded(engine)) >= {left.pk, DEMO}
    demo = engine.dispatcher._pool.loaded(DEMO).pid
    settings.STUDIO = settings.STUDIO.model_copy(update={"keep_alive_minutes": 0.0001})
    wait_until(lambda: loaded(engine) == [DEMO], seconds=60, what="the end of the idle one")
    beats_pass(engine, 3)
    assert engine.dispatcher._pool.loaded(DEMO).pid == demo


def beats_pass(engine: Engine, count: int) -> None:
    """Wait until the engine has said so often that it lives."""
    row = EngineHost.objects.filter(pk=engine.dispatcher.host)
    for _ in range(count):
        last = row.values_list("heartbeat_at", flat=True).first()
        wait_until(
            lambda last=last: row.values_list("heartbeat_at", flat=True).first() not in (None, last),  # type: ignore[misc]
            seconds=60,
            what="a heartbeat",
        )


def test_freed_memory_stays_free_until_it_is_needed(engine: Engine, owner: User) -> None:
    wait_until(lambda: DEMO in loaded(engine), seconds=PATIENCE, what="the demo being loaded")
    beats_pass(engine, 1)
    assert request_free_memory() == 1
    wait_until(lambda: not runners(), seconds=60, what="the end of every runner")
    beats_pass(engine, 3)
    assert runners() == [], "nothing is loaded again by itself"
    assert active_id() == DEMO
    assert EngineHost.objects.get().runners == []
    until_finished(submit(owner))
    assert loaded(engine) == [DEMO]


def test_a_model_is_loaded_again_when_its_runner_dies(engine: Engine, owner: User) -> None:
    wait_until(lambda: DEMO in loaded(engine), seconds=PATIENCE, what="the demo being loaded")
    pid = engine.dispatcher._pool.loaded(DEMO).pid
    psutil.Process(pid).kill()
    wait_until(
        lambda: (runner := engine.dispatcher._pool.loaded(DEMO)) is not None and runner.pid != pid,
        seconds=PATIENCE,
        what="a new runner of the active model",
    )
    until_finished(submit(owner))
    assert get_model_config(DEMO).is_active


def test_the_next_model_takes_the_process_that_is_ready(engine: Engine, dwarfs: Path) -> None:
    pool = engine.dispatcher._pool
    following = dwarf("following", dwarfs / "mono")
    assert on_loop(engine, prepare(pool)) is None, "these tests ask for none"
    pool._keeps_spare = True
    try:
        ready = on_loop(engine, prepare(pool))
        assert ready is not None
        until_stage(switch_to(following), SwitchStage.READY)
        # The row is ready a moment before the engine counts the runner as one of its own.
        wait_until(lambda: engine.pid_of(following.pk) is not None, seconds=10, what="the new runner")
        assert engine.pid_of(following.pk) == ready
    finally:
        pool._keeps_spare = False
        on_loop(engine, pool._end_spare())


async def prepare(pool: RunnerPool) -> int | None:
    """Have a spare process, where the engine keeps one, and answer its pid."""
    pool.prepare_spare()
    if pool._making_spare is not None:
        await pool._making_spare
    return pool._spare.pid if pool._spare is not None else None

"""The engine with a real runner and the demo checkpoint: from a queued row to a take, through every accident.

One engine serves the whole module, as it would serve a studio: a test that breaks it also shows that it recovers.
"""

import asyncio
import contextlib
import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connections, transaction

from gated_configs.wording import THIN_SPACE
from generation import audio_files, cards, database, live_takes
from generation.dispatcher import Dispatcher
from generation.host_row import HostRow
from generation.job_run import JobRun
from generation.live_response import live_response
from generation.models import Clip, EngineHost, Job, JobStatus, Take
from generation.services import clips, jobs, live, takes
from generation.services.submission import GenerationRequest, submit_job
from registry.fit import dtype_of
from registry.media import MediaAway, live_media, takes_media
from registry.models import ModelConfig
from tests.conftest import StorageServer, wait_until
from tests.generation.music import make_take, tone
from tests.generation.test_take_audio import body
from tests.media_files import take_file

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

#: Long enough for a machine with other work to load a model and render a few seconds.
PATIENCE = 180.0


class Engine:
    """A dispatcher on an event loop and thread of its own."""

    def __init__(self) -> None:
        self.dispatcher: Any = None
        self._loop: Any = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="engine")
        self._thread.start()
        assert self._ready.wait(timeout=30)

    async def _run(self) -> None:
        self.dispatcher = Dispatcher()
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        try:
            await self.dispatcher.run()
        finally:
            connections.close_all()

    def stop(self) -> None:
        """As a service manager's SIGTERM does."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                asyncio.run_coroutine_threadsafe(self.dispatcher.stop(), self._loop).result(timeout=30)
            self._thread.join(timeout=60)
        assert not self._thread.is_alive()

    def pid_of(self, model_id: str) -> int | None:
        """Process that holds that model, None when none does."""
        runner = self.dispatcher._pool.loaded(model_id)
        return runner.pid if runner is not None else None


def runners() -> list[psutil.Process]:
    """The runner processes of this test process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "generation.engine" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


@pytest.fixture(scope="module")
def engine(django_db_setup: None, django_db_blocker: Any, kernels_folder: Path) -> Iterator[Engine]:
    """The one engine of this module. It keeps working between tests, so the database stays open to it."""
    # The demo is too small for two threads to help, and on a busy machine they wait for each other.
    with django_db_blocker.unblock(), pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        running = Engine()
        yield running
        running.stop()
    assert runners() == [], "a stopped engine leaves no runner behind"


@pytest.fixture(autouse=True)
def _uses_engine(engine: Engine) -> None:
    """Every test of this module."""


@pytest.fixture
def slow(slow_checkpoint: Path) -> ModelConfig:
    """A model slow enough to be met in the middle of a job of 20 s."""
    return other_model("slow", str(slow_checkpoint))


def submit(owner: User, **fields: Any) -> Job:
    """Queue a job, half a second long unless `fields` say otherwise."""
    wanted: dict[str, Any] = {"prompt": "slow piano", "duration_seconds": 0.5, "seed": 7, **fields}
    return submit_job(owner=owner, request=GenerationRequest(**wanted))


def until(job: Job, condition: Callable[[Job], bool], what: str) -> Job:
    """Wait for the row to say so; give up at once when the job has ended otherwise."""

    def there() -> bool:
        job.refresh_from_db()
        return condition(job) or not job.is_unfinished

    wait_until(there, seconds=PATIENCE, what=f"{what} of a job that is {job.status}")
    assert condition(job), f"{what}: the job is {job.status}, {job.error_message} {job.error_detail}"
    return job


def until_ended(job: Job, status: JobStatus = JobStatus.FINISHED) -> Job:
    """Wait for that end."""
    return until(job, lambda row: row.status == status, f"becoming {status}")


def until_generating(job: Job, frames: int = 5) -> Job:
    """Wait until some frames of it are made."""
    return until(job, lambda row: row.frames_done >= frames and row.stage == "generating", "progress")


def test_a_job_becomes_a_take(owner: User) -> None:
    job = until_ended(submit(owner))
    take = Take.objects.get()
    assert (take.owner, take.job, take.seed, take.prompt) == (owner, job, 7, "slow piano")
    assert (take.frames, take.duration_seconds, take.is_partial) == (25, 0.5, False)
    assert soundfile.info(take_file(take)).frames == 8000
    assert max(take.peaks) > 0, "it is not silent"
    assert audio_files.read_recipe(take_file(take)) == take.recipe
    assert take.recipe["device"] == "cpu"
    assert take.recipe["versions"]["torch"].startswith("2.")
    assert (job.attempts, job.lease_owner, job.frames_total) == (1, "", 25)
    assert job.finished_at is not None
    assert take.render_seconds > 0


def test_the_same_seed_makes_the_same_file(owner: User) -> None:
    queued = [submit(owner, seed=seed) for seed in (11, 11, 12)]
    made = [until_ended(job).takes.get() for job in queued]
    assert made[0].sha256 == made[1].sha256
    assert made[0].sha256 != made[2].sha256
    assert take_file(made[0]).read_bytes() == take_file(made[1]).read_bytes()


def test_variations_count_the_seed_up(owner: User) -> None:
    job = until_ended(submit(owner, seed=20, variations=3))
    made = list(job.takes.order_by("variation"))
    assert [(take.variation, take.seed) for take in made] == [(0, 20), (1, 21), (2, 22)]
    assert len({take.sha256 for take in made}) == 3
    assert (job.frames_total, job.attempts) == (75, 1)
    alone = until_ended(submit(owner, seed=21)).takes.get()
    assert alone.sha256 == made[1].sha256, "a variation is the same music as a job with its seed"


def test_every_parameter_reaches_the_engine(owner: User) -> None:
    base = until_ended(submit(owner)).takes.get()
    changes: list[dict[str, Any]] = [
        {"prompt": "drums"}, {"temperature": 0.5}, {"top_k": 2}, {"guidance_scale": 1.0}, {"top_p": 0.2},
    ]  # fmt: skip
    queued = [submit(owner, **changed) for changed in changes]
    for changed, job in zip(changes, queued, strict=True):
        take = until_ended(job).takes.get()
        first, _ = soundfile.read(take_file(base))
        other, _ = soundfile.read(take_file(take))
        assert (first != other).any(), changed


def test_a_cancelled_take_is_kept_as_far_as_it_came(owner: User, slow: ModelConfig) -> None:
    job = until_generating(submit(owner, duration_seconds=20, model_id=slow.pk), frames=20)
    assert jobs.request_cancel(job)
    until_ended(job, JobStatus.CANCELLED)
    take = job.takes.get()
    assert take.is_partial
    assert 20 <= take.frames < 1000
    assert take.duration_seconds == pytest.approx(take.frames / 50)
    assert soundfile.info(take_file(take)).duration == pytest.approx(take.frames / 50)
    kept = cards.card_of(job).kept_line.replace(THIN_SPACE, " ")
    assert kept.startswith("kept ")
    assert float(kept.split()[1]) == pytest.approx(take.duration_seconds, abs=0.51)
    until_ended(submit(owner))


def test_the_heartbeat_tells_what_the_engine_does(engine: Engine, owner: User) -> None:
    until_ended(submit(owner))
    host = EngineHost.objects.filter(pk=engine.dispatcher.host)
    wait_until(lambda: host.filter(state="ready").exists(), seconds=30, what="being ready")
    row = host.get()
    assert (row.pid, row.model_id, row.device) == (os.getpid(), "musicgen-demo", "cpu")
    assert row.dtype == dtype_of(ModelConfig.objects.get(pk="musicgen-demo"), "cpu"), (
        "what the pages count with"
    )
    assert row.runner_memory_bytes is None or row.runner_memory_bytes > 10_000_000
    assert EngineHost.objects.alive().filter(pk=row.pk).exists()


def test_nothing_is_left_in_scratch(engine: Engine, owner: User, settings: Any) -> None:
    until_ended(submit(owner))
    left = list((Path(settings.STUDIO.home) / "scratch").rglob("*.wav"))
    assert left == []


def test_a_killed_runner_costs_nothing_but_time(
    engine: Engine, owner: User, slow: ModelConfig, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_takes, "LAST_CHUNK_SECONDS", 0.5)
    heard_early = settings.STUDIO
    settings.STUDIO = heard_early.model_copy(update={"live_audio": False})
    silent = until_ended(submit(owner, duration_seconds=3, seed=6, model_id=slow.pk))
    assert silent.live is None
    expected = silent.takes.get()
    settings.STUDIO = heard_early
    before = engine.pid_of(slow.pk)
    assert before is not None
    with transaction.atomic():
        # As an engine leaves it that ended between two takes.
        job = submit(owner, duration_seconds=3, seed=5, variations=2, model_id=slow.pk)
        first = make_take(owner, job=job, variation=0)
    until(job, lambda row: list(live.audible(row)) == [1], "being heard")
    stream = live.audible(job)[1]
    os.kill(before, signal.SIGKILL)
    until(job, lambda row: row.attempts == 2 and list(live.audible(row)) == [1], "being heard again")
    assert live.audible(job)[1].name != stream.name
    # From the beginning, and to the end of the take that is not there yet.
    heard = np.frombuffer(body(live_response(job, 1, listener=owner.pk))[44:], "<i2")
    until_ended(job)
    assert job.attempts == 2
    kept, again = job.takes.order_by("variation")
    assert kept == first, "what was finished stays"
    assert (again.seed, again.frames, again.sha256) == (6, 150, expected.sha256)
    assert engine.pid_of(slow.pk) not in (before, None)
    assert before not in [runner.pid for runner in runners()]
    file, _ = soundfile.read(take_file(again), dtype="int16")
    assert again.recipe["gain_db"] == 0
    assert len(heard) == len(file) == 3 * 16000
    assert np.abs(heard.astype(int) - file).max() <= 2
    wait_until(lambda: not live_media().entries(), seconds=30, what="the removal of what was heard")


def in_hand(engine: Engine, model_id: str) -> int:
    """Requests that the runner of that model has."""
    runner = engine.dispatcher._pool.loaded(model_id)
    return len(runner._answers) if runner is not None else 0


def test_takes_are_made_side_by_side_and_a_short_one_does_not_wait(
    engine: Engine, owner: User, alice: User, slow: ModelConfig
) -> None:
    long = until_generating(submit(owner, duration_seconds=20, variations=2, model_id=slow.pk))
    assert in_hand(engine, slow.pk) == 2
    short = submit(alice, duration_seconds=0.2, seed=5, model_id=slow.pk)
    other = submit(alice)
    beside = until_ended(short).takes.get()
    long.refresh_from_db()
    other.refresh_from_db()
    assert (long.status, other.status) == ("running", "queued"), "another model waits for its turn"
    assert jobs.request_cancel(long)
    until_ended(long, JobStatus.CANCELLED)
    assert [take.is_partial for take in long.takes.all()] == [True, True], "both are kept as far as they came"
    until_ended(other)
    alone = until_ended(submit(alice, duration_seconds=0.2, seed=5, model_id=slow.pk)).takes.get()
    assert beside.sha256 == alone.sha256


def test_what_dies_in_company_is_tried_again_alone(
    engine: Engine, owner: User, alice: User, slow: ModelConfig
) -> None:
    first = until_generating(submit(owner, duration_seconds=20, model_id=slow.pk))
    second = until_generating(submit(alice, duration_seconds=20, model_id=slow.pk))
    held = engine.pid_of(slow.pk)
    assert held is not None
    os.kill(held, signal.SIGKILL)
    until(first, lambda row: row.attempts == 2 and row.frames_done >= 5, "its second attempt")
    second.refresh_from_db()
    assert (second.status, second.attempts, in_hand(engine, slow.pk)) == ("queued", 1, 1)
    assert jobs.request_cancel(first)
    until(second, lambda row: row.attempts == 2 and row.frames_done >= 5, "its second attempt")
    assert jobs.request_cancel(second)
    until_ended(second, JobStatus.CANCELLED)


def test_a_runner_killed_twice_fails_with_a_sentence(engine: Engine, owner: User, slow: ModelConfig) -> None:
    job = submit(owner, duration_seconds=20, model_id=slow.pk)
    for attempt in (1, 2):
        until(job, lambda row: row.attempts == attempt and row.frames_done >= 5, f"attempt {attempt}")  # noqa: B023
        held = engine.pid_of(slow.pk)
        assert held is not None
        os.kill(held, signal.SIGKILL)
    until_ended(job, JobStatus.FAILED)
    assert (job.error_code, job.error_message) == ("ENGINE_STOPPED", jobs.LOST_ENGINE)
    assert "ended unexpectedly (status -9)" in job.error_detail
    assert not job.takes.exists()


def test_a_runner_that_stands_still_is_ended_and_the_second_time_the_job_fails(
    engine: Engine, owner: User, slow: ModelConfig, settings: Any
) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"runner_still_seconds": 1})
    job = submit(owner, duration_seconds=20, model_id=slow.pk)
    stopped = []
    for attempt in (1, 2):
        until(job, lambda row: row.attempts == attempt and row.frames_done >= 5, f"attempt {attempt}")  # noqa: B023
        held = engine.pid_of(slow.pk)
        assert held is not None
        os.kill(held, signal.SIGSTOP)
        stopped.append(held)
    until_ended(job, JobStatus.FAILED)
    assert (job.error_code, job.error_message) == ("RUNNER_HUNG", jobs.HUNG_RUNNER)
    assert "said nothing and did nothing for 1 s" in job.error_detail
    assert not {*stopped} & {runner.pid for runner in runners()}
    until_ended(submit(owner))


def test_two_engines_share_the_queue_and_a_stopping_one_hands_its_job_back(
    engine: Engine, owner: User, slow: ModelConfig
) -> None:
    second = Engine()
    try:
        queue = [submit(owner, seed=seed) for seed in range(40, 46)]
        for job in queue:
            until_ended(job)
            assert job.attempts == 1
        assert sorted(Take.objects.values_list("seed", flat=True)) == list(range(40, 46))

        held = [submit(owner, duration_seconds=20, model_id=slow.pk) for _ in range(2)]
        for job in held:
            until(job, lambda row: row.status == JobStatus.RUNNING, "starting")
        (given,) = [job for job in held if job.lease_owner == second.dispatcher.host]
        (kept,) = [job for job in held if job != given]
        second.stop()
        given.refresh_from_db()
        assert (given.status, given.lease_owner, given.attempts) == ("queued", "", 0)
        assert not given.takes.exists(), "a partial take is only for who asked for the end"
        assert not EngineHost.objects.filter(pk=second.dispatcher.host).exists()
        kept.refresh_from_db()
        assert kept.lease_owner == engine.dispatcher.host
        jobs.request_cancel(kept)
        until(given, lambda row: row.lease_owner == engine.dispatcher.host, "being taken over")
        assert given.attempts == 1
        jobs.request_cancel(given)
        until_ended(given, JobStatus.CANCELLED)
    finally:
        second.stop()


def other_model(name: str, local_path: str) -> ModelConfig:
    """A model of an admin, with the demo's capabilities."""
    values = ModelConfig.objects.filter(pk="musicgen-demo").values().get()
    values |= {"id": name, "hf_model_id": f"us/{name}", "local_path": local_path, "is_active": False}
    return ModelConfig.objects.create(**values)


def test_a_missing_checkpoint_fails_with_a_sentence_and_nothing_else_does(owner: User) -> None:
    other_model("missing", "/no/such/folder")
    job = submit(owner, model_id="missing")
    following = submit(owner)
    until_ended(job, JobStatus.FAILED)
    assert job.error_code == "CHECKPOINT_NOT_FOUND"
    assert "/no/such/folder" in job.error_message
    assert job.attempts == 1
    until_ended(following)


def test_a_cancel_while_loading_ends_the_job_at_once(engine: Engine, owner: User) -> None:
    copy = other_model("copy", ModelConfig.objects.get(pk="musicgen-demo").local_path)
    # With a spare process the load would be over before anybody could look at it.
    asyncio.run_coroutine_threadsafe(engine.dispatcher._pool._end_spare(), engine._loop).result(timeout=30)
    job = until(submit(owner, model_id=copy.pk), lambda row: row.stage == "loading", "loading")
    assert cards.card_of(job).status_line.startswith("Loading ")
    assert jobs.request_cancel(job)
    until_ended(job, JobStatus.CANCELLED)
    assert not job.takes.exists()
    assert cards.card_of(job).kept_line == "nothing was made yet"
    # Its half-loaded process is gone; the next job starts another one beside the active model's.
    assert until_ended(submit(owner, model_id=copy.pk)).takes.get().model_id == "copy"

    def nothing_is_left_over() -> bool:
        held = {runner["pid"] for runner in EngineHost.objects.get().runners}
        # One more may be the spare, which holds no model.
        return (
            bool(held) and held <= {process.pid for process in runners()} and len(runners()) <= len(held) + 1
        )

    wait_until(nothing_is_left_over, seconds=20, what="a process for each loaded model and no other")


def no_facts(active: str) -> dict[str, Any]:
    return {"state": "ready"}


def test_a_beat_that_comes_after_the_end_leaves_no_host_behind(owner: User) -> None:
    """Its thread cannot be cancelled with the loop that sent it."""
    leaving = HostRow(serves_all=False)
    leaving.announce()
    assert EngineHost.objects.filter(pk=leaving.name).exists()
    leaving.sign_off()
    leaving.beat(no_facts)
    assert not EngineHost.objects.filter(pk=leaving.name).exists()


def test_a_host_that_was_taken_for_dead_comes_back_with_its_next_beat(owner: User) -> None:
    living = HostRow(serves_all=False)
    living.announce()
    EngineHost.objects.filter(pk=living.name).delete()
    living.beat(no_facts)
    assert EngineHost.objects.filter(pk=living.name).exists()
    living.sign_off()


@pytest.mark.usefixtures("bucket")
def test_jobs_wait_while_the_bucket_is_away(
    engine: Engine, owner: User, storage_server: StorageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.3)
    monkeypatch.setattr(database, "AGAIN_AFTER", 0.05)
    hand_back = JobRun._hand_back

    async def slowly(run: JobRun, **how: Any) -> None:
        await hand_back(run, **how)
        await asyncio.sleep(0.5)  # back in the queue, and still in hand

    monkeypatch.setattr(JobRun, "_hand_back", slowly)
    with storage_server.away():
        first = submit(owner)
        # Made, and not kept: it went back, and this engine takes nothing now.
        until(first, lambda row: row.attempts == 1 and row.status == JobStatus.QUEUED, "coming back")
        second = submit(owner)
        wait_until(
            lambda: EngineHost.objects.get().last_error.startswith("The storage of takes and adapters"),
            seconds=PATIENCE,
            what="saying so",
        )
        assert Job.objects.get(pk=second.pk).attempts == 0
    assert until_ended(first).attempts == 2
    assert until_ended(second).attempts == 1
    assert {take.file_name for take in Take.objects.all()} == {file.name for file in takes_media().entries()}
    assert list(engine.dispatcher._row.scratch.glob("*")) == []


@pytest.mark.usefixtures("bucket")
def test_a_take_that_can_never_be_kept_ends_its_job_with_the_reason(
    owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, name: str) -> None:
        raise MediaAway("The bucket is full.", "QuotaExceeded")

    monkeypatch.setattr(database, "PATIENCE", 0.0)
    monkeypatch.setattr(type(takes_media()), "writing", refuse)
    job = until_ended(submit(owner), JobStatus.FAILED)
    assert (job.error_code, job.error_message, job.attempts) == ("MEDIA_AWAY", "The bucket is full.", 2)


def audio_of(take: Take) -> Any:
    with takes_media().local(take.file_name) as path:
        return soundfile.read(path, dtype="int16")[0]


def verified(take: Take) -> tuple[int, dict[str, Any]]:
    """Status and facts of `generate --verify`."""
    told = io.StringIO()
    try:
        call_command("generate", verify=take.pk, json=True, stdout=told)
    except SystemExit as end:
        return int(end.code or 0), json.loads(told.getvalue())
    except CommandError as problem:
        return problem.returncode, json.loads(told.getvalue())
    return 0, json.loads(told.getvalue())


def test_a_clip_is_gone_on_from_like_a_take(owner: User, tmp_path: Path) -> None:
    take = until_ended(submit(owner, duration_seconds=1.2)).takes.get()
    file = tmp_path / "my song.wav"
    soundfile.write(file, audio_of(take), take.sample_rate, subtype="PCM_16")
    told = io.StringIO()
    call_command(
        "generate", "slow piano", duration=0.5, seed=9, continue_clip=str(file), continue_from=1.1,
        out=str(tmp_path / "new.wav"), json=True, stdout=told,
    )  # fmt: skip
    clip = Clip.objects.get()
    made = Take.objects.get(pk=json.loads(told.getvalue())["take"])
    assert made.recipe["continued"] == {"clip": clip.pk, "sha256": clip.sha256, "from_seconds": 1.1}
    same = until_ended(submit(owner, seed=9, continue_take=take.pk, continue_from_seconds=1.1)).takes.get()
    assert np.array_equal(audio_of(made), audio_of(same))
    assert verified(made)[1]["identical"] is True
    clips.delete_clip(clip)
    assert "Bring it in again" in verified(made)[1]["error"]
    with transaction.atomic():
        missing = submit(owner, continue_clip=clips.clip_named(str(file), owner=owner))
        Clip.objects.all().delete()
    assert until_ended(missing, JobStatus.FAILED).error_code == "CLIP_GONE"


def test_a_melody_is_followed_by_command_and_made_again(owner: User, tmp_path: Path) -> None:
    from tests.engine.dwarf import build_melody_dwarf  # it imports the libraries of the engine

    model = other_model("melody", str(build_melody_dwarf(tmp_path / "melody")))
    ModelConfig.objects.filter(pk=model.pk).update(family="musicgen_melody")
    file = tone(tmp_path / "hummed.wav", seconds=1.0, sample_rate=16000)
    told = io.StringIO()
    call_command(
        "generate", "slow piano", model="melody", duration=0.5, seed=7, melody_clip=str(file),
        out=str(tmp_path / "new.wav"), json=True, stdout=told,
    )  # fmt: skip
    clip = Clip.objects.get()
    made = Take.objects.get(pk=json.loads(told.getvalue())["take"])
    assert made.recipe["melody"] == {"clip": clip.pk, "sha256": clip.sha256}
    without = until_ended(submit(owner, model_id="melody")).takes.get()
    assert "melody" not in without.recipe
    assert not np.array_equal(audio_of(made), audio_of(without))
    assert verified(made)[1]["identical"] is True
    longer = until_ended(
        submit(
            owner, model_id="melody", continue_clip=clip.pk, continue_from_seconds=1.0, melody_clip=clip.pk
        )
    ).takes.get()
    assert longer.duration_seconds == pytest.approx(1.5, abs=0.1)
    with transaction.atomic():
        missing = submit(owner, model_id="melody", melody_clip=clip.pk)
        Clip.objects.all().delete()
    assert until_ended(missing, JobStatus.FAILED).error_code == "CLIP_GONE"


def test_a_take_is_verified_or_it_is_told_where_it_departs(owner: User, settings: Any) -> None:
    # Made in two windows, and again so when the limits are others.
    limits, demo = settings.STUDIO, "musicgen-demo"
    settings.STUDIO = limits.model_copy(
        update={"max_duration_seconds": {demo: 1}, "max_extended_seconds": {demo: 2}}
    )
    job = until_ended(submit(owner, variations=2, duration_seconds=1.2, extend=True))
    settings.STUDIO = limits
    assert (job.frames_total, job.frames_done) == (120, 120)
    take = job.takes.get(variation=1)
    assert (take.frames, take.recipe["window_seconds"], take.recipe["stride_seconds"]) == (60, 1, 0.6)
    assert verified(take) == (
        0,
        {
            "take": take.pk,
            "identical": True,
            "departs_at_seconds": None,
            "largest_difference": 0.0,
            "changed": [],
        },
    )
    assert Take.objects.count() == 2, "what was made for it is gone"
    assert take.recipe_line.endswith(" --extend")
    # One that goes on from it begins with it, and is made again while that is there.
    went_on = until_ended(submit(owner, continue_take=take.pk))
    assert went_on.live is not None
    assert went_on.live["0"]["is_complete"] is True, "it was heard while it was made"
    longer = went_on.takes.get()
    assert longer.recipe["continued"] == {"take": take.pk, "sha256": take.sha256, "from_seconds": 1.2}
    assert f"--continue {take.pk} --continue-from 1.2" in longer.recipe_line
    assert (longer.frames, longer.duration_seconds) == (25, 1.7)
    old, new = (audio_of(each) for each in (take, longer))
    assert np.array_equal(new[: len(old) - 320], old[:-320])
    assert verified(longer)[1]["identical"] is True
    takes.delete_take(take)
    assert "is gone from the library" in verified(longer)[1]["error"]
    takes.restore_take(take)
    with transaction.atomic():
        missing = submit(owner, continue_take=take.pk)
        Job.objects.filter(pk=missing.pk).update(continued_take=10**6)
    assert until_ended(missing, JobStatus.FAILED).error_code == "TAKE_GONE"
    take.recipe |= {"temperature": 0.5, "versions": {**take.recipe["versions"], "torch": "1.0"}}
    take.save()
    status, facts = verified(take)
    assert (status, facts["identical"]) == (1, False)
    assert 0 <= facts["departs_at_seconds"] < 0.2
    assert facts["largest_difference"] > 0
    assert facts["changed"] == [f"torch 1.0 then, {version_of('torch')} now"]
    take.recipe |= {"adapters": [{"id": 1, "name": "Jazz", "sha256": "0" * 64, "strength": 1.0}]}
    take.save()
    status, facts = verified(take)
    assert (status, facts["error_code"]) == (1, "NOT_VERIFIABLE")
    assert "The adapter 'Jazz' of this take was deleted." in facts["error"]
    take.is_partial = True
    take.save()
    assert "was cancelled before its end" in verified(take)[1]["error"]
    take.pk = 10**6
    assert verified(take)[1]["error_code"] == "TAKE_NOT_FOUND"

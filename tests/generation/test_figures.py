"""What the studio tells of itself is read from rows: it agrees with them, and costs little however many there are."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.utils import timezone
from prometheus_client import generate_latest

from generation.inside import disk, figures
from generation.inside.collector import studio_registry
from generation.models import EngineHost, Job, JobStatus, Take
from generation.open_sockets import counted, open_sockets
from registry.models import ModelConfig, ModelSwitch, SwitchStage
from tests.generation.music import make_job, make_running_job, make_take

MaxQueries = Callable[[int], AbstractContextManager[Any]]


def scrape() -> dict[str, float]:
    """Every sample of the studio by `name{labels}`."""
    registry = studio_registry()
    return {
        sample.name
        + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def ended(
    owner: User, status: JobStatus, *, frames: int = 100, ago: timedelta = timedelta(0), **fields: Any
) -> Job:
    return make_job(owner, status=status, frames_done=frames, finished_at=timezone.now() - ago, **fields)


def test_the_queue_and_its_oldest_job(home: Path, alice: User) -> None:
    assert scrape()["musicgen_queue_oldest_seconds"] == 0
    make_job(alice, created_at=timezone.now() - timedelta(seconds=90))
    make_job(alice)
    make_running_job(alice, created_at=timezone.now() - timedelta(days=1))
    told = scrape()
    assert (told["musicgen_jobs_queued"], told["musicgen_jobs_running"]) == (2, 1)
    assert 90 <= told["musicgen_queue_oldest_seconds"] < 120


def test_ended_jobs_by_outcome_with_frames_and_audio(home: Path, alice: User) -> None:
    rate = ModelConfig.objects.get(pk="musicgen-demo").tokens_per_second
    for _ in range(2):
        ended(alice, JobStatus.FINISHED, frames=3 * rate)
    ended(alice, JobStatus.FAILED, frames=0)
    make_running_job(alice, frames_done=40)
    told = scrape()
    assert told["musicgen_jobs_ended_total model=musicgen-demo outcome=finished"] == 2
    assert told["musicgen_jobs_ended_total model=musicgen-demo outcome=failed"] == 1
    assert told["musicgen_frames_total model=musicgen-demo outcome=finished"] == 6 * rate
    assert told["musicgen_audio_seconds_total model=musicgen-demo outcome=finished"] == pytest.approx(6)


def test_counts_neither_fall_when_takes_go_nor_start_anew(home: Path, alice: User) -> None:
    make_take(alice)
    Job.objects.update(frames_done=50)
    before = {name: value for name, value in scrape().items() if name.endswith("outcome=finished")}
    assert before
    Take.objects.all().delete()
    after = scrape()
    assert {name: after[name] for name in before} == before


def test_outcomes_of_the_last_day(alice: User) -> None:
    ended(alice, JobStatus.CANCELLED, ago=timedelta(hours=1))
    ended(alice, JobStatus.FINISHED, ago=timedelta(hours=25))
    since = timezone.now() - timedelta(days=1)
    assert figures.outcomes_since(since) == {"finished": 0, "failed": 0, "cancelled": 1}


def test_steps_a_second_of_each_machine(home: Path, alice: User) -> None:
    make_take(alice, frames=300, render_seconds=2.0, host="fast")
    make_take(alice, frames=100, render_seconds=2.0, host="fast")
    make_take(alice, frames=100, render_seconds=10.0, host="slow")
    make_take(
        alice, frames=1, render_seconds=10.0, host="slow", created_at=timezone.now() - timedelta(hours=2)
    )
    told = {each.machine: each.steps_per_second for each in figures.speeds()}
    assert told == {"fast": 100.0, "slow": 10.0}
    assert scrape()["musicgen_steps_per_second machine=fast model=musicgen-demo"] == 100


def test_switch_times_are_those_of_switches_that_succeeded(db: None) -> None:
    now = timezone.now()
    ends = [
        (SwitchStage.READY, 4),
        (SwitchStage.READY, 40),
        (SwitchStage.FAILED, 9),
        (SwitchStage.CANCELLED, 1),
    ]
    for stage, seconds in ends:
        ModelSwitch.objects.create(
            model_id="musicgen-demo",
            stage=stage,
            open_slot=None,
            created_at=now - timedelta(seconds=seconds),
            finished_at=now,
        )
    told = scrape()
    buckets = {
        bound: told[f"musicgen_switch_duration_seconds_bucket le={bound}"]
        for bound in ("2.0", "5.0", "60.0", "+Inf")
    }
    assert buckets == {"2.0": 0, "5.0": 1, "60.0": 2, "+Inf": 2}
    assert told["musicgen_switch_duration_seconds_sum"] == pytest.approx(44)
    outcomes = {
        outcome: told[f"musicgen_switches_total outcome={outcome}"]
        for outcome in ("ready", "failed", "cancelled")
    }
    assert outcomes == {"ready": 2, "failed": 1, "cancelled": 1}


def test_hosts_that_live_and_the_memory_of_their_models(db: None) -> None:
    runner = {"model_id": "musicgen-small", "device": "cuda", "memory_bytes": 5}
    for name, machine, ago in (("a", "one", 0), ("b", "one", 0), ("c", "two", 0), ("d", "gone", 60)):
        heard = timezone.now() - timedelta(seconds=ago)
        EngineHost.objects.create(name=name, hostname=machine, pid=1, runners=[runner], heartbeat_at=heard)
    told = scrape()
    assert told["musicgen_hosts_alive"] == 3
    memory = {name.partition("machine=")[2]: value for name, value in told.items() if "runner_memory" in name}
    # Two processes of one machine are one line: Prometheus refuses the same labels twice.
    assert memory == {"one model=musicgen-small": 10, "two model=musicgen-small": 5}


def test_disk_use_by_part(home: Path, db: None) -> None:
    (home / "takes" / "deep").mkdir(parents=True)
    (home / "takes" / "a.wav").write_bytes(b"x" * 1000)
    (home / "takes" / "deep" / "b.wav").write_bytes(b"x" * 500)
    (home / "takes" / "link").symlink_to("/usr/bin")
    (home / "studio.sqlite3").write_bytes(b"x" * 10)
    disk._seen.clear()
    use = disk.disk_use()
    assert list(use.parts) == ["takes", disk.REST]
    assert use.parts[disk.REST] == 10
    assert 1500 <= use.parts["takes"] < 1600  # the link itself counts, what it leads to does not
    assert scrape()["musicgen_disk_used_bytes part=takes"] == use.parts["takes"]
    assert use.free_bytes > 0


def test_a_disk_that_does_not_answer_hides_nothing_else(
    home: Path, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(home: Path) -> None:
        raise OSError("gone")

    monkeypatch.setattr(disk, "_look", fail)
    disk._seen.clear()
    told = scrape()
    assert "musicgen_jobs_queued" in told
    assert not any("disk" in name for name in told)


@pytest.mark.parametrize(("said", "is_counted"), [("accept", True), ("close", False)])
def test_open_sockets_are_counted_while_they_are_open(said: str, is_counted: bool) -> None:
    seen: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": f"websocket.{said}"})
        seen.append(open_sockets())
        raise ConnectionError("the other side went away")

    async def ignore(message: Any) -> None:
        pass

    before = open_sockets()
    with pytest.raises(ConnectionError):
        async_to_sync(counted(application))({"type": "websocket"}, None, ignore)
    assert seen == [before + is_counted]
    assert open_sockets() == before


def test_a_scrape_of_ten_thousand_jobs_stays_cheap(
    home: Path, alice: User, django_assert_max_num_queries: MaxQueries
) -> None:
    template = make_job(alice)
    now = timezone.now()
    values = {f.attname: getattr(template, f.attname) for f in Job._meta.concrete_fields if f.attname != "id"}
    outcomes = [JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.QUEUED]
    rows = []
    for number in range(10_000):
        status = outcomes[number % 4]
        finished_at = None if status == JobStatus.QUEUED else now - timedelta(seconds=number)
        rows.append(Job(**{**values, "status": status, "finished_at": finished_at, "frames_done": 100}))
    Job.objects.bulk_create(rows, batch_size=500)
    take = make_take(alice)
    of_take = {f.attname: getattr(take, f.attname) for f in Take._meta.concrete_fields if f.attname != "id"}
    made = [
        Take(**{**of_take, "job_id": None, "variation": 0, "file_name": f"{number}.wav", "peaks": [50] * 160})
        for number in range(10_000)
    ]
    Take.objects.bulk_create(made, batch_size=500)
    generate_latest(studio_registry())
    began = time.perf_counter()
    with django_assert_max_num_queries(12):
        generate_latest(studio_registry())
    seconds = time.perf_counter() - began
    print(f"a scrape of 10,000 jobs and takes took {1000 * seconds:.0f} ms")
    assert seconds < 1

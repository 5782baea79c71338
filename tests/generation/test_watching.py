"""A lease is judged by whether it was renewed while we looked, not by any clock of a wall."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from generation import process_identity
from generation.host_row import HostRow
from generation.models import EngineHost, Job, JobStatus
from generation.process_identity import identity_of, is_of_here
from generation.recovery import Recovery
from generation.services import hosts, jobs
from generation.services.watching import StillnessWatch
from tests.generation.music import make_running_job

pytestmark = pytest.mark.django_db


class Clock:
    """A steady clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recovery(clock: Clock, home: Path) -> Recovery:
    """Of a host that looks on, with a lease of 30 s."""
    recovery = Recovery(HostRow(serves_all=True))
    recovery._watch.clock = clock
    return recovery


def looked_for(recovery: Recovery, clock: Clock, seconds: float, *, every: float = 5.0) -> None:
    """Look again and again for so long."""
    for _ in range(int(seconds / every)):
        clock.now += every
        recovery.recover([])


def test_a_lease_that_nobody_renews_runs_out_after_being_watched(
    owner: User, recovery: Recovery, clock: Clock
) -> None:
    job = make_running_job(owner, host="far")
    recovery.recover([])
    looked_for(recovery, clock, 25)
    assert Job.objects.get(pk=job.pk).status == JobStatus.RUNNING
    looked_for(recovery, clock, 5)
    row = Job.objects.get(pk=job.pk)
    assert (row.status, row.attempts) == ("queued", 1)


@pytest.mark.parametrize("jump", [timedelta(hours=3), timedelta(hours=-3)])
def test_a_jump_of_its_holders_clock_costs_a_job_nothing(
    jump: timedelta, owner: User, recovery: Recovery, clock: Clock
) -> None:
    job = make_running_job(owner, host="far")
    for second in range(120):
        # Renewed all the time, but by a clock that is wrong in the middle.
        wrong = jump if 30 < second < 90 else timedelta()
        Job.objects.filter(pk=job.pk).update(
            lease_expires_at=timezone.now() + wrong + timedelta(seconds=second)
        )
        clock.now += 1
        recovery.recover([])
    assert Job.objects.get(pk=job.pk).status == JobStatus.RUNNING
    # And one that stopped renewing with a time in the future does not hold the job until then.
    Job.objects.filter(pk=job.pk).update(lease_expires_at=timezone.now() + timedelta(days=1))
    recovery.recover([])
    looked_for(recovery, clock, 30)
    assert Job.objects.get(pk=job.pk).status == JobStatus.QUEUED


def test_whoever_slept_gives_others_the_time_to_renew(owner: User, recovery: Recovery, clock: Clock) -> None:
    """The database was away, or this process was stopped: one look after an hour proves nothing."""
    job = make_running_job(owner, host="far")
    recovery.recover([])
    clock.now += 3600
    recovery.recover([])
    assert Job.objects.get(pk=job.pk).status == JobStatus.RUNNING


def test_what_is_no_longer_asked_for_is_forgotten(clock: Clock) -> None:
    watch = StillnessWatch(step_bound=10, clock=clock)
    for _ in range(3):
        watch.look()
        watch.still_seconds("a", None)
        watch.end_round()
        clock.now += 5
    watch.look()
    watch.end_round()
    watch.look()
    assert watch.still_seconds("a", None) == 0.0


def test_a_silent_host_of_another_machine_is_forgotten_after_a_while(
    owner: User, recovery: Recovery, clock: Clock, home: Path
) -> None:
    EngineHost.objects.create(name="far", hostname="another-machine", pid=1)
    (home / "scratch" / "far").mkdir(parents=True)
    recovery.recover([])
    looked_for(recovery, clock, 590)
    assert EngineHost.objects.filter(pk="far").exists()
    looked_for(recovery, clock, 15)
    assert not EngineHost.objects.filter(pk="far").exists()
    recovery.recover([])
    assert not (home / "scratch" / "far").exists(), "its half-made files go with it"


def test_heartbeats_are_read_by_the_clock_that_wrote_them(owner: User, settings: object) -> None:
    """A beat stores the database's own time, however wrong this machine's is."""
    row = HostRow(serves_all=True)
    row.announce()
    row.beat(lambda active: {"state": "ready"})
    assert EngineHost.objects.alive().filter(pk=row.name).exists()
    heard = EngineHost.objects.with_silence().get(pk=row.name)
    assert heard.is_alive
    assert abs(heard.silence) < timedelta(seconds=5)
    row.sign_off()


# Which process is which.


def announced(pid: int, **fields: str) -> EngineHost:
    return EngineHost(name="host", hostname="elsewhere", pid=pid, process=identity_of(pid), **fields)


def test_a_process_is_known_by_its_start_and_not_by_a_clock() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    row = announced(process.pid)
    # The hostname says nothing here, nor does the time at which it began.
    row.started_at = timezone.now() - timedelta(days=365)
    assert hosts.process_lives(row) is True
    process.kill()
    assert _until_zombie(process.pid)
    assert hosts.process_lives(row) is False, "dead, though nobody has waited for it yet"
    process.communicate()
    assert hosts.process_lives(row) is False
    row.pid = os.getpid()
    assert hosts.process_lives(row) is False, "its number, now another's"


def _until_zombie(pid: int) -> bool:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return True


def test_nothing_is_told_of_a_process_in_another_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine may bear our name and its number be nobody's here."""
    row = EngineHost(
        name="host", hostname=os.uname().nodename, pid=os.getpid(), process=identity_of(os.getpid())
    )
    assert is_of_here(row.process)
    monkeypatch.setattr(process_identity, "process_space", lambda: "another/pid:[1]")
    assert hosts.process_lives(row) is None


def test_the_job_of_a_host_in_another_container_is_left_to_its_lease(
    owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    EngineHost.objects.create(
        name="far", hostname=os.uname().nodename, pid=2**22 - 1, process="another-boot/pid:[1]/5"
    )
    make_running_job(owner, host="far")
    assert jobs.recover_jobs("host", lapsed=lambda job: False) == 0

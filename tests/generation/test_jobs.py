"""What happens to jobs: changes of status, cancel, retry, dismissal, claims, leases and recovery."""

import os
import platform
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from generation.models import TRANSITIONS, EngineHost, Job, JobStatus
from generation.models.job import MAX_SEED
from generation.services import jobs
from generation.services.refusals import GenerationRefused
from registry.models import ModelConfig
from tests.generation.music import HOST, make_job, make_running_job

ENDED = [JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED]


def put(job: Job, status: str) -> Job:
    """The job as if it had come to that status."""
    lease = {"lease_owner": HOST} if status == JobStatus.RUNNING else {"lease_owner": ""}
    Job.objects.filter(pk=job.pk).update(status=status, **lease)
    job.refresh_from_db()
    return job


# Status.


class TestStatus(TestCase):
    """The table of transitions is the only way, whoever asks in whatever order."""

    @settings(deadline=None)
    @given(st.lists(st.sampled_from(list(JobStatus)), max_size=8))
    def test_every_path_follows_the_table(self, wanted: list[JobStatus]) -> None:
        owner, _ = User.objects.get_or_create(username="owner")
        job = make_job(owner)
        for new in wanted:
            old = job.status
            lease = {"lease_owner": HOST} if new == JobStatus.RUNNING else {}
            if new in TRANSITIONS[old]:
                assert job.change_status(new, **lease)
            else:
                with pytest.raises(ValueError, match=f"A {old} job cannot become {new}"):
                    job.change_status(new, **lease)
            row = Job.objects.get(pk=job.pk)
            assert row.status == job.status == (new if new in TRANSITIONS[old] else old)
            assert bool(row.lease_owner) == (row.status == JobStatus.RUNNING)
            assert row.is_unfinished == (row.status in (JobStatus.QUEUED, JobStatus.RUNNING))

    @settings(deadline=None)
    @given(st.sampled_from(list(JobStatus)), st.sampled_from(list(JobStatus)))
    def test_whoever_read_an_old_row_loses(self, meanwhile: JobStatus, new: JobStatus) -> None:
        owner, _ = User.objects.get_or_create(username="owner")
        job = make_job(owner)
        put(Job.objects.get(pk=job.pk), meanwhile)
        if new not in TRANSITIONS[JobStatus.QUEUED]:
            return
        lease = {"lease_owner": "other"} if new == JobStatus.RUNNING else {}
        changed = job.change_status(new, **lease)
        assert changed == (meanwhile == JobStatus.QUEUED)
        assert Job.objects.get(pk=job.pk).status == (new if changed else meanwhile)
        assert job.status == (new if changed else JobStatus.QUEUED)

    def test_every_status_is_in_the_table(self) -> None:
        assert set(TRANSITIONS) == set(JobStatus)
        assert all(new in JobStatus.values for table in TRANSITIONS.values() for new in table)


@pytest.mark.django_db
def test_only_the_host_that_holds_a_job_changes_it(owner: User) -> None:
    job = make_running_job(owner)
    assert not jobs.end_job(job, JobStatus.FINISHED, host="other")
    assert Job.objects.get(pk=job.pk).status == JobStatus.RUNNING
    assert jobs.end_job(job, JobStatus.FINISHED, host=HOST)
    row = Job.objects.get(pk=job.pk)
    assert (row.status, row.lease_owner, row.lease_expires_at) == ("finished", "", None)
    assert row.finished_at is not None


@pytest.mark.django_db
@pytest.mark.parametrize(
    "values",
    [
        {"duration_seconds": 0},
        {"variations": 0},
        {"status": "lost"},
        {"status": "running", "lease_owner": ""},
    ],
)
def test_the_database_refuses_a_row_that_makes_no_sense(values: dict[str, Any], owner: User) -> None:
    job = make_job(owner)
    with pytest.raises(IntegrityError), transaction.atomic():
        Job.objects.filter(pk=job.pk).update(**values)


@pytest.mark.django_db
def test_seeds_count_up_and_wrap(owner: User) -> None:
    assert make_job(owner, seed=7, variations=3).seeds == [7, 8, 9]
    assert make_job(owner, seed=MAX_SEED, variations=2).seeds == [MAX_SEED, 0]


# Cancel.


@pytest.mark.django_db
def test_a_queued_job_is_cancelled_at_once(owner: User) -> None:
    job = make_job(owner)
    assert jobs.request_cancel(job)
    row = Job.objects.get(pk=job.pk)
    assert row.status == JobStatus.CANCELLED
    assert row.finished_at is not None
    assert jobs.claim_next_job(HOST) is None


@pytest.mark.django_db
def test_a_running_job_is_asked_to_end(owner: User) -> None:
    job = make_running_job(owner)
    assert jobs.request_cancel(job)
    row = Job.objects.get(pk=job.pk)
    assert row.status == JobStatus.RUNNING
    assert row.cancel_requested_at is not None
    assert jobs.write_progress(job, HOST) is True


@pytest.mark.django_db
@pytest.mark.parametrize("status", ENDED)
def test_an_ended_job_is_not_cancelled(status: JobStatus, owner: User) -> None:
    job = put(make_job(owner), status)
    assert not jobs.request_cancel(job)
    row = Job.objects.get(pk=job.pk)
    assert (row.status, row.cancel_requested_at) == (status, None)


@pytest.mark.django_db
def test_a_cancel_meets_the_row_as_it_is_now(owner: User) -> None:
    stale = make_job(owner)
    jobs.claim_next_job(HOST)
    assert jobs.request_cancel(stale)
    assert Job.objects.get(pk=stale.pk).status == JobStatus.RUNNING
    assert Job.objects.get(pk=stale.pk).cancel_requested_at is not None


@pytest.mark.django_db
def test_a_cancelled_job_that_loses_its_engine_is_not_tried_again(owner: User) -> None:
    job = make_running_job(owner)
    jobs.request_cancel(job)
    assert jobs.hand_back(job, HOST, counts_as_attempt=True)
    assert Job.objects.get(pk=job.pk).status == JobStatus.CANCELLED


# Try again, put away.


@pytest.mark.django_db
@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_retry_queues_the_same_request_and_puts_the_card_away(status: JobStatus, owner: User) -> None:
    wanted = {
        "prompt": "low strings", "duration_seconds": 2.5, "seed": 11, "guidance_scale": 4.0,
        "temperature": 0.8, "top_k": 40, "top_p": 0.5, "variations": 2,
    }  # fmt: skip
    job = put(make_job(owner, **wanted, attempts=2), status)
    again = jobs.retry_job(job)
    assert again is not None
    assert again.pk != job.pk
    row = Job.objects.get(pk=again.pk)
    assert {name: getattr(row, name) for name in wanted} == wanted
    assert (row.status, row.attempts, row.owner, row.model_id) == ("queued", 0, owner, "musicgen-demo")
    assert list(Job.objects.on_the_board()) == [row]


@pytest.mark.django_db
@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING])
def test_an_unfinished_job_is_not_retried(status: JobStatus, owner: User) -> None:
    job = put(make_job(owner), status)
    assert jobs.retry_job(job) is None
    assert Job.objects.count() == 1


@pytest.mark.django_db
def test_a_retry_that_is_no_longer_valid_keeps_the_card(owner: User) -> None:
    job = put(make_job(owner, duration_seconds=15), JobStatus.FAILED)
    ModelConfig.objects.filter(pk="musicgen-demo").update(max_duration_seconds=10, max_extended_seconds=None)
    with pytest.raises(GenerationRefused, match="Duration 15s exceeds model limit of 10s"):
        jobs.retry_job(job)
    assert list(Job.objects.on_the_board()) == [job]


@pytest.mark.django_db
@pytest.mark.parametrize("status", JobStatus)
def test_only_a_job_that_ended_badly_is_put_away(status: JobStatus, owner: User) -> None:
    job = put(make_job(owner), status)
    expected = status in (JobStatus.FAILED, JobStatus.CANCELLED)
    assert jobs.dismiss_job(job) == expected
    assert jobs.dismiss_job(job) is False
    assert (Job.objects.get(pk=job.pk).dismissed_at is not None) == expected
    on_the_board = status in (JobStatus.QUEUED, JobStatus.RUNNING)
    assert Job.objects.on_the_board().exists() == on_the_board


# Claims.


@pytest.mark.django_db
def test_the_oldest_queued_job_is_claimed_first(owner: User, bob: User) -> None:
    first, second = make_job(bob), make_job(owner)
    claimed = jobs.claim_next_job(HOST)
    assert claimed == first
    assert (claimed.status, claimed.lease_owner, claimed.attempts) == ("running", HOST, 1)
    assert claimed.started_at is not None
    assert claimed.lease_expires_at is not None
    assert jobs.claim_next_job("other") == second
    assert jobs.claim_next_job("third") is None


@pytest.mark.django_db
def test_a_claim_for_one_job_leaves_the_others(owner: User) -> None:
    make_job(owner)
    mine = make_job(owner)
    assert jobs.claim_next_job(HOST, only_job=mine.pk) == mine
    assert jobs.claim_next_job(HOST, only_job=mine.pk) is None


@pytest.mark.django_db(transaction=True)
def test_of_two_hosts_one_gets_the_job(owner: User) -> None:
    names = [make_job(owner).pk for _ in range(6)]
    claimed: list[tuple[str, int]] = []
    problems: list[Exception] = []
    start = threading.Barrier(2)

    def work(host: str) -> None:
        try:
            start.wait(timeout=30)
            while (job := jobs.claim_next_job(host)) is not None:
                claimed.append((host, job.pk))
        except Exception as problem:  # noqa: BLE001 - whatever it is, the test's thread reports it
            problems.append(problem)
        finally:
            connection.close()

    hosts = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join(timeout=60)
    assert problems == []
    assert sorted(pk for _, pk in claimed) == names
    holders = dict(Job.objects.values_list("pk", "lease_owner"))
    assert holders == {pk: host for host, pk in claimed}


# Progress and leases.


def expired(job: Job) -> bool:
    """Stands in for the watch: the time in the row is over."""
    return job.lease_expires_at is not None and job.lease_expires_at < timezone.now()


@pytest.mark.django_db
def test_progress_renews_the_lease(owner: User) -> None:
    job = make_running_job(owner)
    Job.objects.filter(pk=job.pk).update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    job.stage, job.frames_done, job.frames_total = "generating", 20, 50
    assert jobs.write_progress(job, HOST) is False
    row = Job.objects.get(pk=job.pk)
    assert (row.stage, row.frames_done, row.frames_total) == ("generating", 20, 50)
    assert row.lease_expires_at is not None
    assert row.lease_expires_at > timezone.now() + timedelta(seconds=20)
    assert jobs.recover_jobs("other", lapsed=expired) == 0


@pytest.mark.django_db
def test_progress_of_a_job_that_was_lost_changes_nothing(owner: User) -> None:
    job = make_running_job(owner)
    Job.objects.filter(pk=job.pk).update(lease_owner="other")
    job.frames_done = 20
    assert jobs.write_progress(job, HOST) is None
    assert Job.objects.get(pk=job.pk).frames_done == 0


@pytest.mark.django_db
def test_a_handed_back_job_waits_as_if_new(owner: User) -> None:
    job = make_running_job(owner)
    job.frames_done = 30
    jobs.write_progress(job, HOST)
    assert jobs.hand_back(job, HOST, counts_as_attempt=False)
    row = Job.objects.get(pk=job.pk)
    assert (row.status, row.lease_owner, row.frames_done, row.stage) == ("queued", "", 0, "")
    assert row.attempts == 0


@pytest.mark.django_db
def test_only_its_holder_hands_a_job_back(owner: User) -> None:
    job = make_running_job(owner)
    assert not jobs.hand_back(job, "other", counts_as_attempt=True)
    assert Job.objects.get(pk=job.pk).lease_owner == HOST


@pytest.mark.django_db
def test_a_lease_that_ran_out_is_given_back_once_and_then_fails(owner: User) -> None:
    job = make_running_job(owner, host="sleeper")
    past = timezone.now() - timedelta(seconds=1)

    Job.objects.filter(pk=job.pk).update(lease_expires_at=past)
    assert jobs.recover_jobs(HOST, lapsed=expired) == 1
    row = Job.objects.get(pk=job.pk)
    assert (row.status, row.attempts) == ("queued", 1)
    assert not jobs.end_job(job, JobStatus.FINISHED, host="sleeper"), "the sleeper wakes up too late"

    assert jobs.claim_next_job("sleeper") is not None
    Job.objects.filter(pk=job.pk).update(lease_expires_at=past)
    assert jobs.recover_jobs(HOST, lapsed=expired) == 1
    row = Job.objects.get(pk=job.pk)
    assert (row.status, row.attempts, row.error_code) == ("failed", 2, "ENGINE_STOPPED")
    assert row.error_message == (
        "The engine stopped unexpectedly twice while making this. The machine may be short of memory: "
        "try a shorter duration or a smaller model."
    )
    assert jobs.recover_jobs(HOST, lapsed=expired) == 0


@pytest.mark.django_db
def test_a_lease_that_runs_is_left_alone(owner: User) -> None:
    make_running_job(owner, host="other")
    assert jobs.recover_jobs(HOST, lapsed=expired) == 0


def announce(name: str, **fields: Any) -> EngineHost:
    """A host on this machine."""
    return EngineHost.objects.create(name=name, **{"hostname": platform.node(), "pid": os.getpid(), **fields})


def dead_process() -> int:
    """Number of a process that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


@pytest.mark.django_db
def test_the_job_of_a_dead_process_is_recovered_at_once(owner: User) -> None:
    announce("dead", pid=dead_process())
    announce("alive")
    lost, kept = make_running_job(owner, host="dead"), make_running_job(owner, host="alive")
    assert jobs.recover_jobs(HOST, lapsed=expired) == 1
    assert Job.objects.get(pk=lost.pk).status == JobStatus.QUEUED
    assert Job.objects.get(pk=kept.pk).status == JobStatus.RUNNING
    assert list(EngineHost.objects.values_list("name", flat=True)) == ["alive"]


@pytest.mark.django_db
def test_a_number_that_another_process_was_given_counts_as_dead(owner: User) -> None:
    announce("dead", pid=os.getppid(), started_at=timezone.now() - timedelta(days=365))
    make_running_job(owner, host="dead")
    assert jobs.recover_jobs(HOST, lapsed=expired) == 1


@pytest.mark.django_db
def test_a_host_of_another_machine_is_judged_by_its_lease_only(owner: User) -> None:
    announce("far", hostname="another-machine", pid=dead_process())
    make_running_job(owner, host="far")
    assert jobs.recover_jobs(HOST, lapsed=expired) == 0


@pytest.mark.django_db
def test_a_host_does_not_recover_the_job_it_works_on(owner: User) -> None:
    job = make_running_job(owner)
    Job.objects.filter(pk=job.pk).update(lease_expires_at=timezone.now() - timedelta(hours=1))
    assert jobs.recover_jobs(HOST, lapsed=expired, in_hand=[job.pk]) == 0


@pytest.mark.django_db
def test_a_host_gives_back_what_it_holds_by_its_row_only(owner: User) -> None:
    """Its end could not be written while the database was away, or its claim was never heard of."""
    job = make_running_job(owner)
    assert jobs.recover_jobs(HOST, lapsed=expired, in_hand=[job.pk + 1]) == 1
    row = Job.objects.get(pk=job.pk)
    assert (row.status, row.lease_owner, row.attempts) == ("queued", "", 0)


@pytest.mark.django_db
def test_a_job_both_dead_and_out_of_lease_counts_once(owner: User) -> None:
    announce("dead", pid=dead_process())
    job = make_running_job(owner, host="dead")
    Job.objects.filter(pk=job.pk).update(lease_expires_at=timezone.now() - timedelta(hours=1))
    assert jobs.recover_jobs(HOST, lapsed=expired) == 1
    row = Job.objects.get(pk=job.pk)
    assert (row.status, row.attempts) == ("queued", 1)

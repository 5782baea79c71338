"""Whose turn it is: by seconds of audio between people, in order for one, with models held and places told truly."""

from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.contrib.auth.models import User
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from adapters.models import Adapter
from generation import cards
from generation.events import owner_group
from generation.models import EngineHost, Job, JobAdapter, JobStatus
from generation.services import jobs
from generation.services.submission import GenerationRequest, submit_job
from tests.generation.music import HOST, make_job, make_running_job


def line() -> list[Job]:
    """The queue as it stands."""
    return list(Job.objects.filter(status=JobStatus.QUEUED).in_fair_order())


def claimed() -> list[int]:
    """Every queued job in the order in which one host takes and finishes them."""
    order = []
    while (job := jobs.claim_next_job(HOST)) is not None:
        order.append(job.pk)
        jobs.end_job(job, JobStatus.FINISHED, host=HOST)
    return order


def served(owner: User, *, seconds: float, ago: timedelta = timedelta(0), **fields: Any) -> Job:
    """A job that was carried out."""
    values = {"status": JobStatus.FINISHED, "started_at": timezone.now() - ago, **fields}
    return make_job(owner, duration_seconds=seconds, **values)


@pytest.mark.django_db
def test_a_person_alone_is_served_in_order(alice: User) -> None:
    names = [make_job(alice, duration_seconds=seconds).pk for seconds in (30, 1, 10, 5)]
    assert [job.pk for job in line()] == names
    assert claimed() == names


@pytest.mark.django_db
def test_who_clicks_fastest_gets_no_more_than_others(alice: User, bob: User) -> None:
    hers = [make_job(alice, duration_seconds=10).pk for _ in range(4)]
    his = [make_job(bob, duration_seconds=10).pk for _ in range(2)]
    assert claimed() == [hers[0], his[0], hers[1], his[1], hers[2], hers[3]]


@pytest.mark.django_db
def test_turns_are_counted_in_seconds_not_in_jobs(alice: User, bob: User) -> None:
    hers = [make_job(alice, duration_seconds=10, variations=3).pk for _ in range(2)]
    his = [make_job(bob, duration_seconds=10).pk for _ in range(4)]
    assert claimed() == [hers[0], *his[:3], hers[1], his[3]]


@pytest.mark.django_db
def test_what_was_given_lately_counts(alice: User, bob: User) -> None:
    served(alice, seconds=20)
    hers = make_job(alice, duration_seconds=10).pk
    his = [make_job(bob, duration_seconds=10).pk for _ in range(4)]
    assert claimed() == [*his[:2], hers, *his[2:]]


@pytest.mark.django_db
def test_what_was_given_long_ago_does_not_count(alice: User, bob: User) -> None:
    served(alice, seconds=20, ago=timedelta(minutes=61))
    hers, his = make_job(alice).pk, make_job(bob).pk
    assert claimed() == [hers, his]


@pytest.mark.django_db
def test_a_job_that_runs_counts_as_given(alice: User, bob: User) -> None:
    job = make_running_job(alice, duration_seconds=10)
    Job.objects.filter(pk=job.pk).update(started_at=timezone.now() - timedelta(hours=3))
    hers, his = make_job(alice).pk, make_job(bob).pk
    assert claimed() == [his, hers]


@pytest.mark.django_db
def test_of_a_cancelled_job_only_what_was_made_counts(alice: User, bob: User) -> None:
    served(alice, seconds=30, status=JobStatus.CANCELLED, frames_total=300, frames_done=100)
    served(bob, seconds=30, status=JobStatus.CANCELLED, frames_total=300, frames_done=50)
    served(alice, seconds=30, status=JobStatus.FAILED)
    assert {job.owner_id: vars(job)["fair_start"] for job in [make_job(alice), make_job(bob)] and line()} == {
        alice.pk: 10.0,
        bob.pk: 5.0,
    }


@pytest.mark.django_db
def test_a_held_model_still_goes_first_for_a_while_and_fairly(alice: User, bob: User) -> None:
    served(bob, seconds=30)
    swap = make_job(alice, model_id="musicgen-small").pk
    his = [make_job(bob).pk for _ in range(2)]
    hers = make_job(alice).pk
    first = jobs.claim_next_job(HOST, loaded=["musicgen-demo"])
    assert first is not None
    assert first.pk == hers, "of those that need no swap, it is hers turn"
    Job.objects.filter(pk=swap).update(created_at=timezone.now() - jobs.SWAP_PATIENCE)
    second = jobs.claim_next_job(HOST, loaded=["musicgen-demo"])
    assert second is not None
    assert second.pk == swap, "who has waited long enough is not passed again"
    assert {job.pk for job in line()} == set(his)


@pytest.mark.django_db
def test_the_next_job_is_found_in_one_query(alice: User, bob: User, django_assert_num_queries: Any) -> None:
    for owner in (alice, bob) * 5:
        served(owner, seconds=3)
        make_job(owner)
    with django_assert_num_queries(1):
        first = Job.objects.filter(status=JobStatus.QUEUED).in_fair_order().select_related("model").first()
    assert first is not None


@pytest.mark.django_db
def test_the_place_on_the_card_is_the_order_of_the_claims(alice: User, bob: User) -> None:
    served(bob, seconds=3)
    names = [
        make_job(owner, duration_seconds=s).pk for owner, s in [(bob, 4), (alice, 2), (alice, 9), (bob, 1)]
    ]
    queue = cards.Queue()
    places = {pk: queue.position(Job.objects.get(pk=pk)) for pk in names}
    assert sorted(names, key=lambda pk: places[pk]) == claimed()


@pytest.mark.django_db
def test_the_time_on_the_card_is_what_stands_before_it(alice: User, bob: User) -> None:
    hers = [make_job(alice, duration_seconds=10, seconds_per_frame=0.1) for _ in range(2)]
    his = make_job(bob, duration_seconds=4, seconds_per_frame=0.1)
    queue = cards.Queue()
    frames = queue.remaining_seconds(hers[0])
    assert frames is not None
    assert queue.wait_seconds(his) == frames
    assert queue.wait_seconds(hers[1]) == pytest.approx(frames * 1.4, rel=0.01)


class TestOrder(TestCase):
    """The order told by one query is the one that comes of giving each turn to who was given least."""

    @settings(deadline=None, max_examples=40)
    @given(
        given_before=st.lists(st.integers(0, 20), min_size=3, max_size=3),
        wanted=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(1, 3)), max_size=10),
    )
    def test_it_is_least_given_first(
        self, given_before: list[int], wanted: list[tuple[int, int, int]]
    ) -> None:
        people = [User.objects.get_or_create(username=name)[0] for name in ("a", "b", "c")]
        Job.objects.all().delete()
        for person, seconds in zip(people, given_before, strict=True):
            if seconds:
                served(person, seconds=seconds)
        waiting = [
            make_job(people[who], duration_seconds=seconds, variations=takes)
            for who, seconds, takes in wanted
        ]
        totals = {person.pk: float(s) for person, s in zip(people, given_before, strict=True)}
        expected = []
        while waiting:
            heads = {job.owner_id: job for job in reversed(waiting)}.values()
            turn = min(heads, key=lambda job: (totals[job.owner_id], job.pk))
            totals[turn.owner_id] += turn.duration_seconds * turn.variations
            waiting.remove(turn)
            expected.append(turn.pk)
        assert [job.pk for job in line()] == expected


@pytest.mark.django_db(transaction=True)
def test_whoever_waits_is_told_when_somebody_moves_the_line(alice: User, bob: User) -> None:
    make_job(bob)
    layer = get_channel_layer()
    assert layer is not None

    async def heard(change: Any) -> bool:
        from channels.db import database_sync_to_async

        await layer.flush()
        channel = await layer.new_channel()
        await layer.group_add(owner_group(bob.pk), channel)
        await database_sync_to_async(change)()
        return bool(layer.channels.get(channel)) and not layer.channels[channel].empty()

    job: list[Job] = []
    submit = lambda: job.append(submit_job(owner=alice, request=GenerationRequest("slow piano")))  # noqa: E731
    assert async_to_sync(heard)(submit)
    assert async_to_sync(heard)(lambda: jobs.request_cancel(job[0]))
    make_job(alice, created_at=timezone.now())
    assert async_to_sync(heard)(lambda: jobs.claim_next_job(HOST, only_job=Job.objects.latest("pk").pk))


@pytest.mark.django_db
def test_queries_of_a_submission_do_not_grow_with_the_queue(alice: User, bob: User) -> None:
    from django.db import connection

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            submit_job(owner=alice, request=GenerationRequest("slow piano", duration_seconds=1))
        return len(captured)

    before = queries()
    for _ in range(20):
        make_job(bob)
    assert queries() == before


def with_adapter(job: Job, adapter: Adapter, strength: float = 1.0) -> Job:
    """The job as one that was asked for with that adapter."""
    JobAdapter.objects.create(job=job, adapter=adapter, position=0, name="a", strength=strength)
    return job


@pytest.mark.django_db
def test_only_what_the_same_network_makes_joins(alice: User, bob: User) -> None:
    adapter = Adapter.objects.create(
        name="Jazz", sha256="0" * 64, weights_sha256="a" * 64, file_bytes=1, config={},
        tensor_count=2, rank=4, alpha=8.0, source="folder",
    )  # fmt: skip
    plain = [make_job(alice) for _ in range(2)]
    strong, weak = (with_adapter(make_job(bob), adapter, strength) for strength in (1.0, 0.5))
    another = with_adapter(make_job(alice), adapter)
    in_hand = jobs.claim_next_job(HOST, only_job=plain[0].pk)
    assert in_hand is not None
    assert jobs.claim_job_beside(HOST, in_hand, places=7) == plain[1]
    assert jobs.claim_job_beside(HOST, in_hand, places=7) is None
    in_hand = jobs.claim_next_job(HOST, only_job=strong.pk)
    assert in_hand is not None
    assert jobs.claim_job_beside(HOST, in_hand, places=7) == another
    assert jobs.claim_job_beside(HOST, in_hand, places=7) is None
    assert Job.objects.get(pk=weak.pk).status == JobStatus.QUEUED
    other_model = make_job(alice, model_id="musicgen-small")
    assert jobs.claim_job_beside(HOST, plain[0], places=7) is None
    assert jobs.claim_next_job(HOST, only_job=other_model.pk) == other_model


@pytest.mark.django_db
def test_who_cannot_join_is_passed_for_a_while_only(alice: User, bob: User) -> None:
    in_hand = make_running_job(alice)
    waits = make_job(bob, model_id="musicgen-small")
    passing = make_job(alice)
    assert jobs.claim_job_beside(HOST, in_hand, places=7) == passing
    Job.objects.filter(pk=waits.pk).update(created_at=timezone.now() - jobs.SWAP_PATIENCE)
    make_job(alice)
    assert jobs.claim_job_beside(HOST, in_hand, places=7) is None


@pytest.mark.django_db
def test_what_ended_with_its_engine_has_no_company(alice: User) -> None:
    in_hand = make_running_job(alice)
    again = make_job(alice, attempts=1)
    assert jobs.claim_job_beside(HOST, in_hand, places=7) is None
    alone = jobs.claim_next_job(HOST)
    assert alone == again
    make_job(alice)
    assert jobs.claim_job_beside(HOST, alone, places=7) is None
    assert jobs.claim_job_beside(HOST, in_hand, places=7) is not None


@pytest.mark.django_db
def test_an_idle_host_comes_first(alice: User) -> None:
    in_hand = make_running_job(alice)
    job = make_job(alice)
    EngineHost.objects.create(name="idle", hostname="another", pid=1)
    assert jobs.claim_job_beside(HOST, in_hand, places=7) is None
    Job.objects.filter(pk=job.pk).update(created_at=timezone.now() - jobs.IDLE_HOSTS_FIRST)
    assert jobs.claim_job_beside(HOST, in_hand, places=7) == job


@pytest.mark.django_db
def test_all_takes_of_a_job_find_a_place(alice: User) -> None:
    in_hand = make_running_job(alice)
    four, two = (make_job(alice, variations=takes) for takes in (4, 2))
    assert jobs.claim_job_beside(HOST, in_hand, places=1) is None
    assert jobs.claim_job_beside(HOST, in_hand, places=3) == two
    assert jobs.claim_job_beside(HOST, in_hand, places=4) == four

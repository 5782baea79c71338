"""What one person may ask for in a day: refused with a sentence that helps, the same on page and API."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from gated_configs.wording import THIN_SPACE
from generation.models import Job, JobStatus
from generation.services import jobs
from generation.services.quotas import use_of
from generation.services.refusals import DailyQuotaReached
from generation.services.submission import GenerationRequest, submit_job
from tests.generation.music import make_job

pytestmark = pytest.mark.django_db


@pytest.fixture
def ten_seconds(shared_mode: None, settings: Any) -> None:
    """A studio in which everybody has ten seconds a day."""
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_daily_seconds": 10})


def ask(owner: User, seconds: float, variations: int = 1) -> Job:
    wanted = GenerationRequest("slow piano", duration_seconds=seconds, variations=variations)
    return submit_job(owner=owner, request=wanted)


def test_the_day_is_full_and_the_sentence_says_what_to_do(ten_seconds: None, alice: User, bob: User) -> None:
    first = ask(alice, 4)
    Job.objects.filter(pk=first.pk).update(created_at=timezone.now() - timedelta(hours=21))
    ask(alice, 2, variations=2)
    with pytest.raises(DailyQuotaReached) as refused:
        ask(alice, 3)
    assert str(refused.value).replace(THIN_SPACE, " ") == (
        "You may ask for 10 s of audio in 24 hours and have 2 s left, but this asks for 3 s. "
        "Ask for less, or try again in 3 h."
    )
    facts = refused.value.first.facts
    assert (facts["max_daily_seconds"], facts["used_seconds"], facts["wanted_seconds"]) == (10, 8, 3)
    assert facts["retry_after_seconds"] == pytest.approx(3 * 3600, abs=5)
    assert Job.objects.count() == 2
    ask(alice, 2)
    ask(bob, 10)


def test_what_can_never_be_asked_for_is_told_so(ten_seconds: None, alice: User) -> None:
    with pytest.raises(DailyQuotaReached, match=r"this asks for 12\ss\. Ask for less\.$"):
        ask(alice, 4, variations=3)


def test_after_a_day_it_counts_no_longer(ten_seconds: None, alice: User) -> None:
    job = ask(alice, 10)
    Job.objects.filter(pk=job.pk).update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    ask(alice, 10)


def test_what_was_cancelled_before_it_began_does_not_count(ten_seconds: None, alice: User) -> None:
    jobs.request_cancel(ask(alice, 10))
    ask(alice, 10)
    assert use_of(alice).seconds_today == 10


def test_local_mode_has_no_daily_quota(settings: Any, owner: User) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_daily_seconds": 1})
    ask(owner, 5)
    assert use_of(owner).max_seconds_a_day is None


def test_an_operator_can_lift_it(shared_mode: None, settings: Any, alice: User) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_daily_seconds": 0})
    make_job(alice, duration_seconds=100_000)
    ask(alice, 5)


def test_page_and_api_answer_alike(ten_seconds: None, client: Client, alice: User) -> None:
    client.force_login(alice)
    sent = {"prompt": "slow piano", "duration_seconds": 11}
    answer = client.post("/api/generations", sent, content_type="application/json")
    assert answer.status_code == 429
    assert answer.json()["error_code"] == "DAILY_QUOTA_REACHED"
    page = client.post("/", sent)
    assert page.status_code == 400
    assert answer.json()["error"] in page.content.decode()


@pytest.mark.django_db(transaction=True)
def test_two_requests_at_once_do_not_share_the_last_place(ten_seconds: None, alice: User) -> None:
    start = threading.Barrier(2)
    outcomes: list[str] = []

    def work() -> None:
        try:
            start.wait(timeout=30)
            ask(alice, 6)
            outcomes.append("queued")
        except DailyQuotaReached:
            outcomes.append("refused")
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert sorted(outcomes) == ["queued", "refused"]
    assert Job.objects.filter(status=JobStatus.QUEUED).count() == 1

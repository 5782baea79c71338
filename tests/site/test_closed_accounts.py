"""Who has left can do nothing any more, and nothing of theirs goes on: logins, tokens, jobs, webhooks, mails."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from generation.models import DeliveryStatus, Job, JobStatus
from generation.services.deliveries import claim_delivery
from generation.services.jobs import claim_next_job, end_job
from generation.services.webhooks import create_webhook, send_test
from tests.generation.music import HOST, make_job, make_running_job
from tests.site.people import logged_in, script

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("shared_mode", "home")]


def close(person: User) -> None:
    """As in the admin."""
    person.is_active = False
    person.save()


def test_a_closed_account_opens_nothing(alice: User) -> None:
    page, program = logged_in(alice), script(alice, "generate")
    assert (page.get("/library/").status_code, program.get("/api/takes").status_code) == (200, 200)
    close(alice)
    assert page.get("/library/").status_code == 302
    assert page.get("/api/takes").status_code == 401
    assert page.post("/", {"prompt": "piano", "duration_seconds": "1"}).status_code == 302
    assert program.get("/api/takes").status_code == 401
    answer = Client().post("/login/", {"username": "alice", "password": "alice-password"})
    assert answer.status_code == 200
    assert not Job.objects.exists()


def test_its_jobs_end(alice: User, bob: User) -> None:
    running = make_running_job(alice)
    waiting, of_bob = make_job(alice), make_job(bob)
    close(alice)
    waiting.refresh_from_db()
    running.refresh_from_db()
    of_bob.refresh_from_db()
    assert (waiting.status, of_bob.status) == (JobStatus.CANCELLED, JobStatus.QUEUED)
    assert running.cancel_requested_at is not None, "its engine ends it within a step"


def test_no_engine_takes_a_job_of_it(alice: User) -> None:
    """Also where the account was closed behind everybody's back, in the database; it waits for its owner."""
    job = make_job(alice)
    User.objects.update(is_active=False)
    assert claim_next_job(HOST) is None
    User.objects.update(is_active=True)
    assert claim_next_job(HOST) == job


def test_its_webhooks_are_silent(alice: User, settings: Any) -> None:
    webhook = create_webhook(owner=alice, url="https://example.org/")
    send_test(webhook)
    job = make_running_job(alice)
    close(alice)
    assert claim_delivery() is None
    assert end_job(job, JobStatus.CANCELLED, host=HOST)
    assert claim_delivery() is None
    assert set(webhook.deliveries.values_list("status", flat=True)) == {DeliveryStatus.PENDING}


def test_an_account_that_changes_keeps_its_jobs(alice: User) -> None:
    job = make_job(alice)
    alice.email = "alice@example.org"
    alice.last_login = timezone.now()
    alice.save()
    job.refresh_from_db()
    assert job.status == JobStatus.QUEUED

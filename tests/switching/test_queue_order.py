"""In which order jobs are taken when they need different models: few swaps, and nobody starves."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from generation.models import Job, JobStatus
from generation.services.jobs import SWAP_PATIENCE, claim_next_job
from tests.generation.music import make_job

pytestmark = pytest.mark.django_db

DEMO, SMALL, MEDIUM = "musicgen-demo", "musicgen-small", "musicgen-medium"


def queue(owner: User, *models: str, waited: timedelta = timedelta()) -> list[Job]:
    """Jobs for these models, in this order, that have waited for so long."""
    jobs = [make_job(owner, model_id=model) for model in models]
    Job.objects.filter(pk__in=[job.pk for job in jobs]).update(created_at=timezone.now() - waited)
    return jobs


def taken(*loaded: str) -> list[str]:
    """The models of jobs in the order in which a host takes them that swaps as little as it may."""
    order = []
    held = list(loaded)
    while (job := claim_next_job("host", loaded=held)) is not None:
        order.append(job.model_id)
        held = [job.model_id]  # a machine with room for one
        job.change_status(JobStatus.FINISHED)
    return order


def test_jobs_for_the_loaded_model_pass_others(owner: User) -> None:
    queue(owner, SMALL, DEMO, SMALL, DEMO)
    assert taken(DEMO) == [DEMO, DEMO, SMALL, SMALL], "one swap, not four"


def test_with_several_loaded_the_oldest_of_them_comes_first(owner: User) -> None:
    queue(owner, MEDIUM, SMALL, DEMO)
    first = claim_next_job("host", loaded=[DEMO, SMALL])
    assert first is not None
    assert first.model_id == SMALL


def test_without_anything_loaded_the_oldest_comes_first(owner: User) -> None:
    queue(owner, SMALL, DEMO, SMALL)
    assert taken() == [SMALL, SMALL, DEMO]


def test_nobody_is_passed_for_longer_than_the_patience(owner: User) -> None:
    (patient,) = queue(owner, SMALL, waited=SWAP_PATIENCE - timedelta(seconds=5))
    queue(owner, DEMO)
    first = claim_next_job("host", loaded=[DEMO])
    assert first is not None
    assert first.model_id == DEMO
    queue(owner, DEMO, DEMO)
    Job.objects.filter(pk=patient.pk).update(created_at=timezone.now() - SWAP_PATIENCE - timedelta(seconds=1))
    assert claim_next_job("host", loaded=[DEMO]) == patient


def test_one_that_waited_goes_before_newer_ones_of_the_same_model(owner: User) -> None:
    old, new = queue(owner, SMALL, SMALL)
    assert claim_next_job("host", loaded=[SMALL]) == old
    assert claim_next_job("host", loaded=[SMALL]) == new
    assert claim_next_job("host", loaded=[SMALL]) is None

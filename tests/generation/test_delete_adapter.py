"""Deleting an adapter: what needs it, what becomes of that, and when its file goes. The engine's part: test_proof_run."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from adapters.models import Adapter, AdapterProof
from adapters.services import proofs
from generation import cards
from generation.models import AdapterTrial, Job, JobStatus
from generation.services import jobs
from generation.services.adapters import Dependents, delete_adapter, dependents_of, remove_deleted_weights
from generation.services.job_adapters import AdapterWish
from generation.services.trials import start_trial
from registry.models import ModelConfig
from tests.adapters.conftest import AdapterOn
from tests.generation.adapting import bring_in
from tests.generation.music import HOST
from tests.generation.test_api import assert_refused
from tests.generation.test_job_adapters import made_take, submit
from tests.media_files import weights_file

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def test_what_needs_it_is_told_and_done(owner: User, mono: ModelConfig, jazz: Adapter, funk: Adapter) -> None:
    take = made_take(submit(owner, AdapterWish(jazz.pk, 0.5)))
    queued = submit(owner, AdapterWish(funk.pk), AdapterWish(jazz.pk))
    other = submit(owner, AdapterWish(funk.pk))
    start_trial(owner=owner, adapter=jazz)
    proofs.record_failure(adapter=jazz, model=mono, code="ADAPTER_NO_EFFECT", message="Nothing.")
    recipe = take.recipe
    assert dependents_of(jazz) == Dependents(queued_jobs=3, running_jobs=0, takes=1, trials=1)

    size = weights_file(jazz).stat().st_size
    path = weights_file(jazz)
    removal = delete_adapter(jazz)
    assert (removal.cancelled_jobs, removal.running_jobs, removal.takes) == (3, 0, 1)
    assert removal.freed_bytes == size
    assert not path.exists()
    assert not AdapterProof.objects.exists()
    assert not AdapterTrial.objects.exists()
    queued.refresh_from_db()
    assert (queued.status, queued.error_code) == (JobStatus.CANCELLED, "ADAPTER_DELETED")
    assert queued.finished_at is not None
    assert cards.card_of(queued).error_message == "The adapter 'Jazz v1.0' was deleted."
    other.refresh_from_db()
    assert other.status == JobStatus.QUEUED
    take.refresh_from_db()
    assert (take.recipe, take.adapter_lines) == (recipe, ["Jazz v1.0 0.5"])
    # The comparison's base needed no adapter and waits on, as a job like any other.
    assert Job.objects.filter(status=JobStatus.QUEUED, adapters=None, trial=None).count() == 1


def test_a_file_that_another_adapter_shares_stays(
    mono: ModelConfig, jazz: Adapter, adapter_on: AdapterOn
) -> None:
    twin = bring_in(adapter_on("mono", "whole"), "Swing", base_model=mono.pk)
    assert weights_file(twin) == weights_file(jazz)
    assert delete_adapter(jazz).freed_bytes == 0
    assert weights_file(twin).exists()
    assert delete_adapter(twin).freed_bytes > 0
    assert not weights_file(twin).exists()


def test_a_running_job_keeps_the_file_until_it_is_over(owner: User, jazz: Adapter) -> None:
    submit(owner, AdapterWish(jazz.pk))
    running = jobs.claim_next_job(HOST)
    assert running is not None
    removal = delete_adapter(jazz)
    assert (removal.cancelled_jobs, removal.running_jobs, removal.freed_bytes) == (0, 1, 0)
    assert remove_deleted_weights() == 0
    assert weights_file(jazz).exists()
    jobs.end_job(running, JobStatus.FINISHED, host=HOST)
    assert remove_deleted_weights() > 0
    assert not weights_file(jazz).exists()
    assert remove_deleted_weights() == 0


def test_a_file_that_came_back_stays(
    owner: User, mono: ModelConfig, jazz: Adapter, adapter_on: AdapterOn
) -> None:
    submit(owner, AdapterWish(jazz.pk))
    delete_adapter(jazz)
    back = bring_in(adapter_on("mono", "whole"), "Jazz", base_model=mono.pk)
    assert remove_deleted_weights() == 0
    assert weights_file(back).exists()


# The API.


def test_the_api_deletes(owner: User, jazz: Adapter, client: Client) -> None:
    submit(owner, AdapterWish(jazz.pk))
    answer = client.delete(f"/api/adapters/{jazz.pk}")
    assert answer.status_code == 200
    facts = answer.json()
    assert facts.pop("freed_bytes") > 0
    assert facts == {"cancelled_jobs": 1, "running_jobs": 0, "takes": 0}
    assert not Adapter.objects.exists()
    assert_refused(client.delete(f"/api/adapters/{jazz.pk}"), 404, "ADAPTER_NOT_FOUND")
    assert_refused(client.delete(f"/api/adapters/{10**30}"), 404)


def test_only_staff_delete(shared_mode: None, jazz: Adapter, mallory: User, client: Client) -> None:
    assert_refused(client.delete(f"/api/adapters/{jazz.pk}"), 401)
    client.force_login(mallory)
    assert_refused(client.delete(f"/api/adapters/{jazz.pk}"), 403, "STAFF_ONLY")
    assert Adapter.objects.exists()
    assert weights_file(jazz).exists()

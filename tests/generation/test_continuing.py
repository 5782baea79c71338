"""Going on from a take: whose it may be, from where, how long the whole may get, and what page and API make of it."""

from __future__ import annotations

import json
import platform
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from generation.models import Job
from generation.services import takes
from generation.services.refusals import GenerationRefused, StorageFull
from generation.services.speed import seconds_per_audio_second
from generation.services.storage import promised_bytes
from generation.services.submission import GenerationRequest, submit_job
from tests.generation.music import make_take

pytestmark = pytest.mark.django_db


def submit(owner: User, **fields: Any) -> Job:
    return submit_job(owner=owner, request=GenerationRequest(prompt="piano", **fields))


def test_a_job_keeps_what_it_goes_on_from(owner: User) -> None:
    take = make_take(owner, seconds=2.5)
    job = submit(owner, continue_take=take.pk, duration_seconds=5)
    job.refresh_from_db()
    assert (job.continued_take, job.continued_sha256) == (take.pk, take.sha256)
    assert (job.continued_from_seconds, job.duration_seconds, job.window_seconds) == (2.5, 5, None)
    # What stands there already is written once more.
    assert promised_bytes(owner) == 7.5 * 16000 * 2
    assert submit(owner, continue_take=take.pk, continue_from_seconds=1.5).continued_from_seconds == 1.5


def test_what_is_written_once_more_needs_room(owner: User, settings: Any) -> None:
    take = make_take(owner, seconds=2.5)
    room = (take.file_bytes + 6 * 16000 * 2) / 1e9  # for six seconds
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_person_gb": room})
    submit(owner, duration_seconds=2)
    with pytest.raises(StorageFull):
        submit(owner, duration_seconds=2, continue_take=take.pk)


def test_the_limit_is_that_of_the_whole(owner: User) -> None:
    take = make_take(owner, seconds=2.5)
    assert submit(owner, continue_take=take.pk, duration_seconds=18).window_seconds == 20
    assert submit(owner, continue_take=take.pk, duration_seconds=117.5).duration_seconds == 117.5
    with pytest.raises(GenerationRefused) as refused:
        submit(owner, continue_take=take.pk, duration_seconds=118)
    assert refused.value.first.code == "DURATION_TOO_LONG"
    assert str(refused.value) == (
        "Duration 120.5s (2.5s that are there and 118s more) exceeds model limit of 120s"
    )


@pytest.mark.parametrize("whose", ["nobody's", "somebody's", "deleted"])
def test_only_a_take_of_ones_own_can_be_gone_on_from(whose: str, owner: User, client: Client) -> None:
    bob = User.objects.create_user("bob")
    number = 10**6
    if whose != "nobody's":
        take = make_take(bob if whose == "somebody's" else owner, seconds=2.0)
        number = take.pk
        if whose == "deleted":
            takes.delete_take(take)
    before = Job.objects.count()
    values = {"prompt": "piano", "continue_take": number}
    answer = client.post("/api/generations", json.dumps(values), content_type="application/json")
    assert (answer.status_code, answer.json()["error_code"]) == (400, "TAKE_NOT_FOUND")
    assert "There is no such take" in answer.json()["errors"]["continue_take"]
    assert Job.objects.count() == before
    if whose == "somebody's":
        assert "Goes on from" not in client.get(f"/?continue={number}").content.decode()


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"continue_from_seconds": 0.5}, "continue_from_seconds", "between 1 and 2.5 s"),
        ({"continue_from_seconds": 2.6}, "continue_from_seconds", "between 1 and 2.5 s"),
        ({"continue_from_seconds": float("nan")}, "continue_from_seconds", "between 1 and 2.5 s"),
        ({"model_id": "musicgen-stereo-small"}, "continue_take", "is mono and MusicGen Stereo Small plays stereo"),
        ({"continue_take": None, "continue_from_seconds": 1.0}, "continue_take", "is missing"),
        ({"continue_take": 10**30}, "continue_take", "There is no such take"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_from_is_refused(
    fields: dict[str, Any], field: str, sentence: str, owner: User
) -> None:
    take = make_take(owner, seconds=2.5)
    with pytest.raises(GenerationRefused) as refused:
        submit(owner, **{"continue_take": take.pk, **fields})
    assert list(refused.value.refusals) == [field]
    assert sentence in str(refused.value)


def test_a_short_take_says_that_it_is(owner: User) -> None:
    take = make_take(owner, seconds=0.5)
    with pytest.raises(GenerationRefused, match="too short to go on from"):
        submit(owner, continue_take=take.pk)


def test_the_page_goes_on_from_a_take(owner: User, client: Client) -> None:
    take = make_take(owner, seconds=2.5, prompt="slow harp", title="Evening")
    page = client.get(f"/?continue={take.pk}")
    assert "Goes on from “Evening” at" in page.content.decode()
    form = page.context["form"]
    sent = {name: form[name].value() for name in ("prompt", "continue_take", "continue_from_seconds")}
    assert sent == {"prompt": "slow harp", "continue_take": str(take.pk), "continue_from_seconds": "2.5"}
    answer = client.post("/", {**sent, "continue_from_seconds": "9"})
    assert answer.status_code == 400
    assert "Go on from a moment between 1 and 2.5 s of the take." in answer.content.decode()
    assert client.post("/", {**sent, "duration_seconds": "3"}).status_code == 302
    job = Job.objects.order_by("pk").last()
    assert job is not None
    assert (job.continued_take, job.continued_from_seconds, job.duration_seconds) == (take.pk, 2.5, 3)
    assert f'href="/?continue={take.pk}"' in client.get("/library/").content.decode()


def test_speed_counts_what_was_made(owner: User) -> None:
    take = make_take(owner, seconds=1.0)
    type(take).objects.filter(pk=take.pk).update(frames=25, render_seconds=2.0, host=platform.node())
    assert seconds_per_audio_second("musicgen-demo") == 4.0

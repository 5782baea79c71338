"""A take follows the melody of a clip: asked for, made again, refused, and its clip kept as long as it is needed."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from generation.models import Clip, Job, JobStatus
from generation.retention.rules import Look
from generation.retention.run import RULES_BY_NAME, run_rule
from generation.services import clips, jobs
from generation.services.continuing import SourceGone, melody_file, source_file
from generation.services.refusals import GenerationRefused
from generation.services.submission import GenerationRequest, submit_job
from generation.services.verification import NotVerifiable, request_to_make_again
from registry.models import ModelConfig
from tests.generation.music import make_running_job, recipe_for, save
from tests.generation.sounds import kept, sound

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


@pytest.fixture
def melody(db: None) -> ModelConfig:
    """The active model, as a melody model's row is."""
    ModelConfig.objects.filter(pk="musicgen-demo").update(family="musicgen_melody")
    return ModelConfig.objects.get(pk="musicgen-demo")


def submit(owner: User, **fields: Any) -> Job:
    return submit_job(owner=owner, request=GenerationRequest(prompt="piano", **fields))


def take_after(owner: User, clip: Clip) -> Any:
    job = make_running_job(owner, melody_clip=clip.pk, melody_sha256=clip.sha256)
    take = save(job)
    assert take is not None
    jobs.end_job(job, JobStatus.FINISHED, host=job.lease_owner)
    return take


@pytest.mark.usefixtures("melody")
def test_a_job_follows_a_clip_beside_what_it_goes_on_from(owner: User, client: Client) -> None:
    begun, clip = kept(owner), kept(owner, sound(1.5))
    Clip.objects.update(used_at=timezone.now() - timedelta(days=30))
    values = {"prompt": "piano", "duration_seconds": 5, "continue_clip": begun.pk, "melody_clip": clip.pk}
    answer = client.post("/api/generations", json.dumps(values), content_type="application/json")
    assert answer.status_code == 202
    job = Job.objects.get()
    assert (job.melody_clip, job.melody_sha256, job.continued_clip) == (clip.pk, clip.sha256, begun.pk)
    assert not Clip.objects.filter(used_at__lt=timezone.now() - timedelta(minutes=1)).exists()
    with source_file(job) as source, melody_file(job) as reference:
        assert source is not None
        assert reference is not None
        assert (source.name, reference.name) == (begun.file_name, clip.file_name)
    with melody_file(submit(owner)) as nothing:
        assert nothing is None
    assert recipe_for(job)["melody"] == {"clip": clip.pk, "sha256": clip.sha256}
    Job.objects.filter(pk=job.pk).update(status=JobStatus.FAILED)
    job.refresh_from_db()
    again = jobs.retry_job(job)
    assert again is not None
    assert (again.melody_clip, again.continued_clip) == (clip.pk, begun.pk)


def test_only_ones_own_clip_is_followed_and_only_by_a_melody_model(owner: User, bob: User) -> None:
    clip = kept(owner)
    model = ModelConfig.objects.get(pk="musicgen-demo")
    for person, number, code, sentence in (
        (bob, clip.pk, "CLIP_NOT_FOUND", "There is no such clip to follow. Bring it in again."),
        (owner, 10**30, "CLIP_NOT_FOUND", "There is no such clip to follow. Bring it in again."),
        (
            owner, clip.pk, "MELODY_NOT_SUPPORTED",
            f"{model.display_name} cannot follow a clip. Choose a melody model, or leave the clip out.",
        ),
    ):  # fmt: skip
        with pytest.raises(GenerationRefused) as refused:
            submit(person, melody_clip=number)
        assert list(refused.value.refusals) == ["melody_clip"]
        assert (refused.value.first.code, str(refused.value)) == (code, sentence)
    # Of what was never read nobody knows; its engine says.
    ModelConfig.objects.filter(pk=model.pk).update(family=None)
    assert submit(owner, melody_clip=clip.pk).melody_clip == clip.pk


@pytest.mark.usefixtures("melody")
def test_a_take_is_made_again_after_its_clip(owner: User, client: Client) -> None:
    clip = kept(owner, sound())
    take = take_after(owner, clip)
    assert f"--melody-clip {clip.pk}" in take.recipe_line
    assert request_to_make_again(take).melody_clip == clip.pk
    page = client.get(f"/?take={take.pk}")
    assert page.context["form"]["melody_clip"].value() == str(clip.pk)
    assert "Follows the melody of “my song”" in page.content.decode()
    clips.delete_clip(clip)
    with pytest.raises(NotVerifiable, match=r"The clip that take \d+ follows was deleted. Bring it in again"):
        request_to_make_again(take)
    with pytest.raises(SourceGone, match="The clip that this job follows was removed") as gone:
        melody_file(take.job).__enter__()
    assert gone.value.error_code == "CLIP_GONE"
    again = kept(owner, sound())
    assert request_to_make_again(take).melody_clip == again.pk


@pytest.mark.usefixtures("melody")
def test_the_clip_of_a_melody_stays_while_it_is_needed(owner: User, bob: User) -> None:
    waiting, made, needless = (kept(owner, sound(1 + 0.1 * number)) for number in range(3))
    submit(owner, melody_clip=waiting.pk)
    take = take_after(owner, made)
    take_after(bob, needless)
    Clip.objects.update(used_at=timezone.now() - timedelta(days=8))
    run_rule(RULES_BY_NAME["clips"], Look())
    assert set(Clip.objects.all()) == {waiting, made}
    take.delete()
    run_rule(RULES_BY_NAME["clips"], Look())
    assert list(Clip.objects.all()) == [waiting]


OFFER = "<span data-clip-line>Follow a melody"
HIDDEN = "data-melody hidden disabled>"


def test_the_form_has_the_field_for_melody_models_alone(owner: User, client: Client) -> None:
    page = client.get("/").content.decode()
    assert HIDDEN in page
    assert "data-follows-melody" not in page
    refused = client.post("/", {"prompt": "piano", "melody_clip": str(kept(owner).pk)})
    assert refused.status_code == 400
    text = refused.content.decode()
    assert "cannot follow a clip. Choose a melody model" in text
    assert HIDDEN not in text, "it can be taken out"
    ModelConfig.objects.filter(pk="musicgen-demo").update(family="musicgen_melody")
    page = client.get("/").content.decode()
    assert HIDDEN not in page
    assert OFFER in page
    assert "data-follows-melody" in page


@pytest.mark.usefixtures("melody")
def test_the_page_follows_a_clip(owner: User, client: Client) -> None:
    answer = client.post("/clips/?use=melody", {"melody_file": SimpleUploadedFile("my song.wav", sound())})
    clip = Clip.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/?melody={clip.pk}")
    page = client.get(f"/?melody={clip.pk}")
    text = page.content.decode()
    assert "Follows the melody of “my song”" in text
    assert "Start from a clip" in text
    sent = {
        "prompt": "piano",
        "duration_seconds": "3",
        "melody_clip": page.context["form"]["melody_clip"].value(),
    }
    gone = client.post("/", {**sent, "melody_clip": "1000000"}).content.decode()
    assert 'id="id_melody_hint" data-clip-hint>There is no such clip to follow.' in gone
    assert client.post("/", sent).status_code == 302
    assert Job.objects.get().melody_clip == clip.pk


def test_a_clip_chosen_twice_is_put_away_with_the_second(owner: User, client: Client) -> None:
    clip = kept(owner)
    both = {"continue_clip": str(clip.pk), "melody_clip": str(clip.pk)}
    part = client.post(f"/clips/{clip.pk}/remove/?use=melody", both, headers={"HX-Request": "true"})
    assert OFFER in part.content.decode()
    assert Clip.objects.exists()
    client.post(f"/clips/{clip.pk}/remove/", {"continue_clip": str(clip.pk)})
    assert not Clip.objects.exists()

"""Clips: whose they are, what goes on from them, what they cost, and how they go."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import soundfile
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from gated_configs.wording import spoken_bytes
from generation.clips.decoding import ClipRefused
from generation.models import Clip, Job, JobStatus
from generation.retention.rules import Look
from generation.retention.run import RULES_BY_NAME, Outcome, run_rule
from generation.services import clips, jobs, storage
from generation.services.continuing import SourceGone, source_file
from generation.services.refusals import GenerationRefused, StorageFull
from generation.services.submission import GenerationRequest, submit_job
from generation.services.verification import NotVerifiable, request_to_make_again
from musicgen_site.models import AuditEntry
from registry.media import clips_media
from tests.generation.music import make_running_job, make_take, recipe_for, save, tone
from tests.generation.sounds import kept, send, sound

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def submit(owner: User, **fields: Any) -> Job:
    return submit_job(owner=owner, request=GenerationRequest(prompt="piano", **fields))


def clean(rule: str, **look: bool) -> Outcome:
    outcome = run_rule(RULES_BY_NAME[rule], Look(**look))
    assert outcome.problems == []
    return outcome


def test_clips_are_ones_own(owner: User, bob: User, client: Client, shared_mode: None) -> None:
    clip = kept(owner)
    client.force_login(bob)
    for path in (f"/api/clips/{clip.pk}", f"/api/clips/{clip.pk}/audio"):
        assert client.get(path).status_code == 404
    assert client.delete(f"/api/clips/{clip.pk}").status_code == 404
    assert client.get("/api/clips").json()["clips"] == []
    assert "Goes on from the clip" not in client.get(f"/?clip={clip.pk}").content.decode()
    with pytest.raises(GenerationRefused, match="There is no such clip"):
        submit(bob, continue_clip=clip.pk)


# Going on from one.


def test_a_job_goes_on_from_a_clip_as_from_a_take(owner: User, client: Client) -> None:
    clip = kept(owner, sound(2.5, samplerate=8000, channels=2))
    Clip.objects.update(used_at=timezone.now() - timedelta(days=30))
    values = {"prompt": "piano", "duration_seconds": 5, "continue_clip": clip.pk}
    answer = client.post("/api/generations", json.dumps(values), content_type="application/json")
    assert answer.status_code == 202
    job = Job.objects.get()
    assert (job.continued_clip, job.continued_take, job.continued_sha256) == (clip.pk, None, clip.sha256)
    assert (job.continued_from_seconds, job.duration_seconds) == (2.5, 5)
    assert storage.promised_bytes(owner) == 7.5 * 16000 * 2
    assert Clip.objects.get().used_at > timezone.now() - timedelta(minutes=1)
    with source_file(job) as path:
        assert path is not None
        assert soundfile.info(path).frames == 20000
    recipe = recipe_for(job)
    assert recipe["continued"] == {"clip": clip.pk, "sha256": clip.sha256, "from_seconds": 2.5}
    assert submit(owner, continue_clip=clip.pk, continue_from_seconds=1.5).continued_from_seconds == 1.5
    with pytest.raises(GenerationRefused, match=r"Duration 120.5s \(2.5s that are there"):
        submit(owner, continue_clip=clip.pk, duration_seconds=118)


@pytest.mark.parametrize(
    ("fields", "field", "code", "sentence"),
    [
        ({"continue_clip": 10**30}, "continue_clip", "CLIP_NOT_FOUND", "There is no such clip"),
        ({"continue_clip": 10**6}, "continue_clip", "CLIP_NOT_FOUND", "Bring it in again."),
        ({"continue_take": 1}, "continue_clip", "SOURCE_TWICE", "from a take or from a clip, not from both"),
        ({"continue_from_seconds": 3}, "continue_from_seconds", "PARAMETER_OUT_OF_RANGE", "and 2.5 s of the clip"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_from_is_refused(
    fields: dict[str, Any], field: str, code: str, sentence: str, owner: User
) -> None:
    clip = kept(owner)
    with pytest.raises(GenerationRefused) as refused:
        submit(owner, **{"continue_clip": clip.pk, **fields})
    assert list(refused.value.refusals) == [field]
    assert refused.value.first.code == code
    assert sentence in str(refused.value)


def take_from(owner: User, clip: Clip) -> Any:
    job = make_running_job(
        owner,
        continued_clip=clip.pk,
        continued_sha256=clip.sha256,
        continued_from_seconds=clip.duration_seconds,
    )
    take = save(job)
    assert take is not None
    assert jobs.end_job(job, JobStatus.FINISHED, host=job.lease_owner)
    return take


def test_a_take_is_made_again_from_the_same_audio(owner: User) -> None:
    content = sound()
    clip = kept(owner, content)
    take = take_from(owner, clip)
    assert f"--continue-clip {clip.pk} --continue-from 2.5" in take.recipe_line
    assert request_to_make_again(take).continue_clip == clip.pk
    clips.delete_clip(clip)
    with pytest.raises(NotVerifiable, match="Bring it in again; it is known by its content"):
        request_to_make_again(take)
    with pytest.raises(SourceGone, match="The clip that this job") as gone, source_file(take.job):
        pass
    assert gone.value.error_code == "CLIP_GONE"
    again = kept(owner, content)
    assert again.pk != clip.pk
    assert request_to_make_again(take).continue_clip == again.pk
    with source_file(take.job) as path:
        assert path is not None


def test_a_failed_job_is_tried_again_from_its_clip(owner: User) -> None:
    clip = kept(owner)
    job = submit(owner, continue_clip=clip.pk, continue_from_seconds=2.0)
    Job.objects.filter(pk=job.pk).update(status=JobStatus.FAILED)
    job.refresh_from_db()
    again = jobs.retry_job(job)
    assert again is not None
    assert (again.continued_clip, again.continued_from_seconds) == (clip.pk, 2.0)


def test_the_page_goes_on_from_a_clip(owner: User, client: Client) -> None:
    upload = SimpleUploadedFile("my song.wav", sound())
    answer = client.post("/clips/", {"file": upload})
    clip = Clip.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/?clip={clip.pk}")
    page = client.get(f"/?clip={clip.pk}")
    text = page.content.decode()
    assert "Goes on from the clip “my song” at" in text
    assert f'src="{clip.audio_url}"' in text
    form = page.context["form"]
    sent = {name: form[name].value() for name in ("continue_clip", "continue_from_seconds")}
    assert sent == {"continue_clip": str(clip.pk), "continue_from_seconds": "2.5"}
    refused = client.post("/", {**sent, "prompt": "piano", "continue_from_seconds": "9"})
    assert refused.status_code == 400
    assert "Go on from a moment between 1 and 2.5 s of the clip." in refused.content.decode()
    gone = client.post("/", {**sent, "prompt": "piano", "continue_clip": "1000000"})
    assert "There is no such clip to go on from." in gone.content.decode()
    assert client.post("/", {**sent, "prompt": "piano", "duration_seconds": "3"}).status_code == 302
    job = Job.objects.get()
    assert (job.continued_clip, job.continued_from_seconds, job.duration_seconds) == (clip.pk, 2.5, 3)
    take = take_from(owner, clip)
    assert client.get(f"/?take={take.pk}").context["form"]["continue_clip"].value() == str(clip.pk)
    client.post(f"/clips/{clip.pk}/remove/")
    assert Clip.objects.exists(), "a take was made from it"


def test_a_long_clip_leaves_room_for_what_is_added(owner: User, client: Client) -> None:
    clip = kept(owner, sound(118.0, samplerate=8000))
    form = client.get(f"/?clip={clip.pk}").context["form"]
    # Of the demo's 120 s without the 8 s that it recommends.
    assert form["continue_from_seconds"].value() == "112"


def test_a_refused_upload_says_why_in_place(client: Client) -> None:
    answer = client.post(
        "/clips/", {"file": SimpleUploadedFile("a.wav", b"no")}, headers={"HX-Request": "true"}
    )
    assert answer.status_code == 400
    assert 'id="id_clip_hint" data-clip-hint>This is no sound file' in answer.content.decode()
    answer = client.post("/clips/", {}, follow=True)
    assert "Choose a sound file" in answer.content.decode()


def test_a_command_names_a_clip_by_file_or_number(owner: User, tmp_path: Path) -> None:
    path = tmp_path / "a song.wav"
    path.write_bytes(sound())
    number = clips.clip_named(str(path), owner=owner)
    assert Clip.objects.get().title == "a song"
    assert clips.clip_named(str(number), owner=owner) == number
    with pytest.raises(ClipRefused, match="There is no file /nowhere"):
        clips.clip_named("/nowhere", owner=owner)


def test_a_disk_that_refuses_is_a_refusal(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ClipRefused, match="Free some space") as refused:
        kept(owner)
    assert refused.value.code == "DISK_FULL"
    assert list(clips_media().entries()) == []


# What they cost, and how they go.


@pytest.fixture
def studio(settings: Any) -> Callable[..., None]:
    """Set the operator's settings."""

    def change(**values: Any) -> None:
        settings.STUDIO = settings.STUDIO.model_copy(update=values)

    return change


def test_clips_count_as_storage(owner: User, studio: Callable[..., None], client: Client, home: Path) -> None:
    take, clip = make_take(owner), kept(owner)
    used = take.file_bytes + clip.file_bytes
    answer = client.get("/api/storage").json()
    assert (answer["used_bytes"], answer["clip_bytes"]) == (used, clip.file_bytes)
    assert storage.total_storage().used_bytes == used
    spoken = f"Your takes use {spoken_bytes(used)}, of it clips {spoken_bytes(clip.file_bytes)}."
    assert spoken in client.get("/library/").content.decode()
    assert storage.largest_users(3)[0].used_bytes == used
    studio(max_person_gb=(used + 100) / 1e9)
    answer = send(client, sound(1.2))
    assert (answer.status_code, answer.json()["error_code"]) == (507, "STORAGE_FULL")
    assert len(list((home / "clips").iterdir())) == Clip.objects.count() == 1
    studio(max_person_gb=0, max_takes_gb=(used + 100) / 1e9)
    with pytest.raises(StorageFull):
        submit(owner, duration_seconds=1)
    # What rules may remove makes room, clips do not.
    studio(max_takes_gb=0, max_person_gb=(2 * 32000 + 100) / 1e9, when_full="remove-oldest")
    with pytest.raises(StorageFull):
        submit(owner, duration_seconds=2)
    studio(max_person_gb=(clip.file_bytes + 2 * 32000 + 100) / 1e9)
    assert submit(owner, duration_seconds=2).pk
    assert [removal.what for removal in clean("limits").removed] == [f"take {take.pk} of {owner.username}"]
    assert list(Clip.objects.all()) == [clip]


def test_a_clip_that_nobody_needs_goes_after_a_week(owner: User, bob: User, home: Path) -> None:
    waiting, made, lately, needless, bobs = (
        kept(person, sound(1 + 0.1 * number))
        for number, person in enumerate((owner, owner, owner, owner, bob))
    )
    submit(owner, continue_clip=waiting.pk)
    take = take_from(owner, made)
    # Somebody else's take of the same audio keeps nobody's clip.
    take_from(bob, needless)
    Clip.objects.exclude(pk=lately.pk).update(used_at=timezone.now() - timedelta(days=8))
    assert clean("clips", only_tells=True).freed_bytes == needless.file_bytes + bobs.file_bytes
    outcome = clean("clips")
    assert len(outcome.removed) == 2
    assert set(Clip.objects.values_list("pk", flat=True)) == {waiting.pk, made.pk, lately.pk}
    assert {path.name for path in (home / "clips").iterdir()} == {
        clip.file_name for clip in Clip.objects.all()
    }
    assert AuditEntry.objects.filter(action="clip.removed", way="clean-up").count() == 2
    take.delete()
    assert len(clean("clips").removed) == 1
    assert set(Clip.objects.values_list("pk", flat=True)) == {waiting.pk, lately.pk}


def test_one_that_was_put_away_goes_where_nothing_was_made_from_it(owner: User) -> None:
    used, unused = kept(owner), kept(owner, sound(1.5))
    take_from(owner, used)
    assert [clips.put_away(clip) for clip in (used, unused)] == [False, True]
    assert list(Clip.objects.all()) == [used]


def test_files_without_a_row_are_found(owner: User, home: Path) -> None:
    clip = kept(owner)
    stray = home / "clips" / "20260101-0123456789abcdef.flac"
    tone(stray.with_suffix(".wav")).rename(stray)
    os.utime(stray, (0, 0))
    os.utime(home / "clips" / clip.file_name, (0, 0))
    clean("orphans")
    assert {path.name for path in (home / "clips").iterdir()} == {clip.file_name, "orphans"}

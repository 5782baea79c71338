"""Comparing by ear: three jobs of one prompt and seed, their takes, and levels that match."""

from pathlib import Path
from typing import Any

import pytest
import soundfile
from django.contrib.auth.models import User
from django.test import Client

from adapters.models import Adapter
from generation import audio_files, cards
from generation.models import AdapterTrial, Job, JobStatus, Take
from generation.services import jobs, trials
from generation.services.refusals import GenerationRefused, QueueFull
from generation.services.submission import GenerationRequest, submit_job
from registry.models import ModelConfig
from tests.adapters.conftest import AdapterOn, CheckpointOf
from tests.conftest import bring_kernels
from tests.generation.adapting import bring_in, dwarf_model
from tests.generation.music import HOST, make_take, recipe_for, save, tone
from tests.generation.test_api import assert_refused, post
from tests.generation.test_dispatcher import Engine, engine, until_ended
from tests.generation.test_job_adapters import made_take
from tests.media_files import take_file

__all__ = ["engine"]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def test_three_jobs_differ_in_the_strength_alone(owner: User, mono: ModelConfig, jazz: Adapter) -> None:
    trial = trials.start_trial(owner=owner, adapter=jazz, prompt=" slow piano ", duration_seconds=0.5)
    parts = trials.parts_of(trial)
    assert [(part.label, part.strength) for part in parts] == [
        ("Base", 0.0),
        ("Strength 0.5", 0.5),
        ("Strength 1", 1.0),
    ]
    assert [list(part.job.adapters.values_list("adapter", "strength")) for part in parts] == [
        [],
        [(jazz.pk, 0.5)],
        [(jazz.pk, 1.0)],
    ]
    asked = {(part.job.prompt, part.job.seed, part.job.duration_seconds, part.job.model_id) for part in parts}
    assert asked == {("slow piano", trial.seed, 0.5, mono.pk)}
    assert [part.take for part in parts] == [None] * 3


def test_defaults(owner: User, mono: ModelConfig, jazz: Adapter) -> None:
    first = trials.start_trial(owner=owner, adapter=jazz)
    assert (first.prompt, first.model) == (trials.DEFAULT_PROMPT, mono)
    assert first.duration_seconds == mono.default_duration_seconds
    jazz.trigger_words = "smoky jazz bar"
    second = trials.start_trial(owner=owner, adapter=jazz, prompt=" ")
    assert second.prompt.startswith("smoky jazz bar ")
    assert first.seed != second.seed


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"duration_seconds": 1000}, "duration_seconds"),
        ({"seed": -1}, "seed"),
        ({"model_id": "no-such"}, "model"),
        ({"prompt": "x" * 2000}, "prompt"),
    ],
)
def test_what_a_job_refuses_a_trial_refuses(
    owner: User, jazz: Adapter, wish: dict[str, Any], field: str
) -> None:
    with pytest.raises(GenerationRefused) as refused:
        trials.start_trial(owner=owner, adapter=jazz, **wish)
    assert list(refused.value.refusals) == [field]
    assert not Job.objects.exists()
    assert not AdapterTrial.objects.exists()


def test_an_adapter_that_does_not_fit_is_refused(
    owner: User, mono: ModelConfig, checkpoint_of: CheckpointOf, adapter_on: AdapterOn
) -> None:
    wide = dwarf_model("wide", checkpoint_of("wide"))
    other = bring_in(adapter_on("wide", "whole"), "Orchestra HD", base_model=wide.pk)
    with pytest.raises(GenerationRefused, match="requires Dwarf Wide, but Dwarf Mono is active"):
        trials.start_trial(owner=owner, adapter=other)
    assert trials.start_trial(owner=owner, adapter=other, model_id=wide.pk).model == wide


def test_all_or_none_fit_the_queue(owner: User, jazz: Adapter, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_queued_jobs": 2})
    with pytest.raises(QueueFull):
        trials.start_trial(owner=owner, adapter=jazz)
    assert not Job.objects.exists()
    assert not AdapterTrial.objects.exists()


def test_its_takes_have_titles_and_stay_out_of_the_studio(owner: User, jazz: Adapter, client: Client) -> None:
    trial = trials.start_trial(owner=owner, adapter=jazz)
    made = [made_take(part.job) for part in trials.parts_of(trial)]
    assert [take.title for take in made] == ["Base", "Jazz v1.0 at 0.5", "Jazz v1.0 at 1"]
    ordinary = make_take(owner)
    assert cards.recent_takes(owner) == [ordinary]
    assert client.get("/library/").context["total"] == 4
    assert [part.take for part in trials.parts_of(trial)] == made


def test_a_job_that_is_tried_again_takes_its_place(owner: User, jazz: Adapter) -> None:
    trial = trials.start_trial(owner=owner, adapter=jazz)
    half = trials.parts_of(trial)[1].job
    jobs.request_cancel(half)
    again = jobs.retry_job(half)
    parts = trials.parts_of(trial)
    assert len(parts) == 3
    assert parts[1].job == again


def test_cancelling_ends_what_is_not_over(owner: User, jazz: Adapter) -> None:
    trial = trials.start_trial(owner=owner, adapter=jazz)
    made_take(trials.parts_of(trial)[0].job)
    assert trials.cancel_trial(trial) == 2
    assert sorted(trial.jobs.values_list("status", flat=True)) == ["cancelled", "cancelled", "finished"]
    assert trials.cancel_trial(trial) == 0


# Levels.


def test_levels_match_downwards(owner: User) -> None:
    takes = [make_take(owner, level=level) for level in (0.5, 0.05, 0.25)]
    assert [round(take.rms_dbfs or 0, 1) for take in takes] == [-13.8, -33.8, -19.8]
    gains = trials.gains_db(takes)
    assert max(gains.values()) == gains[takes[1].pk] == 0
    assert {round((take.rms_dbfs or 0) + gains[take.pk], 1) for take in takes} == {-33.8}
    for take in takes:
        samples = soundfile.read(take_file(take))[0] * 10 ** (gains[take.pk] / 20)
        assert audio_files.level_of(samples[:, None]) == pytest.approx(-33.8, abs=0.05)


def test_silence_and_takes_without_a_level_stay_as_they_are(owner: User) -> None:
    loud, silent, old = make_take(owner), make_take(owner, level=0.0), make_take(owner)
    assert silent.rms_dbfs is None
    Take.objects.filter(pk=old.pk).update(rms_dbfs=None)
    old.refresh_from_db()
    assert trials.gains_db([loud, silent, old]) == {loud.pk: 0.0}
    assert trials.gains_db([]) == {}


def test_both_channels_count(tmp_path: Any) -> None:
    samples = soundfile.read(tone(tmp_path / "a.wav", channels=2), always_2d=True)[0]
    samples[:, 1] = 0
    one = audio_files.level_of(samples[:, :1])
    assert one is not None
    assert audio_files.level_of(samples) == pytest.approx(one - 3.01, abs=0.01)


# The API.


def test_the_api_starts_and_shows_one(owner: User, mono: ModelConfig, jazz: Adapter, client: Client) -> None:
    answer = post(
        client,
        {"prompt": "piano", "seed": 9, "duration_seconds": 0.5},
        path=f"/api/adapters/{jazz.pk}/trials",
    )
    assert answer.status_code == 202
    trial = answer.json()
    assert (trial["adapter_id"], trial["model"], trial["seed"], trial["is_finished"]) == (
        jazz.pk,
        mono.pk,
        9,
        False,
    )
    assert [(part["label"], part["take"], part["job"]["status"]) for part in trial["parts"]] == [
        ("Base", None, "queued"),
        ("Strength 0.5", None, "queued"),
        ("Strength 1", None, "queued"),
    ]
    for part, level in zip(trial["parts"], (0.5, 0.25, 0.4), strict=True):
        _finish(Job.objects.get(pk=part["job"]["id"]), level)
    shown = client.get(f"/api/trials/{trial['id']}").json()
    assert shown["is_finished"] is True
    assert [round(part["gain_db"], 1) for part in shown["parts"]] == [-6.0, 0, -4.1]
    assert [part["take"]["title"] for part in shown["parts"]] == [
        "Base",
        "Jazz v1.0 at 0.5",
        "Jazz v1.0 at 1",
    ]


def _finish(job: Job, level: float) -> None:
    claimed = jobs.claim_next_job(HOST, only_job=job.pk)
    assert claimed is not None
    save(claimed, level=level, recipe=recipe_for(claimed, adapters=list(claimed.adapters.all())))
    jobs.end_job(claimed, JobStatus.FINISHED, host=HOST)


def test_the_api_refuses_in_the_one_shape(jazz: Adapter, client: Client) -> None:
    path = f"/api/adapters/{jazz.pk}/trials"
    assert_refused(post(client, {"duration_seconds": 1000}, path=path), 400, "DURATION_TOO_LONG")
    assert_refused(post(client, {"strength": 1}, path=path), 400, "INVALID_REQUEST")
    assert_refused(post(client, {}, path="/api/adapters/999/trials"), 404, "ADAPTER_NOT_FOUND")
    assert_refused(client.get("/api/trials/999"), 404, "NOT_FOUND")
    assert_refused(client.get(f"/api/trials/{10**30}"), 404)


def test_a_trial_is_its_owners(
    shared_mode: None, alice: User, bob: User, jazz: Adapter, client: Client
) -> None:
    trial = trials.start_trial(owner=alice, adapter=jazz)
    assert_refused(client.get(f"/api/trials/{trial.pk}"), 401)
    client.force_login(bob)
    assert_refused(client.get(f"/api/trials/{trial.pk}"), 404, "NOT_FOUND")
    assert post(client, {}, path=f"/api/adapters/{jazz.pk}/trials").status_code == 202, "anybody may compare"


# With the engine.


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
class TestRendered:
    """One comparison through the real engine."""

    @pytest.fixture(autouse=True)
    def _uses_engine(self, engine: Engine, home: Path, kernels_folder: Path) -> None:
        """Its every test."""
        bring_kernels(kernels_folder, home)

    def test_the_three_sound_different_and_the_base_is_the_base(
        self, owner: User, mono: ModelConfig, jazz: Adapter
    ) -> None:
        trial = trials.start_trial(owner=owner, adapter=jazz, duration_seconds=0.3, seed=4)
        for job in trial.jobs.all():
            until_ended(job)
        parts = trials.parts_of(trial)
        sounds = [
            soundfile.read(take_file(part.take), dtype="int16")[0].tobytes() for part in parts if part.take
        ]
        assert len(set(sounds)) == 3
        levels = {round((part.take.rms_dbfs or 0) + part.gain_db, 2) for part in parts if part.take}
        assert len(levels) == 1, "they are equally loud"
        alone = GenerationRequest(prompt=trial.prompt, seed=4, duration_seconds=0.3)
        base = until_ended(submit_job(owner=owner, request=alone)).takes.get()
        assert soundfile.read(take_file(base), dtype="int16")[0].tobytes() == sounds[0]

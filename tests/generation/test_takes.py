"""Keeping takes: file before row, one per variation, rename, delete with a way back, and what goes for good."""

import hashlib
import json
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from django.contrib.auth.models import User
from django.utils import timezone

from generation import audio_files
from generation.models import Job, JobStatus, Take
from generation.services import jobs, takes
from generation.services.speed import seconds_per_audio_second
from tests.generation.music import HOST, make_running_job, make_take, recipe_for, save, tone
from tests.media_files import take_file

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def files_in(folder: Path) -> list[str]:
    """Names of every file below, hidden ones included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Save.


def test_a_saved_take_has_a_file_a_row_and_a_recipe(home: Path, owner: User) -> None:
    job = make_running_job(owner, prompt="low strings", seed=11)
    take = save(job)
    assert take is not None
    assert files_in(home) == [f"takes/{take.file_name}"], "the runner's file is gone"
    content = take_file(take).read_bytes()
    assert (take.file_bytes, take.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    row = Take.objects.get()
    assert (row.owner, row.job, row.model_id) == (owner, job, "musicgen-demo")
    assert (row.prompt, row.seed, row.variation, row.is_partial) == ("low strings", 11, 0, False)
    assert (row.sample_rate, row.channels, row.frames, row.duration_seconds) == (16000, 1, 50, 1.0)
    assert (row.render_seconds, row.host) == (2.0, "machine")
    assert row.recipe["gain_db"] == 0
    assert row.recipe["licence"] == "Apache-2.0"
    assert audio_files.read_recipe(take_file(take)) == row.recipe


def test_the_file_lies_there_before_the_row(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    original = Take.save

    def watched(take: Take, *args: Any, **kwargs: Any) -> None:
        seen.append(take_file(take).is_file() and take_file(take).stat().st_size == take.file_bytes)
        original(take, *args, **kwargs)

    monkeypatch.setattr(Take, "save", watched)
    assert save(make_running_job(owner)) is not None
    assert seen == [True]


@pytest.mark.parametrize("happened", ["another host has it", "it was cancelled", "it was removed"])
def test_a_host_that_lost_the_job_saves_nothing(happened: str, home: Path, owner: User) -> None:
    job = make_running_job(owner)
    row = Job.objects.filter(pk=job.pk)
    if happened == "another host has it":
        row.update(lease_owner="other")
    elif happened == "it was cancelled":
        row.update(status=JobStatus.CANCELLED, lease_owner="")
    else:
        row.delete()
    assert save(job) is None
    assert not Take.objects.exists()
    assert files_in(home) == []


def test_a_variation_made_twice_is_kept_once(home: Path, owner: User) -> None:
    job = make_running_job(owner)
    first = save(job, level=0.3)
    second = save(job, level=0.6)
    assert first is not None
    assert second == first
    assert files_in(home) == [f"takes/{first.file_name}"]
    assert hashlib.sha256(take_file(first).read_bytes()).hexdigest() == Take.objects.get().sha256


def test_each_variation_is_a_take(owner: User) -> None:
    job = make_running_job(owner, variations=2)
    for variation in range(2):
        assert save(job, variation=variation) is not None
    assert list(Take.objects.order_by("id").values_list("variation", "seed")) == [(0, 7), (1, 8)]


@pytest.mark.parametrize(
    "problem", [OSError("disk full"), RuntimeError("database away")], ids=["disk", "database"]
)
def test_a_failure_leaves_neither_row_nor_file(
    problem: Exception, home: Path, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise problem

    job = make_running_job(owner)
    if isinstance(problem, OSError):
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(Take, "save", fail)
    with pytest.raises(type(problem), match=str(problem)):
        save(job)
    assert not Take.objects.exists()
    assert files_in(home) == []


def test_a_partial_take_says_so(owner: User) -> None:
    take = save(make_running_job(owner), is_partial=True, seconds=0.4)
    assert take is not None
    assert take.is_partial
    assert take.recipe["is_partial"]
    assert take.duration_seconds == pytest.approx(0.4)


def test_a_recipe_of_the_same_job_is_the_same(owner: User) -> None:
    job = make_running_job(owner)
    assert recipe_for(job) == recipe_for(Job.objects.get(pk=job.pk))
    wanted = {"prompt", "duration_seconds", "seed", "guidance_scale", "temperature", "top_k", "top_p", "model",
              "hf_model_id", "revision", "versions", "licence", "licence_url", "studio_version"}  # fmt: skip
    assert wanted <= set(recipe_for(job))


# Loudness.


@pytest.mark.parametrize("level", [0.5, 0.99, 1.5, 8.0])
def test_a_loud_take_is_turned_down_and_never_clipped(level: float, owner: User) -> None:
    take = save(make_running_job(owner), level=level)
    assert take is not None
    source = tone(take_file(take).with_name("again.wav"), level=level)
    wanted, _ = soundfile.read(source, dtype="float32")
    made, _ = soundfile.read(take_file(take), dtype="float32")
    gain = min(1.0, 0.99 / float(np.abs(wanted).max()))
    assert np.abs(made).max() <= 0.9901
    assert np.allclose(made, wanted * gain, atol=2 / 32768), "its shape is kept, so nothing was cut off"
    assert take.recipe["gain_db"] == pytest.approx(20 * np.log10(gain), abs=0.01)


def test_peaks_follow_the_sound(owner: User) -> None:
    take = save(make_running_job(owner), level=0.8)
    assert take is not None
    assert 100 < len(take.peaks) <= 200
    assert all(isinstance(peak, int) and 0 <= peak <= 100 for peak in take.peaks)
    assert take.peaks[0] <= 2
    assert take.peaks[len(take.peaks) // 2] == pytest.approx(40, abs=2)
    assert take.peaks[-1] == pytest.approx(80, abs=2)
    assert take.waveform_path.count("M") == len(take.peaks)
    assert "nan" not in take.waveform_path


# Formats.


@pytest.mark.parametrize("channels", [1, 2], ids=["mono", "stereo"])
@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3"])
def test_every_format_sounds_the_same_and_carries_the_recipe(
    name: str, channels: int, tmp_path: Path
) -> None:
    recipe = {"prompt": 'piano “слово” 🎹 \\ "', "seed": 7, "studio_version": "0", "licence": "CC-BY-NC 4.0"}
    source = tone(tmp_path / "a.wav", seconds=2, sample_rate=32000, channels=channels)
    wav = tmp_path / "take.wav"
    audio_files.write_take_file(source, wav, recipe)
    path = tmp_path / f"converted.{name}"
    audio_files.convert(wav, path, audio_files.audio_format(name.upper()), recipe)
    assert soundfile.info(path).format in {"WAV", "FLAC", "OGG", "MP3", "MPEG"}
    assert audio_files.read_recipe(path) == recipe
    made, rate = soundfile.read(path, always_2d=True)
    wanted, _ = soundfile.read(wav, always_2d=True)
    assert rate == 32000
    assert made.shape[1] == channels
    assert abs(len(made) - len(wanted)) <= (2400 if name == "mp3" else 0)
    length = min(len(made), len(wanted))
    error = np.sqrt(np.mean((made[:length] - wanted[:length]) ** 2)) / np.sqrt(np.mean(wanted**2))
    assert error < (1e-6 if name in ("wav", "flac") else 0.1)


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3"])
def test_a_minute_of_audio_survives_every_format(name: str, tmp_path: Path) -> None:
    source = tone(tmp_path / "a.wav", seconds=60, sample_rate=16000)
    audio_files.convert(source, tmp_path / f"b.{name}", audio_files.audio_format(name), {"prompt": "long"})
    assert soundfile.info(tmp_path / f"b.{name}").duration == pytest.approx(60, abs=0.2)


@pytest.mark.parametrize("name", ["opus", "", "wave", "../wav", "a" * 100])
def test_an_unknown_format_is_named_with_the_choices(name: str) -> None:
    with pytest.raises(audio_files.UnknownFormat) as refused:
        audio_files.audio_format(name)
    assert str(refused.value) == f"'{name[:40]}' is not a format. Choose one of: wav, flac, ogg, mp3."


def content_in(take: Take, name: str) -> bytes:
    """What is in the take's file in that format."""
    with closing(takes.opened_in_format(take, audio_files.audio_format(name))) as opened:
        return opened.stream().read()


def test_a_conversion_is_made_once(home: Path, owner: User) -> None:
    take = make_take(owner)
    content = content_in(take, "flac")
    path = takes.converted_folder() / f"{Path(take.file_name).stem}.flac"
    assert content == path.read_bytes()
    made = path.stat().st_ino
    assert content_in(take, "flac") == content
    assert path.stat().st_ino == made
    assert files_in(home / "cache") == [f"converted/{path.name}"]


def test_a_missing_file_is_explained(owner: User) -> None:
    take = make_take(owner)
    take_file(take).unlink()
    for name in ("wav", "flac"):
        with pytest.raises(takes.TakeFileMissing, match=f"The audio file of take {take.pk} is gone"):
            content_in(take, name)


def test_a_file_of_somebody_else_holds_no_recipe(tmp_path: Path) -> None:
    assert audio_files.read_recipe(tone(tmp_path / "a.wav")) == {}


# Mark, rename, delete.


def test_a_favourite_is_marked_and_unmarked(owner: User) -> None:
    take = make_take(owner)
    assert takes.toggle_favourite(take).is_favourite
    assert Take.objects.get().is_favourite
    assert not takes.toggle_favourite(take).is_favourite


def test_a_title_is_tidied_and_an_empty_one_brings_the_prompt_back(owner: User) -> None:
    take = make_take(owner, prompt="slow piano")
    takes.rename_take(take, "  My \n song ")
    assert Take.objects.get().display_title == "My song"
    takes.rename_take(take, "   ")
    assert Take.objects.get().display_title == "slow piano"


@pytest.mark.parametrize(
    ("title", "sentence"),
    [
        ("a" * 201, "The title has 201 characters and the limit is 200. Shorten it."),
        ("a\0b", "The title holds a character that is not text. Type it again."),
        ("a\x1b[31mb", "The title holds a character that is not text. Type it again."),
        ("a\ud800b", "The title holds a character that is not text. Type it again."),
    ],
    ids=["long", "NUL", "escape", "surrogate"],
)
def test_a_bad_title_is_refused(title: str, sentence: str, owner: User) -> None:
    take = make_take(owner, title="before")
    with pytest.raises(takes.TitleRefused) as refused:
        takes.rename_take(take, title)
    assert str(refused.value) == sentence
    assert Take.objects.get().title == "before"


def test_a_deleted_take_comes_back(owner: User) -> None:
    take = make_take(owner)
    takes.delete_take(take)
    assert not Take.objects.kept().exists()
    assert take_file(take).is_file()
    takes.restore_take(take)
    assert Take.objects.kept().get() == take


def test_a_deleted_take_goes_for_good_after_an_hour(home: Path, owner: User) -> None:
    old, fresh, kept = make_take(owner), make_take(owner), make_take(owner)
    for name in ("flac", "mp3"):
        content_in(old, name)
    takes.delete_take(old)
    takes.delete_take(fresh)
    assert takes.purge_deleted_takes() == 0
    Take.objects.filter(pk=old.pk).update(deleted_at=timezone.now() - timedelta(minutes=61))
    assert takes.purge_deleted_takes() == 1
    assert set(Take.objects.all()) == {fresh, kept}
    assert files_in(home) == sorted(f"takes/{take.file_name}" for take in (fresh, kept))
    assert takes.purge_deleted_takes() == 0


def test_a_file_that_is_gone_does_not_stop_the_purge(owner: User) -> None:
    take = make_take(owner, deleted_at=timezone.now() - timedelta(hours=2))
    take_file(take).unlink()
    assert takes.purge_deleted_takes() == 1


def test_a_removed_job_leaves_its_take(owner: User) -> None:
    take = make_take(owner)
    Job.objects.all().delete()
    take.refresh_from_db()
    assert take.job is None
    assert take_file(take).is_file()


# Find.


def test_a_search_needs_every_word_in_any_order(owner: User) -> None:
    piano = make_take(owner, prompt="Slow PIANO ballad", title="Evening")
    make_take(owner, prompt="fast piano")
    found = Take.objects.matching
    assert list(found("ballad slow")) == [piano]
    assert list(found("evening piano")) == [piano]
    assert found("piano").count() == 2
    assert found("  ").count() == 2
    assert not found("drums").exists()
    assert not found("%").exists()
    assert not found("_").exists()


def test_the_recipe_line_is_a_command_that_can_be_pasted(owner: User) -> None:
    take = make_take(owner, prompt='a "quote" $HOME `ls` \\ end', seed=3)
    assert take.recipe_line == (
        'generate "a \\"quote\\" \\$HOME \\`ls\\` \\\\ end" --model musicgen-demo --duration 1 --seed 3'
        " --guidance-scale 3 --temperature 1 --top-k 250 --top-p 0"
    )


# Speed.


def test_the_record_is_of_this_machine_and_model(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "machine")
    assert seconds_per_audio_second("musicgen-demo") is None
    make_take(owner)
    assert seconds_per_audio_second("musicgen-demo") == 2.0
    make_take(owner, render_seconds=6.0, duration_seconds=3.0, frames=150)
    assert seconds_per_audio_second("musicgen-demo") == 2.0
    make_take(owner, render_seconds=100.0, host="another-machine")
    make_take(owner, render_seconds=0)
    assert seconds_per_audio_second("musicgen-demo") == 2.0
    assert seconds_per_audio_second("musicgen-small") is None


def test_the_record_forgets_what_is_long_ago(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "machine")
    make_take(owner, render_seconds=1000.0)
    for _ in range(8):
        make_take(owner, render_seconds=1.0)
    assert seconds_per_audio_second("musicgen-demo") == 1.0


def test_the_recipe_is_plain_json(owner: User) -> None:
    take = make_take(owner)
    assert json.loads(json.dumps(take.recipe, allow_nan=False)) == take.recipe
    assert jobs.claim_next_job(HOST) is None

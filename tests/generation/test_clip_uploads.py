"""Bringing a sound file in: what becomes of it, what is refused, and what bounds its decoding."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from django.contrib.auth.models import User
from django.test import Client

from generation.clips import decoding
from generation.clips.decoding import ClipRefused
from generation.models import Clip
from generation.services import clips
from musicgen_site.models import AuditEntry
from registry.media import clips_media
from tests.generation.sounds import kept, send, sound
from tests.generation.test_take_audio import body

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def audio_of(clip: Clip) -> tuple[Any, int]:
    with clips_media().local(clip.file_name) as path:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    return samples, rate


@pytest.mark.parametrize("kept_in", ["folder", "bucket"])
def test_a_clip_is_brought_in_heard_and_deleted(
    kept_in: str, request: pytest.FixtureRequest, owner: User, client: Client, home: Path
) -> None:
    if kept_in == "bucket":
        request.getfixturevalue("bucket")
    content = sound(samplerate=44100, channels=2)
    answer = send(client, content)
    facts = answer.json()
    assert answer.status_code == 201
    assert (facts["title"], facts["duration_seconds"], facts["sample_rate"], facts["channels"]) == (
        "my song", 2.5, 44100, 2
    )  # fmt: skip
    clip = Clip.objects.get(pk=facts["id"])
    samples, rate = audio_of(clip)
    assert rate == 44100
    # 16 bits stay what they are.
    assert np.array_equal(samples, soundfile.read(io.BytesIO(content), dtype="int16", always_2d=True)[0])
    heard = client.get(facts["audio_url"])
    assert (heard.status_code, heard["Content-Type"], body(heard)[:4]) == (200, "audio/flac", b"fLaC")
    assert body(client.get(facts["audio_url"], headers={"Range": "bytes=0-3"})) == b"fLaC"
    again = send(client, content, "other name.wav")
    assert (again.status_code, again.json()["id"]) == (200, clip.pk)
    assert [each["id"] for each in client.get("/api/clips").json()["clips"]] == [clip.pk]
    assert client.get(f"/api/clips/{clip.pk}").json() == facts
    assert client.delete(f"/api/clips/{clip.pk}").status_code == 204
    assert client.get(f"/api/clips/{clip.pk}").status_code == 404
    assert list(clips_media().entries()) == []
    assert list((home / "incoming").iterdir()) == []
    assert [entry.action for entry in AuditEntry.objects.filter(object_id=clip.pk)] == ["clip.deleted"]


@pytest.mark.parametrize(
    ("container", "subtype"), [("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]
)
def test_other_formats_become_the_same(container: str, subtype: str, owner: User) -> None:
    clip = kept(owner, sound(1.5, samplerate=48000, format=container, subtype=subtype), "a.bin")
    assert (clip.duration_seconds, clip.sample_rate, clip.title) == (1.5, 48000, "a")
    assert soundfile.info(io.BytesIO(b"".join(read(clip)))).subtype == "PCM_16"


def read(clip: Clip) -> list[bytes]:
    opened = clips.opened_clip(clip)
    try:
        return [opened.stream().read()]
    finally:
        opened.close()


def test_what_is_too_loud_is_turned_down_as_a_whole(owner: User) -> None:
    samples = np.linspace(-4, 4, 16000)
    written = io.BytesIO()
    soundfile.write(written, samples, 16000, format="WAV", subtype="FLOAT")
    found = audio_of(kept(owner, written.getvalue()))[0][:, 0] / 32768
    assert abs(found - samples / 4).max() < 1e-4


def _with_nan() -> bytes:
    samples = np.zeros(16000, dtype=np.float32)
    samples[9] = np.nan
    written = io.BytesIO()
    soundfile.write(written, samples, 16000, format="WAV", subtype="FLOAT")
    return written.getvalue()


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        (b"", "CLIP_NOT_AUDIO", "no sound file that can be read. Send WAV, FLAC, MP3 or OGG."),
        (b"RIFF....WAVEfmt nothing", "CLIP_NOT_AUDIO", "no sound file"),
        (sound(0.001)[:44], "CLIP_EMPTY", "The clip is empty"),
        (sound(0.5), "CLIP_TOO_SHORT", "needs at least 1 s"),
        (sound(1.5, channels=3), "CLIP_CHANNELS", "has 3 channels. Mix it to mono or stereo"),
        (sound(1.5, samplerate=4000), "CLIP_RATE", "has 4000 samples a second"),
        (sound(1.5, samplerate=44101), "CLIP_RATE", "has 44101 samples a second. Export it at a usual rate"),
        (_with_nan(), "CLIP_NOT_FINITE", "samples that are not numbers"),
    ],
    ids=["nothing", "no audio", "empty", "short", "channels", "rate", "odd rate", "not finite"],
)  # fmt: skip
def test_what_is_no_clip_is_refused(
    content: bytes, code: str, sentence: str, client: Client, home: Path
) -> None:
    answer = send(client, content)
    assert (answer.status_code, answer.json()["error_code"]) == (400, code)
    assert sentence in answer.json()["error"]
    assert not Clip.objects.exists()
    assert not (home / "clips").exists()


def test_a_long_or_large_one_is_refused(
    client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "LONGEST_SECONDS", 2.0)
    answer = send(client, sound(2.5))
    assert (answer.status_code, answer.json()["error_code"]) == (400, "CLIP_TOO_LONG")
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_clip_mb": 1})
    answer = send(client, bytes(1_000_001))
    assert (answer.status_code, answer.json()["error_code"]) == (413, "CLIP_TOO_LARGE")
    assert "larger than 1\u202fMB" in answer.json()["error"]
    assert client.post("/api/clips", {"file": "text"}).json()["error_code"] == "NO_FILE"
    assert client.post("/api/clips", "{}", content_type="application/json").json()["error_code"] == "NO_FILE"


def test_a_decoder_that_dies_or_hangs_is_a_refusal(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_CLOCK_SECONDS", 0.01)
    with pytest.raises(ClipRefused, match="more time or memory") as refused:
        kept(owner)
    assert refused.value.code == "CLIP_LIMIT"
    monkeypatch.setattr(decoding, "_CLOCK_SECONDS", 60.0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ClipRefused, match="more time or memory"):
        kept(owner)


def test_the_decoder_has_limits_and_no_secrets(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICGEN_SECRET_KEY", "secret")
    run = subprocess.run
    found: list[list[int]] = []

    def tell_limits(command: list[str], **options: Any) -> Any:
        assert command[1:3] == ["-m", "generation.clips"]
        program = (
            "import os, resource as r; from generation.clips import __main__ as decoder;"
            "names = (r.RLIMIT_CPU, r.RLIMIT_AS, r.RLIMIT_CORE, r.RLIMIT_NOFILE);"
            "told = lambda *_: [*(r.getrlimit(name)[1] for name in names), 'MUSICGEN_SECRET_KEY' in os.environ];"
            "decoder.decode = told; decoder.main('source', 'target', 600.0)"
        )
        found.append(json.loads(run([command[0], "-c", program], **options).stdout))
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", tell_limits)
    kept(owner)
    assert found == [[60, 1024**3, 0, 64, False]]


@pytest.mark.parametrize(
    ("name", "title"),
    [("../../etc/pass\u202ewd .WAV", "pass wd"), ("x" * 255, "x" * 200), ("\x07.wav", "Clip"), ("a\udce4.mp3", "a")],
)  # fmt: skip
def test_a_name_is_only_a_title(name: str, title: str) -> None:
    assert clips._title(name) == title

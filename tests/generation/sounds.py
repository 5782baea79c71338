"""Sound files as people bring them in, and clips made of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from generation.models import Clip
from generation.services import clips


def sound(seconds: float = 2.5, **options: Any) -> bytes:
    """A WAV file of noise, or what `options` of soundfile make of it."""
    rate, channels = options.pop("samplerate", 16000), options.pop("channels", 1)
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    written = io.BytesIO()
    soundfile.write(written, samples, rate, **{"format": "WAV", **options})
    return written.getvalue()


def kept(owner: User, content: bytes | None = None, name: str = "my song.wav") -> Clip:
    upload = SimpleUploadedFile(name, sound() if content is None else content)
    return clips.keep_upload(owner=owner, upload=upload)[0]


def send(client: Client, content: bytes, name: str = "my song.wav") -> Any:
    return client.post("/api/clips", {"file": SimpleUploadedFile(name, content)})

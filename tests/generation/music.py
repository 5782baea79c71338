"""Jobs, takes and audio files for tests, made through the product's own services where these have rules."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from django.conf import settings
from django.contrib.auth.models import User

from generation.models import Clip, Job, JobStatus, Take
from generation.services import clips, jobs, takes
from registry.models import ModelConfig

#: Engine host that holds the jobs which tests make running.
HOST = "host-of-the-test"


def make_job(owner: User, **fields: Any) -> Job:
    """A job row of the demo model, queued unless `fields` say otherwise. A running one is held by `HOST`."""
    values: dict[str, Any] = {
        "model_id": "musicgen-demo",
        "prompt": "slow piano",
        "duration_seconds": 1.0,
        "seed": 7,
        "guidance_scale": 3.0,
        "temperature": 1.0,
        "top_k": 250,
        "top_p": 0.0,
        **fields,
    }
    return Job.objects.create(owner=owner, **values)


def make_running_job(owner: User, host: str = HOST, **fields: Any) -> Job:
    """A job that `host` has claimed."""
    job = make_job(owner, **fields)
    claimed = jobs.claim_next_job(host, only_job=job.pk)
    assert claimed is not None
    return claimed


def tone(
    path: Path, *, seconds: float = 1.0, sample_rate: int = 16000, channels: int = 1, level: float = 0.5
) -> Path:
    """A float WAV as a runner writes it: a sine that grows up to `level`, the channels opposed."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    wave = level * (time / max(seconds, 1e-9)) * np.sin(2 * np.pi * 440 * time)  # [S]
    samples = np.stack([wave * (-1) ** channel for channel in range(channels)], axis=1)  # [S, C]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.float32), sample_rate, subtype="FLOAT")
    return path


def recipe_for(job: Job, **fields: Any) -> dict[str, Any]:
    """The recipe of that job's first take."""
    values: dict[str, Any] = {
        "seed": job.seed,
        "is_partial": False,
        "frames": 50,
        "engine_facts": {"device": "cpu", "dtype": "float32", "versions": {"torch": "2.13.0"}},
        **fields,
    }
    return takes.recipe_of(job, **values)


def save(
    job: Job, *, host: str = HOST, variation: int = 0, level: float = 0.5, seconds: float = 1.0, **fields: Any
) -> Take | None:
    """Save a tone as a take of a running job, as the engine does."""
    source = tone(
        Path(settings.STUDIO.home) / "scratch" / f"{job.pk}-{variation}.wav", level=level, seconds=seconds
    )
    values: dict[str, Any] = {
        "recipe": recipe_for(job, seed=job.seeds[variation], is_partial=fields.pop("is_partial", False)),
        "frames": 50,
        "render_seconds": 2.0,
        "hostname": "machine",
        **fields,
    }
    return takes.save_take(job, host=host, variation=variation, source=source, **values)


def make_take(owner: User, *, seconds: float = 1.0, level: float = 0.5, **fields: Any) -> Take:
    """A finished take with its file. `fields` are of the take or, where it has none of that name, of its job."""
    of_job = {name: fields.pop(name) for name in ("prompt", "model_id", "seed") if name in fields}
    job = make_running_job(owner, **of_job)
    take = save(job, seconds=seconds, level=level)
    assert take is not None
    jobs.end_job(job, JobStatus.FINISHED, host=HOST)
    if fields:
        Take.objects.filter(pk=take.pk).update(**fields)
        take.refresh_from_db()
    return take


def demo() -> ModelConfig:
    """The demo model's row."""
    return ModelConfig.objects.get(pk="musicgen-demo")


def make_clip(owner: User, *, title: str = "my song", seconds: float = 2.5, **fields: Any) -> Clip:
    """A clip of a tone, as if it had been brought in. `fields` are those of `tone`."""
    source = tone(Path(settings.STUDIO.home) / "incoming" / "tone.wav", seconds=seconds, **fields)
    clip, _ = clips.keep_clip(owner=owner, source=source, name="tone.wav")
    Clip.objects.filter(pk=clip.pk).update(title=title)
    clip.title = title
    return clip

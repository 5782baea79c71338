"""Keep a take: write its file and row, in that order; mark, rename, delete, bring back, convert."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from gated_configs.deeds import tell_deed
from generation import audio_files
from generation.events import TakesChanged
from generation.models import Job, JobAdapter, JobStatus, Take, adapter_label
from generation.services.submission import is_text
from generation.version import VERSION
from registry.events import send_on_commit
from registry.models import whole_if_equal

MAX_TITLE_CHARACTERS: Final = 200


class TitleRefused(ValueError):
    """`str()` is the sentence for people."""


class TakeFileMissing(FileNotFoundError):
    """The row is there and the file is not. `str()` is the sentence for people."""

    def __init__(self, take: Take) -> None:
        super().__init__(
            f"The audio file of take {take.pk} is gone from the takes folder. Delete the take or bring the file back."
        )


def takes_folder() -> Path:
    """Where takes lie."""
    return Path(settings.STUDIO.home) / "takes"


def recipe_of(
    job: Job,
    *,
    seed: int,
    is_partial: bool,
    frames: int,
    engine_facts: dict[str, Any],
    adapters: Sequence[JobAdapter] = (),
) -> dict[str, Any]:
    """Everything needed to make the take again. Holds no time of day: the same recipe gives the same file."""
    return {
        "studio_version": VERSION,
        "prompt": job.prompt,
        "duration_seconds": whole_if_equal(job.duration_seconds),
        "seed": seed,
        "guidance_scale": job.guidance_scale,
        "temperature": job.temperature,
        "top_k": job.top_k,
        "top_p": job.top_p,
        "adapters": [used.as_recipe() for used in adapters],
        "model": job.model_id,
        "model_name": job.model.display_name,
        "hf_model_id": job.model.hf_model_id,
        "revision": engine_facts.get("revision") or job.model.revision,
        "licence": job.model.licence,
        "licence_url": job.model.licence_url,
        "is_partial": is_partial,
        "frames": frames,
        "device": engine_facts.get("device", ""),
        "dtype": engine_facts.get("dtype", ""),
        "versions": engine_facts.get("versions", {}),
    }


def save_take(
    job: Job,
    *,
    host: str,
    variation: int,
    source: Path,
    recipe: dict[str, Any],
    frames: int,
    render_seconds: float,
    hostname: str,
) -> Take | None:
    """Keep a runner's file as a take of a job that `host` holds. None when the job is no longer ours.

    The source file is removed. A variation that has its take already keeps that one. Raises OSError for a full disk.
    """
    name = f"{timezone.now():%Y%m%d}-{job.pk}-{variation + 1}-{secrets.token_hex(4)}.wav"
    target = takes_folder() / name
    try:
        written = audio_files.write_take_file(source, target, recipe)
    finally:
        source.unlink(missing_ok=True)
    take = Take(
        owner_id=job.owner_id,
        job=job,
        variation=variation,
        model_id=job.model_id,
        title=_title_in_trial(job, recipe),
        prompt=job.prompt,
        seed=recipe["seed"],
        is_partial=recipe["is_partial"],
        recipe=recipe,
        file_name=name,
        file_bytes=written.file_bytes,
        sha256=written.sha256,
        frames=frames,
        duration_seconds=written.duration_seconds,
        sample_rate=written.sample_rate,
        channels=written.channels,
        peaks=written.peaks,
        rms_dbfs=written.rms_dbfs,
        render_seconds=render_seconds,
        host=hostname,
    )
    try:
        with transaction.atomic():
            # A host that slept past its lease must not save beside the one that took over.
            still_ours = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING, lease_owner=host).update(
                attempts=job.attempts
            )
            if not still_ours:
                target.unlink(missing_ok=True)
                return None
            take.save()
            send_on_commit(TakesChanged(owner_id=job.owner_id))
    except IntegrityError:
        target.unlink(missing_ok=True)
        return Take.objects.get(job=job, variation=variation)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return take


def _title_in_trial(job: Job, recipe: dict[str, Any]) -> str:
    """Takes of a comparison share their prompt: their titles say what differs."""
    if job.trial_id is None:
        return ""
    used = [
        f"{adapter_label(each['name'], each['version'])} at {whole_if_equal(each['strength'])}"
        for each in recipe["adapters"]
        if each["strength"]
    ]
    return ", ".join(used) or "Base"


def toggle_favourite(take: Take) -> Take:
    """Mark the take as a favourite, or no longer."""
    return _change(take, is_favourite=not take.is_favourite)


def rename_take(take: Take, title: str) -> Take:
    """Give the take a title; an empty one brings the prompt back. Raises TitleRefused."""
    title = " ".join(title.split())
    if len(title) > MAX_TITLE_CHARACTERS:
        raise TitleRefused(
            f"The title has {len(title)} characters and the limit is {MAX_TITLE_CHARACTERS}. Shorten it."
        )
    if not is_text(title):
        raise TitleRefused("The title holds a character that is not text. Type it again.")
    return _change(take, title=title)


def delete_take(take: Take) -> Take:
    """Take it out of the library. It can be brought back for an hour; then its file goes."""
    with transaction.atomic():
        tell_deed("take.deleted", take)
        return _change(take, deleted_at=timezone.now())


def restore_take(take: Take) -> Take:
    """Bring a deleted take back."""
    return _change(take, deleted_at=None)


def _change(take: Take, **fields: Any) -> Take:
    for name, value in fields.items():
        setattr(take, name, value)
    with transaction.atomic():
        take.save(update_fields=list(fields))
        send_on_commit(TakesChanged(owner_id=take.owner_id))
    return take


def purge_deleted_takes() -> int:
    """Remove deleted takes whose time to be brought back is over, row first and then file. Returns how many."""
    purged = 0
    for take in Take.objects.expired():
        # Only a row that is still deleted: somebody may be bringing it back right now.
        removed, _ = Take.objects.expired().filter(pk=take.pk).delete()
        if removed:
            for path in [take.path, *(_converted_path(take, name) for name in audio_files.FORMATS)]:
                path.unlink(missing_ok=True)
            purged += 1
    return purged


def file_in_format(take: Take, wanted: audio_files.AudioFormat) -> Path:
    """The take's file in that format, converted once and kept in the cache. Raises TakeFileMissing."""
    if not take.path.is_file():
        raise TakeFileMissing(take)
    if wanted.name == "wav":
        return take.path
    path = _converted_path(take, wanted.name)
    if not path.is_file():
        audio_files.convert(take.path, path, wanted, take.recipe)
    return path


def _converted_path(take: Take, suffix: str) -> Path:
    return Path(settings.STUDIO.home) / "cache" / "converted" / f"{Path(take.file_name).stem}.{suffix}"

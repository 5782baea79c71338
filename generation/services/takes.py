"""Keep a take: write its file and row, in that order; mark, rename, delete, bring back, remove, convert."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import IntegrityError, InterfaceError, OperationalError, transaction
from django.utils import timezone

from gated_configs.deeds import tell_deed
from generation import audio_files
from generation.events import TakesChanged
from generation.models import Job, JobAdapter, JobStatus, Take, TakeQuerySet, adapter_label
from generation.retention import media
from generation.services.submission import is_text
from generation.version import VERSION
from registry.events import send_on_commit
from registry.models import whole_if_equal

MAX_TITLE_CHARACTERS: Final = 200
#: How the audit log names what the studio did by itself.
BY_RULE: Final = "clean-up"


class TitleRefused(ValueError):
    """`str()` is the sentence for people."""


class TakeFileMissing(FileNotFoundError):
    """The row is there and the file is not. `str()` is the sentence for people."""

    def __init__(self, take: Take) -> None:
        super().__init__(
            f"The audio file of take {take.pk} is gone from the takes folder. Delete the take or bring the file back."
        )


class TakeGone(LookupError):
    """The take was removed for good since somebody looked at it."""

    def __init__(self) -> None:
        super().__init__("This take is gone: it was deleted, and its time to be brought back is over.")


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

    The source file is removed. A variation that has its take already keeps that one. Raises OSError for a full disk,
    DatabaseError.
    """
    take = write_take(
        job,
        variation=variation,
        source=source,
        recipe=recipe,
        frames=frames,
        render_seconds=render_seconds,
        hostname=hostname,
    )
    return keep_take(take, job, host=host)


def write_take(
    job: Job,
    *,
    variation: int,
    source: Path,
    recipe: dict[str, Any],
    frames: int,
    render_seconds: float,
    hostname: str,
) -> Take:
    """Write a runner's file into the takes folder, for `keep_take` to make a row of. The source file is removed.

    Raises OSError for a full disk.
    """
    name = f"{timezone.now():%Y%m%d}-{job.pk}-{variation + 1}-{secrets.token_hex(4)}.wav"
    try:
        written = audio_files.write_take_file(source, takes_folder() / name, recipe)
    finally:
        source.unlink(missing_ok=True)
    return Take(
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


def keep_take(take: Take, job: Job, *, host: str) -> Take | None:
    """Write the row of a take whose file is there. None, and no file, when the job is no longer ours.

    May be called again when the database went away: the row may be there by then, so until that is known the file
    stays. A variation that has its take already keeps that one. Raises DatabaseError.
    """
    if kept := Take.objects.filter(file_name=take.file_name).first():
        return kept
    try:
        with transaction.atomic():
            # A host that slept past its lease must not save beside the one that took over.
            still_ours = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING, lease_owner=host).update(
                attempts=job.attempts
            )
            if still_ours:
                take.pk = None  # of a try whose end was not heard of
                take.save(force_insert=True)
                send_on_commit(TakesChanged(owner_id=job.owner_id))
    except IntegrityError:
        take.path.unlink(missing_ok=True)
        return Take.objects.get(job=job, variation=take.variation)
    except (OperationalError, InterfaceError):
        raise
    except BaseException:
        take.path.unlink(missing_ok=True)
        raise
    if not still_ours:
        take.path.unlink(missing_ok=True)
        return None
    return take


def remove_leftovers(job: Job) -> int:
    """Remove files that a host wrote for a job and died before it wrote their rows. Returns how many.

    Only of a job that nobody holds, or that who calls holds: nobody else can write their rows then.
    """
    ours = re.compile(rf"\.?\d{{8}}-{job.pk}-\d+-[0-9a-f]{{8}}[.-]")
    folder = takes_folder()
    left = [path for path in folder.iterdir() if ours.match(path.name)] if folder.is_dir() else []
    named = set(
        Take.objects.filter(file_name__in=[path.name for path in left]).values_list("file_name", flat=True)
    )
    leftovers = [path for path in left if path.name not in named]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


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
    """Mark the take as a favourite, or no longer. Raises TakeGone.

    Marking brings back what was just deleted: a rule may have deleted it between the look at the page and the click.
    """
    if take.is_favourite:
        return _change(take, is_favourite=False)
    return _change(take, is_favourite=True, deleted_at=None)


def rename_take(take: Take, title: str) -> Take:
    """Give the take a title; an empty one brings the prompt back. Raises TitleRefused and TakeGone."""
    title = " ".join(title.split())
    if len(title) > MAX_TITLE_CHARACTERS:
        raise TitleRefused(
            f"The title has {len(title)} characters and the limit is {MAX_TITLE_CHARACTERS}. Shorten it."
        )
    if not is_text(title):
        raise TitleRefused("The title holds a character that is not text. Type it again.")
    return _change(take, title=title)


def delete_take(take: Take) -> Take:
    """Take it out of the library. It can be brought back for a while; then its file goes. Raises TakeGone."""
    with transaction.atomic():
        tell_deed("take.deleted", take)
        return _change(take, deleted_at=timezone.now())


def restore_take(take: Take) -> Take:
    """Bring a deleted take back. Raises TakeGone."""
    return _change(take, deleted_at=None)


def _change(take: Take, **fields: Any) -> Take:
    with transaction.atomic():
        if not Take.objects.filter(pk=take.pk).update(**fields):
            raise TakeGone
        send_on_commit(TakesChanged(owner_id=take.owner_id))
    for name, value in fields.items():
        setattr(take, name, value)
    return take


def purge_deleted_takes() -> int:
    """Remove deleted takes whose time to be brought back is over. Returns how many."""
    # Only a row that is still deleted: somebody may be bringing it back right now.
    return sum(remove_take(take, Take.objects.expired()) is not None for take in Take.objects.expired())


def remove_take(take: Take, still: TakeQuerySet, *, reason: str = "") -> int | None:
    """Remove a take for good if it is still one of those: row first and then file, so that no row points to nothing.

    `reason` is for the audit log, where the studio does it by a rule. Answers the bytes freed; None when it is no
    longer one of them. Raises OSError; the row is then gone, and the file is an orphan.
    """
    with transaction.atomic():
        # One statement: what became of the row since it was read, a mark as a favourite say, is looked at as it goes.
        removed, _ = still.filter(pk=take.pk).delete()
        if not removed:
            return None
        if reason:
            tell_deed("take.removed", take, detail=reason, way=BY_RULE)
        if take.deleted_at is None:
            send_on_commit(TakesChanged(owner_id=take.owner_id))
    converted = converted_folder()
    names = [_converted_name(take, suffix) for suffix in audio_files.FORMATS]
    return media.remove_file(takes_folder(), take.file_name) + sum(
        media.remove_file(converted, name) for name in names
    )


def delete_by_rule(take: Take, still: TakeQuerySet, *, reason: str) -> bool:
    """Delete a take if it is still one of those; it can be brought back like any other. False when it is not."""
    with transaction.atomic():
        if not still.filter(pk=take.pk).update(deleted_at=timezone.now()):
            return False
        tell_deed("take.removed", take, detail=reason, way=BY_RULE)
        send_on_commit(TakesChanged(owner_id=take.owner_id))
    return True


def file_in_format(take: Take, wanted: audio_files.AudioFormat) -> Path:
    """The take's file in that format, converted once and kept in the cache. Raises TakeFileMissing."""
    if not take.path.is_file():
        raise TakeFileMissing(take)
    if wanted.name == "wav":
        return take.path
    path = converted_folder() / _converted_name(take, wanted.name)
    try:
        os.utime(path)  # what is used stays in the cache
    except FileNotFoundError:
        audio_files.convert(take.path, path, wanted, take.recipe)
    return path


def converted_folder() -> Path:
    """Where takes in other formats are kept for a while."""
    return Path(settings.STUDIO.home) / "cache" / "converted"


def _converted_name(take: Take, suffix: str) -> str:
    return f"{Path(take.file_name).stem}.{suffix}"

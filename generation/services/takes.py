"""Keep a take: write its file and row, in that order; mark, rename, delete, bring back, remove, convert."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import IntegrityError, InterfaceError, OperationalError, transaction
from django.utils import timezone

from gated_configs.deeds import tell_deed
from generation import audio_files
from generation.events import TakesChanged
from generation.models import Job, JobAdapter, JobStatus, Take, TakeQuerySet, adapter_label
from generation.services.submission import is_text
from generation.version import VERSION
from registry.events import send_on_commit
from registry.media import MediaAway, OpenedMedia, files, takes_media
from registry.media.folder import OpenedFile
from registry.models import whole_if_equal

logger = logging.getLogger(__name__)

MAX_TITLE_CHARACTERS: Final = 200
#: What no player and no file name shows; line ends and tabs have become spaces by then.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: How the audit log names what the studio did by itself.
BY_RULE: Final = "clean-up"
#: In a bucket, files that a fallen host left are looked for under the names of so many days.
MAX_LOST_DAYS: Final = 7


class TitleRefused(ValueError):
    """`str()` is the sentence for people."""


class TakeFileMissing(FileNotFoundError):
    """The row is there and the file is not. `str()` is the sentence for people."""

    def __init__(self, take: Take) -> None:
        super().__init__(
            f"The audio file of take {take.pk} is gone from the studio. Delete the take or bring the file back."
        )


class TakeGone(LookupError):
    """The take was removed for good since somebody looked at it."""

    def __init__(self) -> None:
        super().__init__("This take is gone: it was deleted, and its time to be brought back is over.")


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
    windows = {"window_seconds": job.window_seconds, "stride_seconds": job.stride_seconds}
    continued = {
        **({"take": job.continued_take} if job.continued_clip is None else {"clip": job.continued_clip}),
        "sha256": job.continued_sha256,
        "from_seconds": job.continued_from_seconds,
    }
    melody = {"clip": job.melody_clip, "sha256": job.melody_sha256}
    return {
        "studio_version": VERSION,
        "prompt": job.prompt,
        "duration_seconds": whole_if_equal(job.duration_seconds),
        **{name: whole_if_equal(seconds) for name, seconds in windows.items() if seconds is not None},
        **({"continued": continued} if job.continued_sha256 else {}),
        **({"melody": melody} if job.melody_sha256 else {}),
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
    MediaAway, DatabaseError.
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


def new_file_name(job: Job, variation: int) -> str:
    """A name that no other take has."""
    return f"{timezone.now():%Y%m%d}-{job.pk}-{variation + 1}-{secrets.token_hex(4)}.wav"


def write_take(
    job: Job,
    *,
    variation: int,
    source: Path,
    recipe: dict[str, Any],
    frames: int,
    render_seconds: float,
    hostname: str,
    file_name: str = "",
) -> Take:
    """Store a runner's file, for `keep_take` to make a row of. The source file is removed.

    With a `file_name` it may be called again after MediaAway, for which the source stays; what a first call may have
    stored is then replaced. Raises OSError for a full disk.
    """
    name = file_name or new_file_name(job, variation)
    try:
        with takes_media().writing(name) as target:
            written = audio_files.write_take_file(source, target, recipe)
    except MediaAway:
        raise
    except BaseException:
        source.unlink(missing_ok=True)
        raise
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
        _drop_file(take)
        return Take.objects.get(job=job, variation=take.variation)
    except (OperationalError, InterfaceError):
        raise
    except BaseException:
        _drop_file(take)
        raise
    if not still_ours:
        _drop_file(take)
        return None
    return take


def _drop_file(take: Take) -> None:
    """Remove a file that gets no row. Where the storage is away the clean-up finds it later."""
    try:
        takes_media().remove(take.file_name)
    except MediaAway as problem:
        logger.warning("%s stays without a row: %s", take.file_name, problem)


def remove_leftovers(job: Job) -> int:
    """Remove files that a host wrote for a job and died before it wrote their rows. Returns how many.

    Only of a job that nobody holds, or that who calls holds: nobody else can write their rows then. What a storage
    that is away keeps, the clean-up finds later.
    """
    ours = re.compile(rf"\.?\d{{8}}-{job.pk}-\d+-[0-9a-f]{{8}}[.-]")
    media, began = takes_media(), job.started_at or job.created_at
    days = min((timezone.now() - began).days + 2, MAX_LOST_DAYS)
    prefixes = [f"{timezone.now() - timedelta(days=day):%Y%m%d}-{job.pk}-" for day in range(days)]
    try:
        left = [file.name for file in media.entries(prefixes) if ours.match(file.name)]
        named = set(Take.objects.filter(file_name__in=left).values_list("file_name", flat=True))
        leftovers = [name for name in left if name not in named]
        for name in leftovers:
            media.remove(name)
    except MediaAway as problem:
        logger.warning("files that job %s left behind could not be looked for: %s", job.pk, problem)
        return 0
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
    """Mark the take as a favourite, or no longer. Raises TakeGone."""
    return change_take(take, is_favourite=not take.is_favourite)


def rename_take(take: Take, title: str) -> Take:
    """Give the take a title; an empty one brings the prompt back. Raises TitleRefused and TakeGone."""
    return change_take(take, title=title)


def change_take(take: Take, *, title: str | None = None, is_favourite: bool | None = None) -> Take:
    """Rename and mark at once; None leaves as it is. Raises TitleRefused and TakeGone.

    Marking brings back what was just deleted: a rule may have deleted it between the look at the page and the click.
    """
    fields: dict[str, Any] = {}
    if title is not None:
        fields["title"] = _title(title)
    if is_favourite is not None:
        fields["is_favourite"] = is_favourite
    if is_favourite:
        fields["deleted_at"] = None
    return _change(take, **fields) if fields else take


def _title(title: str) -> str:
    title = " ".join(title.split())
    if len(title) > MAX_TITLE_CHARACTERS:
        raise TitleRefused(
            f"The title has {len(title)} characters and the limit is {MAX_TITLE_CHARACTERS}. Shorten it."
        )
    if not is_text(title) or _CONTROL.search(title):
        raise TitleRefused("The title holds a character that is not text. Type it again.")
    return title


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
    longer one of them. Raises OSError, MediaAway too; the row is then gone, and the file is an orphan.
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
    return takes_media().remove(take.file_name) + sum(files.remove_file(converted, name) for name in names)


def delete_by_rule(take: Take, still: TakeQuerySet, *, reason: str) -> bool:
    """Delete a take if it is still one of those; it can be brought back like any other. False when it is not."""
    with transaction.atomic():
        if not still.filter(pk=take.pk).update(deleted_at=timezone.now()):
            return False
        tell_deed("take.removed", take, detail=reason, way=BY_RULE)
        send_on_commit(TakesChanged(owner_id=take.owner_id))
    return True


def opened_in_format(take: Take, wanted: audio_files.AudioFormat) -> OpenedMedia:
    """The take in that format, converted once and kept in this machine's cache. Raises TakeFileMissing, MediaAway."""
    try:
        if wanted.name == "wav":
            return takes_media().opened(take.file_name)
        return OpenedFile(_converted(take, wanted).open("rb"))
    except FileNotFoundError as gone:
        raise TakeFileMissing(take) from gone


def _converted(take: Take, wanted: audio_files.AudioFormat) -> Path:
    path = converted_folder() / _converted_name(take, wanted.name)
    if not takes_media().exists(take.file_name):
        raise TakeFileMissing(take)
    try:
        os.utime(path)  # what is used stays in the cache
    except FileNotFoundError:
        with takes_media().local(take.file_name) as source:
            audio_files.convert(source, path, wanted, take.recipe)
    return path


def converted_folder() -> Path:
    """Where takes in other formats are kept for a while."""
    return Path(settings.STUDIO.home) / "cache" / "converted"


def _converted_name(take: Take, suffix: str) -> str:
    return f"{Path(take.file_name).stem}.{suffix}"

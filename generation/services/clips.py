"""Keep a clip that somebody brings in: decoded, its file and row written in that order; hear it, delete it.

Nothing that a stranger sent is stored: what is kept is what the decoder's process wrote.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.files.uploadedfile import TemporaryUploadedFile, UploadedFile
from django.db import transaction
from django.utils import timezone

from gated_configs.deeds import tell_deed
from generation.audio_files import written_aside
from generation.clips.decoding import ClipRefused, Decoded, decode_clip, too_large
from generation.models import Clip, ClipQuerySet
from generation.services.storage import check_storage
from generation.services.takes import BY_RULE
from registry.media import MediaAway, OpenedMedia, clips_media

logger = logging.getLogger(__name__)

MAX_TITLE_CHARACTERS: Final = 200
MEDIA_TYPE: Final = "audio/flac"


class ClipFileMissing(FileNotFoundError):
    """The row is there and the file is not. `str()` is the sentence for people."""

    def __init__(self, clip: Clip) -> None:
        super().__init__(
            f"The audio file of clip {clip.pk} is gone from the studio. Bring the clip in again."
        )


def keep_upload(*, owner: Any, upload: Any) -> tuple[Clip, bool]:
    """Keep an upload, which is None or text where the form had no file; see `keep_clip`."""
    if not isinstance(upload, UploadedFile):
        raise ClipRefused("NO_FILE", "Choose a sound file: the form's field is `file`.")
    if upload.size is not None:
        _check_size(upload.size)
    with _incoming() as folder:
        if isinstance(upload, TemporaryUploadedFile):
            return keep_clip(owner=owner, source=Path(upload.temporary_file_path()), name=upload.name or "")
        path = folder / "upload"
        with path.open("xb") as output:
            output.writelines(upload.chunks())
        return keep_clip(owner=owner, source=path, name=upload.name or "")


def clip_named(text: str, *, owner: Any) -> int:
    """The number of a clip, named by that or by the path of a sound file, which is then kept. Raises as `keep_clip`."""
    path = Path(text).expanduser()
    if text.isascii() and text.isdigit() and len(text) < 19 and not path.exists():
        return int(text)
    if not path.is_file():
        raise ClipRefused(
            "NO_FILE", f"There is no file {text[:200]}. Name a sound file, or the number of a clip."
        )
    return keep_clip(owner=owner, source=path, name=path.name)[0].pk


def keep_clip(*, owner: Any, source: Path, name: str) -> tuple[Clip, bool]:
    """The clip made of a sound file, and whether it is new: the same audio is kept once for each person.

    Raises ClipRefused, StorageFull, MediaAway.
    """
    _check_size(source.stat().st_size)
    with _incoming() as folder:
        file = folder / "clip.flac"
        decoded = decode_clip(source.absolute(), file)
        with file.open("rb") as written:
            content = hashlib.file_digest(written, "sha256").hexdigest()
        if clip := Clip.objects.for_user(owner).filter(sha256=content).first():
            Clip.objects.filter(pk=clip.pk).update(used_at=timezone.now())
            return clip, False
        clip = Clip(
            owner=owner,
            title=_title(name),
            file_name=f"{timezone.now():%Y%m%d}-{secrets.token_hex(8)}.flac",
            file_bytes=file.stat().st_size,
            sha256=content,
            **_facts(decoded),
        )
        with clips_media().writing(clip.file_name) as target, written_aside(target) as partial:
            shutil.copyfile(file, partial)
    try:
        with transaction.atomic():
            # Two at once may not both have the last room.
            get_user_model().objects.select_for_update().filter(pk=owner.pk).exists()
            check_storage(owner, clip.file_bytes)
            clip.save(force_insert=True)
    except BaseException:
        _remove_file(clip)
        raise
    return clip, True


def _facts(decoded: Decoded) -> dict[str, Any]:
    return {
        "duration_seconds": decoded.duration_seconds,
        "sample_rate": decoded.sample_rate,
        "channels": decoded.channels,
    }


def _check_size(size_bytes: int) -> None:
    most = int(settings.STUDIO.max_clip_bytes)
    if size_bytes > most:
        raise ClipRefused("CLIP_TOO_LARGE", too_large(most), max_bytes=most)


def _title(name: str) -> str:
    """The file's name without its end, as far as it is text."""
    text = "".join(letter if letter.isprintable() else " " for letter in Path(name[-1000:]).stem)
    return " ".join(text.split())[:MAX_TITLE_CHARACTERS] or "Clip"


@contextmanager
def _incoming() -> Iterator[Path]:
    """A folder for what is on its way in; after a crash the clean-up removes it. What its disk refuses is ClipRefused."""
    incoming: Path = settings.STUDIO.incoming_folder
    try:
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="clip-", dir=incoming) as folder:
            yield Path(folder)
    except MediaAway:
        raise
    except OSError as problem:
        logger.warning("a clip cannot be kept: %s", problem)
        raise ClipRefused("DISK_FULL") from problem


def opened_clip(clip: Clip) -> OpenedMedia:
    """Its audio. Raises ClipFileMissing, MediaAway."""
    try:
        return clips_media().opened(clip.file_name)
    except FileNotFoundError as gone:
        raise ClipFileMissing(clip) from gone


def delete_clip(clip: Clip) -> bool:
    """Delete it for good; takes made from it stay. False where somebody was faster. Raises MediaAway."""
    return _remove(clip, Clip.objects.all(), "clip.deleted") is not None


def put_away(clip: Clip) -> bool:
    """Delete it where nothing was made from it: somebody brought it in and chose otherwise."""
    return _remove(clip, Clip.objects.needless(), "clip.deleted") is not None


def remove_by_rule(clip: Clip, still: ClipQuerySet, *, reason: str) -> int | None:
    """Remove it if it is still one of those. Answers the bytes freed; None when it is not. Raises OSError."""
    return _remove(clip, still, "clip.removed", detail=reason, way=BY_RULE)


def _remove(clip: Clip, still: ClipQuerySet, deed: str, **told: str) -> int | None:
    """Row first and then file, so that no row points to nothing."""
    with transaction.atomic():
        removed, _ = still.filter(pk=clip.pk).delete()
        if not removed:
            return None
        tell_deed(deed, clip, **told)
    return clips_media().remove(clip.file_name)


def _remove_file(clip: Clip) -> None:
    """Remove a file that gets no row. Where the storage is away the clean-up finds it later."""
    try:
        clips_media().remove(clip.file_name)
    except MediaAway as problem:
        logger.warning("%s stays without a row: %s", clip.file_name, problem)

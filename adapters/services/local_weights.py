"""Weights as files that an engine can read: those of the folder, or copies of what the bucket keeps.

A copy is named by its hash, compared with it before it gets that name, and goes when others need its room.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Final

from django.conf import settings

from adapters.importing.store import folder_lock, hash_of
from adapters.models.adapter import weights_name
from registry.media import Media, weights_media
from registry.media.files import Found, files_in

logger = logging.getLogger(__name__)

#: A copy that was asked for so lately, in seconds, may be read at this moment and stays.
IN_USE: Final = 600.0
#: What a process that was killed left half-fetched goes after this many seconds.
_PART_AGE: Final = 3600.0

#: Copies whose hash this process has seen to be right, with their size and time.
_seen: dict[Path, tuple[int, int]] = {}


def local_weights(weights_sha256: str) -> Path:
    """Where the weights of that hash can be read on this machine; fetched where they are not here yet.

    Weights that are nowhere, or not those of the hash, have a path all the same: who reads them says what is wrong.
    Raises MediaAway, and OSError of the disk.
    """
    media, name = weights_media(), weights_name(weights_sha256)
    if not media.is_remote:
        return Path(media.path(name))
    folder = cache_folder()
    path = folder / name
    if _is_whole(path, weights_sha256):
        return path
    with folder_lock(folder):
        # Another process may have fetched it while we waited.
        if not _is_whole(path, weights_sha256):
            return _fetch(media, weights_sha256, folder)
    return path


def cache_folder() -> Path:
    """Where copies lie."""
    folder: Path = settings.STUDIO.cache_folder / "adapters"
    return folder


def _is_whole(path: Path, weights_sha256: str) -> bool:
    """Whether the copy is there and right. It is hashed once by each process, and again when it was changed."""
    try:
        status = path.stat()
        mark = (status.st_size, status.st_mtime_ns)
        if _seen.get(path) != mark:
            if hash_of(path) != weights_sha256:
                return False
            _seen[path] = mark
        # When it was used last; when it was written stays.
        os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _fetch(media: Media, weights_sha256: str, folder: Path) -> Path:
    name = weights_name(weights_sha256)
    try:
        opened = media.opened(name)
    except FileNotFoundError:
        return folder / name
    _make_room(folder, opened.size_bytes)
    handle, text = tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)
    part = Path(text)
    try:
        with os.fdopen(handle, "wb") as target, contextlib.closing(opened.stream()) as source:
            while block := source.read(1024 * 1024):
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
        found = hash_of(part)
        if found != weights_sha256:
            logger.warning("the bucket's %s is damaged: its sha256 is %s", name, found)
            # Kept for the engine to look at, under a name that says what it is.
            name = f"damaged-{name}"
        part.replace(folder / name)
    finally:
        part.unlink(missing_ok=True)
    return folder / name


def _make_room(folder: Path, needed_bytes: int) -> None:
    """Remove the copies used longest ago until there is room within the bound; those in use stay beyond it."""
    now = time.time()

    def idle_seconds(copy: Found) -> float:
        return now - (folder / copy.name).stat().st_atime

    copies = []
    for file in files_in(folder):
        if file.name.endswith(".part") and file.age_seconds > _PART_AGE:
            (folder / file.name).unlink(missing_ok=True)
        elif file.name.endswith(".safetensors"):
            copies.append((idle_seconds(file), file))
    held = sum(file.size_bytes for _, file in copies)
    bound = round(settings.STUDIO.media_cache_gb * 10**9)
    for idle, file in sorted(copies, key=lambda copy: -copy[0]):
        if held + needed_bytes <= bound or idle < IN_USE:
            break
        (folder / file.name).unlink(missing_ok=True)
        held -= file.size_bytes

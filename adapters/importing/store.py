"""Where weights are kept: a folder of their own while they come in, then one file per hash, moved there at once.

Knows nothing of rows; the folders are told to it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock

from adapters.format.errors import AdapterRefused
from adapters.importing.zip_directory import too_large
from gated_configs.wording import gigabytes
from registry.media import MEDIA_AWAY, MediaAway

DISK_FULL: Final = "DISK_FULL"
STORAGE_ERROR: Final = "STORAGE_ERROR"

#: What an import left behind when its process was killed is swept by a later import, after this many seconds.
STALE_SECONDS: Final = 24 * 3600
#: Bytes that an import leaves free, for the database and takes.
RESERVE_BYTES: Final = 100_000_000

_BLOCK_BYTES: Final = 4 * 1024 * 1024
_LOCK_NAME: Final = ".lock"


@contextmanager
def arriving(incoming: Path) -> Iterator[Path]:
    """A new folder below `incoming` for one import, removed with all that is in it whatever happens.

    Raises AdapterRefused, with a sentence for people, for every OSError inside.
    """
    try:
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(incoming)
        folder = incoming / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise storage_refusal(error) from error
    try:
        yield folder
    except OSError as error:
        raise storage_refusal(error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(incoming: Path) -> None:
    """Remove what nobody has touched for a day."""
    limit = time.time() - STALE_SECONDS
    for entry in incoming.iterdir():
        try:
            if entry.lstat().st_mtime > limit:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        except OSError:
            continue  # somebody else sweeps it, too


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raise AdapterRefused where the disk of `folder` has no room for that many bytes more."""
    free = shutil.disk_usage(folder).free
    if needed_bytes + RESERVE_BYTES > free:
        raise AdapterRefused(
            DISK_FULL,
            f"The adapter needs {gigabytes(needed_bytes)} and the studio's disk has {gigabytes(free)} free."
            f" Free {gigabytes(needed_bytes + RESERVE_BYTES - free)} and try again.",
            f"{needed_bytes} bytes needed, {free} free, {RESERVE_BYTES} kept free",
        )


def copy_bounded(source: Path, target: Path, *, max_bytes: int) -> None:
    """Copy a file that may grow while it is read. Raises AdapterRefused where it is larger, OSError."""
    copied = 0
    with source.open("rb", buffering=0) as file, target.open("xb") as output:
        while block := file.read(_BLOCK_BYTES):
            copied += len(block)
            if copied > max_bytes:
                raise too_large(max_bytes, f"more than {copied} bytes")
            output.write(block)


def hash_of(path: Path) -> str:
    """The sha256 of a file, as hexadecimal text."""
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold this while what lies in the folder changes together with something else: others wait."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(folder / _LOCK_NAME):
        yield


def move_weights(arrived: Path, target: Path) -> None:
    """Move weights to their place. The same weights again replace themselves.

    Raises OSError; the place then is as it was.
    """
    with arrived.open("rb+") as file:
        os.fsync(file.fileno())
    arrived.replace(target)


def storage_refusal(error: OSError) -> AdapterRefused:
    """What it means for people that a file cannot be written or read."""
    if isinstance(error, MediaAway):
        return AdapterRefused(MEDIA_AWAY, f"{error} Nothing was kept; try again later.", error.detail)
    detail = f"{type(error).__name__}: {error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AdapterRefused(
            DISK_FULL,
            "The studio's disk became full, and nothing was kept. Free some space and try again.",
            detail,
        )
    return AdapterRefused(
        STORAGE_ERROR,
        f"The adapter cannot be read or stored: {error.strerror or error}. Check the permissions and the disk of"
        " MUSICGEN_HOME.",
        detail,
    )

"""Files of one folder, by plain name: what lies there, and removing it. Knows no rows and no settings.

Names come from rows and from the disk, so each is checked, and links are never followed out of the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Files that lost their row wait here, in the folder they lay in: a rename that no full disk can stop.
ASIDE: Final = "orphans"
#: How folders of a machine's scratch begin that hold a file on its way to or from a bucket.
ON_THE_WAY: Final = "media-"


class NotOurs(ValueError):
    """The name leads out of its folder. `str()` says so."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name[:120]!r} is not the name of a file in a folder of the studio's.")


@dataclass(frozen=True)
class Found:
    """An entry of a folder, and how long ago it was last written or used."""

    name: str
    size_bytes: int
    age_seconds: float
    is_file: bool


def entries_in(folder: Path) -> list[Found]:
    """Everything directly in the folder; nothing where there is none. Links are not followed. Raises OSError."""
    found, now = [], time.time()
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return []
    with entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # it went away while we looked
            is_file = stat.S_ISREG(status.st_mode)
            found.append(Found(entry.name, status.st_size, now - status.st_mtime, is_file))
    return found


def files_in(folder: Path) -> list[Found]:
    """The plain files among them."""
    return [entry for entry in entries_in(folder) if entry.is_file]


def remove_file(folder: Path, name: str) -> int:
    """Remove the plain file of that name and answer the bytes it had; 0 where there is none.

    Whoever reads it at this moment reads on: the bytes go with the last reader. Raises NotOurs and OSError.
    """
    with _opened(folder, name) as place:
        if place is None:
            return 0
        try:
            status = os.stat(name, dir_fd=place, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise NotOurs(name)
            os.unlink(name, dir_fd=place)
        except FileNotFoundError:
            return 0
        return status.st_size


def set_aside(folder: Path, name: str) -> int:
    """Move a file into the folder's `orphans`, where it waits from now on. Answers its bytes, 0 where it is gone."""
    with _opened(folder, name) as place:
        if place is None:
            return 0
        try:
            size = os.stat(name, dir_fd=place, follow_symlinks=False).st_size
            aside = folder / ASIDE
            aside.mkdir(mode=0o700, exist_ok=True)
            if aside.is_symlink():
                raise NotOurs(ASIDE)
            os.rename(name, f"{ASIDE}/{name}", src_dir_fd=place, dst_dir_fd=place)
            os.utime(f"{ASIDE}/{name}", dir_fd=place, follow_symlinks=False)
        except FileNotFoundError:
            return 0
        return size


def remove_entry(folder: Path, name: str) -> int:
    """Remove a file or a whole folder below `folder`; a link goes, what it names stays. Answers the bytes."""
    with _opened(folder, name):
        path = folder / name
        if path.is_symlink() or not path.is_dir():
            size = path.lstat().st_size if os.path.lexists(path) else 0
            path.unlink(missing_ok=True)
            return size
        size = bytes_below(path)
        shutil.rmtree(path, ignore_errors=True)
        return size


def bytes_below(folder: Path) -> int:
    """Bytes of all plain files in and below the folder; what goes away meanwhile is not counted."""
    total, waiting = 0, [str(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_size
    return total


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[int | None]:
    """The folder, open, so that a name means this one whatever is put in its place. None where there is none."""
    if name in ("", ".", "..") or "/" in name or "\0" in name or name != os.path.basename(name):  # noqa: PTH119
        raise NotOurs(name)
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield place
    finally:
        os.close(place)

"""The hash under which the hub knows a file, and which files this process has seen to match theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_BLOCK_BYTES = 4 * 1024 * 1024

# Size and time of change of each file when its hash was right, by its real path.
_proved: dict[Path, tuple[int, int]] = {}


class Hasher(Protocol):
    """What `hashlib` makes."""

    def update(self, content: bytes, /) -> None: ...  # noqa: D102
    def hexdigest(self) -> str: ...  # noqa: D102


def new_hasher(*, sha256: str | None, size_bytes: int) -> Hasher:
    """The hash for a file of the large file storage, or, without `sha256`, git's own for a file of that size."""
    if sha256 is not None:
        return hashlib.sha256()
    hasher = hashlib.sha1(usedforsecurity=False)
    hasher.update(b"blob %d\0" % size_bytes)
    return hasher


def hash_file(path: Path, hasher: Hasher, on_block: Callable[[int], None]) -> None:
    """Feed a whole file to `hasher`; `on_block` hears of each block's bytes and may raise to stop."""
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
            on_block(len(block))


def remember_proof(path: Path) -> None:
    """Note that a file's hash has just been right."""
    real = path.resolve()
    _proved[real] = _state(real)


def is_proved(path: Path) -> bool:
    """Whether this process has seen the file's hash to be right, and it has not changed since."""
    real = path.resolve()
    return real in _proved and _proved[real] == _state(real)


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns

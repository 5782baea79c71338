"""The file of a backup: a tar that begins with what it is and ends with a list of all that is in it, with hashes.

Knows nothing of rows. It is read as a stream and never trusted: no name, no link and no size in it is followed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Final

from gated_configs.wording import gigabytes

FORMAT: Final = 1
KIND: Final = "musicgen-studio-backup"
HEADER_NAME: Final = "backup.json"
MANIFEST_NAME: Final = "manifest.json"

_BLOCK_BYTES: Final = 1024 * 1024
#: Header and manifest are read into memory: a line a file, some hundred bytes each.
_MAX_LIST_BYTES: Final = 512 * 1024 * 1024
#: Audio and weights hardly shrink; the lightest level takes what there is to win.
_GZIP_LEVEL: Final = 1
#: Left free on the disk when a backup is unpacked.
_RESERVE_BYTES: Final = 50_000_000


class BackupProblem(Exception):
    """A backup that cannot be made or restored. `str()` is the sentence for people."""


@dataclass(frozen=True)
class Entry:
    """One file of the archive."""

    size: int
    sha256: str


@dataclass
class BackupWriter:
    """Adds files one after another and remembers their hashes. Made by `writing`."""

    _tar: tarfile.TarFile
    entries: dict[str, Entry] = field(default_factory=dict)

    def add_text(self, name: str, text: str) -> None:
        """Add a small text."""
        content = text.encode()
        self.add(name, io.BytesIO(content), len(content))

    def add(self, name: str, source: IO[bytes], size: int) -> Entry:
        """Add `size` bytes of an open file. Raises BackupProblem where it turns out to be shorter."""
        counted = _Hashing(source)
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = size, 0o600, int(time.time())
        try:
            self._tar.addfile(member, counted)
        except OSError as problem:
            if counted.read_bytes < size and not problem.errno:  # tarfile's own, of a short read
                raise BackupProblem(
                    f"{name} became shorter while it was read. Make the backup again."
                ) from problem
            raise
        entry = self.entries[name] = Entry(size, counted.hash.hexdigest())
        return entry


class _Hashing:
    """A file that hashes what is read from it."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.hash = hashlib.sha256()
        self.read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        block = self._source.read(size)
        self.hash.update(block)
        self.read_bytes += len(block)
        return block


@contextmanager
def writing(target: Path, header: dict[str, Any], manifest: dict[str, Any]) -> Iterator[BackupWriter]:
    """A writer for a new file at `target`, which takes its name only when all is in it. Raises OSError, BackupProblem.

    `header` comes first and `manifest` last, so that the block may fill it until its end.
    """
    if target.exists():
        raise BackupProblem(f"{target} exists already. Choose another name, or remove it first.")
    partial = target.with_name(f".{target.name}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as output:
            with _tar_for(target, output) as tar:
                writer = BackupWriter(tar)
                writer.add_text(HEADER_NAME, _json({"kind": KIND, "format": FORMAT, **header}))
                yield writer
                files = {name: [entry.size, entry.sha256] for name, entry in writer.entries.items()}
                writer.add_text(MANIFEST_NAME, _json({**manifest, "files": files}))
            output.flush()
            os.fsync(output.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _tar_for(target: Path, output: BinaryIO) -> tarfile.TarFile:
    if target.suffix in (".gz", ".tgz"):
        return tarfile.open(fileobj=output, mode="w:gz", compresslevel=_GZIP_LEVEL, format=tarfile.PAX_FORMAT)
    return tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=True)


def unpack(source: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Unpack a backup into the empty `folder`; returns its header and its manifest, once every hash was compared.

    Raises BackupProblem for whatever is not a whole and unchanged backup; what was unpacked until then is the
    caller's to remove.
    """
    try:
        with tarfile.open(source, mode="r|*") as tar:
            return _unpack(tar, folder)
    except FileNotFoundError as problem:
        raise BackupProblem(f"There is no file {source}.") from problem
    except IsADirectoryError as problem:
        raise BackupProblem(f"{source} is a folder. Name the file of a backup.") from problem
    except (tarfile.TarError, zlib.error, EOFError) as problem:
        raise BackupProblem(
            f"{source.name} is no backup, or was cut off or damaged ({problem}). Nothing was changed."
        ) from problem


def _unpack(tar: tarfile.TarFile, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    header: dict[str, Any] | None = None
    manifest: dict[str, Any] | None = None
    found: dict[str, Entry] = {}
    for member in tar:
        if manifest is not None:
            raise BackupProblem("The backup goes on after its end. It was changed; nothing was restored.")
        _check_member(member, found)
        content = tar.extractfile(member)
        assert content is not None
        if member.name in (HEADER_NAME, MANIFEST_NAME):
            text = _read_list(member, content)
            if member.name == MANIFEST_NAME:
                manifest = _parsed(text)
                continue
            header = _check_header(_parsed(text))
            found[member.name] = Entry(member.size, hashlib.sha256(text).hexdigest())
        elif header is None:
            raise BackupProblem("The file is not a backup of MusicGen Studio. Nothing was changed.")
        else:
            found[member.name] = _write_out(member, content, folder / member.name)
    if header is None or manifest is None:
        raise BackupProblem("The backup is not whole: it was cut off. Nothing was changed.")
    _compare(found, manifest)
    return header, manifest


def _check_member(member: tarfile.TarInfo, found: dict[str, Entry]) -> None:
    """Raises BackupProblem for anything but a file at a plain place below."""
    path = PurePosixPath(member.name)
    is_plain = (
        member.isreg()
        and not member.issparse()
        and not path.is_absolute()
        and str(path) == member.name
        and not {"..", "."} & set(path.parts)
        and "\\" not in member.name
        and "\0" not in member.name
        and (len(path.parts) > 1 or member.name in (HEADER_NAME, MANIFEST_NAME))
    )
    if not is_plain or member.name in found:
        shown = member.name.encode("unicode_escape").decode()[:100]
        raise BackupProblem(
            f'The backup holds something that is no plain file of its own place: "{shown}". It was changed; nothing'
            " was restored."
        )


def _read_list(member: tarfile.TarInfo, content: IO[bytes]) -> bytes:
    if member.size > _MAX_LIST_BYTES:
        raise BackupProblem("The list of the backup's files is too long to be one. Nothing was changed.")
    return content.read()


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise BackupProblem(
            "The backup's own description cannot be read. It was changed; nothing was restored."
        )
    return content


def _check_header(header: dict[str, Any]) -> dict[str, Any]:
    if header.get("kind") != KIND:
        raise BackupProblem("The file is not a backup of MusicGen Studio. Nothing was changed.")
    if header.get("format") != FORMAT:
        raise BackupProblem(
            f"The backup is of format {header.get('format')!r} and this release reads {FORMAT}. Restore it with the"
            " release that made it."
        )
    return header


def _write_out(member: tarfile.TarInfo, content: IO[bytes], target: Path) -> Entry:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if member.size + _RESERVE_BYTES > free:
        raise BackupProblem(
            f"The disk has no room for the backup: {gigabytes(free)} free. Free some space and try again."
        )
    hashing = _Hashing(content)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as output:
        while block := hashing.read(_BLOCK_BYTES):
            output.write(block)
    return Entry(hashing.read_bytes, hashing.hash.hexdigest())


def _compare(found: dict[str, Entry], manifest: dict[str, Any]) -> None:
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        raise BackupProblem(
            "The backup's own description cannot be read. It was changed; nothing was restored."
        )
    if found.keys() != listed.keys():
        odd = sorted(found.keys() ^ listed.keys())[0]
        raise BackupProblem(f"The backup and its list differ: {odd}. It was changed; nothing was restored.")
    for name, entry in found.items():
        if listed[name] != [entry.size, entry.sha256]:
            raise BackupProblem(
                f"{name} in the backup is damaged: its hash is another. Nothing was restored."
            )

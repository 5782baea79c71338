"""Unpacks the two or three files of an adapter from a zip that nobody trusts.

Only those are ever written, under names of our own, and every byte is counted while it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from adapters.format.errors import AdapterRefused
from adapters.importing.contents import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    README_HEAD_BYTES,
    README_NAME,
    WEIGHTS_NAME,
    Arrived,
    choose_files,
    pickles_refused,
)
from adapters.importing.zip_directory import ZipEntry, bomb, damaged, read_directory, too_large

NOT_A_ZIP: Final = "NOT_A_ZIP"
CONFIG_TOO_LARGE: Final = "CONFIG_TOO_LARGE"

_BLOCK_BYTES: Final = 1024 * 1024
_HEAD_BYTES: Final = 512

#: What people upload in place of a zip, by how it begins.
_OTHERS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive. Unpack it and make a zip of the folder"),
    (b"Rar!\x1a\x07", "a RAR archive. Unpack it and make a zip of the folder"),
    (b"\x1f\x8b", "a gzip archive. Unpack it and make a zip of the folder"),
    (b"BZh", "a bzip2 archive. Unpack it and make a zip of the folder"),
    (b"\xfd7zXZ\x00", "an xz archive. Unpack it and make a zip of the folder"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive. Unpack it and make a zip of the folder"),
    (b"GGUF", "a GGUF file, which is a language model. Import an adapter made for MusicGen"),
    (
        b"version https://git-lfs",
        "a pointer of git LFS and not the file. Run `git lfs pull`, then zip the folder",
    ),
    (b"MZ", "a program, perhaps an archive that unpacks itself. Make a zip of the folder"),
    (b"PK\x07\x08", "one part of a split zip. Make one zip of the folder"),
)


def unpack_zip(archive: Path, folder: Path, *, max_bytes: int, name: str = "") -> Arrived:
    """Write the adapter's config, weights and the head of its README from a zip into `folder`, which exists.

    `max_bytes` bounds the zip and what it unpacks to; `name` is what people call the zip. Raises AdapterRefused
    with a sentence for everything else than a plain zip of an adapter, and OSError as writing does; what was
    written by then is the caller's to remove.
    """
    if archive.stat().st_size > max_bytes:
        raise too_large(max_bytes, f"{archive.stat().st_size} bytes")
    with archive.open("rb") as file:
        _check_beginning(file)
        entries = {entry.name: entry for entry in read_directory(file, max_bytes=max_bytes)}
        if any(entry.parts[-1] == "data.pkl" for entry in entries.values()):
            # PyTorch's own files are zips with a pickle in them.
            raise pickles_refused([name or archive.name], "file")
        chosen = choose_files(entries, where="zip")
        config = entries[chosen.config] if chosen.config else None
        if config is not None and config.size_bytes > MAX_CONFIG_BYTES:
            raise AdapterRefused(
                CONFIG_TOO_LARGE,
                f"{CONFIG_NAME} in the zip is larger than 1 MB, and one is a few lines. Take the file that training wrote.",
                f"{config.size_bytes} bytes",
            )
        if config is not None:
            _write(file, config, folder / CONFIG_NAME)
        if chosen.weights is not None:
            _write(file, entries[chosen.weights], folder / WEIGHTS_NAME)
        if chosen.readme is not None:
            _write_head(file, entries[chosen.readme], folder / README_NAME)
    return Arrived(
        name=chosen.top or Path(name or archive.name).stem,
        config=folder / CONFIG_NAME if config else None,
        weights=folder / WEIGHTS_NAME if chosen.weights else None,
        readme=folder / README_NAME if chosen.readme else None,
        names=tuple(each.removeprefix(f"{chosen.top}/") for each in entries),
        left_out=chosen.left_out,
    )


def _check_beginning(file: BinaryIO) -> None:
    """Refuse what is no zip by what it is."""
    head = file.read(_HEAD_BYTES)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return
    what = next((words for magic, words in _OTHERS if head.startswith(magic)), "")
    if not head:
        what = "empty. Choose the zip again"
    elif not what and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        what = f"a safetensors file alone. Zip it together with its {CONFIG_NAME}"
    elif not what and head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        what = "a web page and not the file. Download the adapter again, after logging in if its site asks for that"
    elif not what and head[:1] == b"\x80":
        raise pickles_refused(["a file of PyTorch"], "file")
    elif not what and head[257:262] == b"ustar":
        what = "a tar archive. Unpack it and make a zip of the folder"
    raise AdapterRefused(
        NOT_A_ZIP,
        f"This file is {what}."
        if what
        else "This file is not a zip. Zip the adapter's folder and choose that file.",
        f"it begins with {head[:8]!r}",
    )


def _write(file: BinaryIO, entry: ZipEntry, target: Path) -> None:
    """Write one entry whole. Raises AdapterRefused unless its size and checksum are those that the zip tells."""
    checksum = 0
    written = 0
    with target.open("xb") as output:
        for block in _blocks(file, entry):
            written += len(block)
            if written > entry.size_bytes:
                raise bomb(f"{entry.name!r} unpacks to more than the {entry.size_bytes} bytes it claims")
            checksum = zlib.crc32(block, checksum)
            output.write(block)
    if written != entry.size_bytes or checksum != entry.crc32:
        raise damaged(f"{entry.name!r}: {written} of {entry.size_bytes} bytes, checksum {checksum:08x}")


def _write_head(file: BinaryIO, entry: ZipEntry, target: Path) -> None:
    """Write the beginning of a text, of which no more is wanted."""
    head = b""
    for block in _blocks(file, entry):
        head += block
        if len(head) >= README_HEAD_BYTES:
            break
    target.write_bytes(head[:README_HEAD_BYTES])


def _blocks(file: BinaryIO, entry: ZipEntry) -> Iterator[bytes]:
    """The entry's bytes, unpacked a block at a time. Never holds more than a block or two."""
    file.seek(entry.data_offset)
    left = entry.compressed_bytes
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if entry.is_deflated else None
    waiting = b""
    while left or waiting:
        if not waiting:
            waiting = file.read(min(left, _BLOCK_BYTES))
            if not waiting:
                raise damaged(f"{entry.name!r} is cut off")
            left -= len(waiting)
        if inflate is None:
            yield waiting
            waiting = b""
            continue
        try:
            block = inflate.decompress(waiting, _BLOCK_BYTES)
        except zlib.error as error:
            raise damaged(f"{entry.name!r}: {error}") from error
        waiting = inflate.unconsumed_tail
        if inflate.unused_data or (inflate.eof and left):
            raise damaged(f"{entry.name!r} ends before its bytes do")
        if block:
            yield block
    # What zlib still holds back comes out now, if the stream was whole.
    if inflate is not None and (rest := inflate.flush()):
        yield rest
    if inflate is not None and not inflate.eof:
        raise damaged(f"{entry.name!r} is cut off")

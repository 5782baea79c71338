"""Reads a zip file's table of contents and refuses every surprise in it, before anything is unpacked.

Trusts no number and no name that the file gives: two programs that read it must not see two different contents.
"""

from __future__ import annotations

import stat
import struct
import unicodedata
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Final

from adapters.format.errors import AdapterRefused
from gated_configs.wording import gigabytes

ZIP_TOO_MANY_FILES: Final = "ZIP_TOO_MANY_FILES"
ZIP_UNSAFE_NAME: Final = "ZIP_UNSAFE_NAME"
ZIP_DUPLICATE_NAME: Final = "ZIP_DUPLICATE_NAME"
ZIP_LINK: Final = "ZIP_LINK"
ZIP_DEVICE: Final = "ZIP_DEVICE"
ZIP_ENCRYPTED: Final = "ZIP_ENCRYPTED"
ZIP_UNSUPPORTED: Final = "ZIP_UNSUPPORTED"
ZIP_NESTED: Final = "ZIP_NESTED"
ZIP_BOMB: Final = "ZIP_BOMB"
ZIP_DAMAGED: Final = "ZIP_DAMAGED"
ZIP_EMPTY: Final = "ZIP_EMPTY"
ADAPTER_TOO_LARGE: Final = "ADAPTER_TOO_LARGE"

#: An adapter is three files; a folder left over from training holds dozens.
MAX_ENTRIES: Final = 1000
MAX_DIRECTORY_BYTES: Final = 1024 * 1024
MAX_NAME_CHARACTERS: Final = 300
MAX_PART_CHARACTERS: Final = 150
MAX_DEPTH: Final = 8
#: Weights hardly shrink and text shrinks tenfold; only what is made to do harm shrinks like this.
MAX_RATIO: Final = 100
_RATIO_FREE_BYTES: Final = 1_000_000

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LOCAL = struct.Struct("<4s5H3L2H")
_END_MAGIC, _END_64_MAGIC, _LOCATOR_64_MAGIC = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_LOCAL_MAGIC = b"PK\x03\x04"
_LONGEST_COMMENT: Final = 65_535

_ENCRYPTED_FLAGS: Final = 0x1 | 0x40 | 0x2000
_SIZES_FOLLOW_FLAG: Final = 0x8
_UTF8_FLAG: Final = 0x800
_METHODS: Final = {
    1: "Shrink", 6: "Implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd", 99: "AES",
}  # fmt: skip
_ARCHIVES: Final = (
    ".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".cab", ".iso", ".jar", ".whl",
)  # fmt: skip
_RESERVED: Final = {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))}
_ENCODED: Final = ("%2e", "%2f", "%5c", "%00", "%25")


@dataclass(frozen=True)
class ZipEntry:
    """One file of the zip, with its place in it; folders are left out. `data_offset` is where its bytes begin."""

    name: str
    size_bytes: int
    compressed_bytes: int
    is_deflated: bool
    crc32: int
    data_offset: int

    @property
    def parts(self) -> tuple[str, ...]:
        """The name's folders and its last part."""
        return PurePosixPath(self.name).parts


@dataclass(frozen=True)
class _Directory:
    """Where the table of contents lies, and how many entries it should have."""

    offset: int
    size_bytes: int
    entries: int


def read_directory(file: BinaryIO, *, max_bytes: int) -> list[ZipEntry]:
    """Every file in an open zip. Raises AdapterRefused for anything that an honest zip of an adapter does not have.

    `max_bytes` bounds what all files may unpack to, together.
    """
    directory = _find_directory(file)
    if directory.entries == 0:
        raise AdapterRefused(ZIP_EMPTY, "The zip is empty. Zip the adapter's folder.")
    if directory.entries > MAX_ENTRIES or directory.size_bytes > MAX_DIRECTORY_BYTES:
        raise AdapterRefused(
            ZIP_TOO_MANY_FILES,
            f"The zip holds more than {MAX_ENTRIES} files, and an adapter is two or three. Zip its folder alone.",
            f"{directory.entries} entries in a directory of {directory.size_bytes} bytes",
        )
    infos = _read_infos(file)
    if len(infos) != directory.entries:
        raise damaged(f"{directory.entries} entries announced, {len(infos)} there")
    for info in infos:
        _check_kind(info)
        _check_name(info.orig_filename)
    _check_clashes([info.orig_filename for info in infos])
    _check_sizes(infos, max_bytes)
    return _locate(file, infos, directory.offset)


# --- the directory ---


def _find_directory(file: BinaryIO) -> _Directory:
    """Read the end of the file, where a zip says where its directory is."""
    length = file.seek(0, 2)
    tail_offset = max(0, length - _END.size - _LONGEST_COMMENT - _LOCATOR_64.size)
    file.seek(tail_offset)
    tail = file.read()
    place = tail.rfind(_END_MAGIC)
    if place < 0 or place + _END.size > len(tail):
        raise AdapterRefused(
            ZIP_DAMAGED,
            "The zip is cut off: its table of contents, which comes last, is missing. Copy or zip it again.",
            "no end record",
        )
    _, disk, first_disk, here, entries, size, offset, comment = _END.unpack_from(tail, place)
    if place + _END.size + comment != len(tail):
        raise damaged("bytes after the end record that are no comment")
    end = tail_offset + place
    # Programs differ on when the figures of a zip64 count: they must be sound whenever they are there.
    is_zip64 = tail[max(0, place - _LOCATOR_64.size) : place].startswith(_LOCATOR_64_MAGIC)
    if is_zip64 or 0xFFFF in (disk, first_disk, here, entries) or 0xFFFFFFFF in (size, offset):
        disk, first_disk, here, entries, size, offset, end = _read_end_64(file, end)
    if disk or first_disk or here != entries:
        raise AdapterRefused(ZIP_UNSUPPORTED, "The zip is one part of several. Make one zip of the adapter.")
    if offset + size != end:
        raise damaged(f"the directory of {size} bytes at {offset} does not end at {end}")
    return _Directory(offset=offset, size_bytes=size, entries=entries)


def _read_end_64(file: BinaryIO, end: int) -> tuple[int, int, int, int, int, int, int]:
    """The same figures of a zip64, whose end record stands just before its locator."""
    record_offset = end - _LOCATOR_64.size - _END_64.size
    if record_offset < 0:
        raise damaged("a zip64 without its records")
    file.seek(record_offset)
    content = file.read(_END_64.size + _LOCATOR_64.size)
    magic, record_bytes, _, _, disk, first_disk, here, entries, size, offset = _END_64.unpack_from(content)
    locator_magic, locator_disk, told_offset, disks = _LOCATOR_64.unpack_from(content, _END_64.size)
    if magic != _END_64_MAGIC or locator_magic != _LOCATOR_64_MAGIC or record_bytes != _END_64.size - 12:
        raise damaged("zip64 records that are none")
    if told_offset != record_offset or locator_disk or disks > 1:
        raise damaged("a zip64 locator that points elsewhere")
    return disk, first_disk, here, entries, size, offset, record_offset


def _read_infos(file: BinaryIO) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except UnicodeDecodeError as error:
        raise _unsafe_name("its bytes are not the text they claim to be", "", str(error)) from error
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        struct.error,
        ValueError,
        OverflowError,
        OSError,
    ) as error:
        raise damaged(f"{type(error).__name__}: {error}") from error


# --- one entry ---


def _check_kind(info: zipfile.ZipInfo) -> None:
    """Refuse what is neither a plain file nor a folder, or cannot be read."""
    shown = _shown(info.orig_filename)
    if info.flag_bits & _ENCRYPTED_FLAGS or info.compress_type == 99:
        raise AdapterRefused(
            ZIP_ENCRYPTED, "The zip is locked with a password. Unpack it, and zip the folder without one."
        )
    mode = stat.S_IFMT(info.external_attr >> 16)
    # 0x400 is what Windows sets on its links, 0x40 on devices, 0x08 on the name of a disk.
    if stat.S_ISLNK(mode) or info.external_attr & 0x400:
        raise AdapterRefused(
            ZIP_LINK, f"The zip holds a link ({shown}), which could lead anywhere. Zip the files themselves."
        )
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR) or info.external_attr & 0x48:
        raise AdapterRefused(
            ZIP_DEVICE, f"The zip holds something that is no file ({shown}). Zip the files alone."
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise AdapterRefused(
            ZIP_UNSUPPORTED,
            f"The zip is compressed with {method}, which is not read here. Zip the folder the ordinary way (Deflate).",
        )
    is_folder = info.orig_filename.endswith("/")
    if is_folder and (info.file_size or info.compress_size > 2):
        raise damaged(f"a folder of {info.file_size} bytes: {shown}")
    if is_folder != stat.S_ISDIR(mode) and mode:
        raise damaged(f"a folder that is a file, or the reverse: {shown}")
    if not is_folder and info.orig_filename.lower().endswith(_ARCHIVES):
        raise AdapterRefused(
            ZIP_NESTED,
            f"The zip holds another archive ({shown}). Unpack that one, and zip the adapter's folder alone.",
        )


def _check_name(name: str) -> None:
    """Refuse a name that some system could take for a place outside the folder, or that hides what it is."""
    if not name or "\0" in name:
        raise _unsafe_name("it is empty or holds a zero byte", name)
    if len(name) > MAX_NAME_CHARACTERS:
        raise _unsafe_name("it is too long", name)
    for character in name:
        # Control characters, invisible ones, those that reverse the reading direction, and halves of pairs.
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            raise _unsafe_name("it holds characters that cannot be seen", name)
    if any(code in name.lower() for code in _ENCODED):
        raise _unsafe_name("it hides a path in an encoding", name)
    for spelling in {name, unicodedata.normalize("NFKC", name)}:
        if "\\" in spelling:
            raise _unsafe_name("it holds a backslash", name)
        if ":" in spelling:
            raise _unsafe_name("it holds a colon, as a drive does", name)
        if spelling.startswith(("/", "~")):
            raise _unsafe_name("it starts at the root of a disk or a home", name)
        _check_parts(spelling.removesuffix("/").split("/"), name)


def _check_parts(parts: list[str], name: str) -> None:
    if len(parts) > MAX_DEPTH:
        raise _unsafe_name(f"it is more than {MAX_DEPTH} folders deep", name)
    for part in parts:
        if part in ("", ".", "..") or not part.strip(" ."):
            raise _unsafe_name("it leads out of its folder", name)
        if part != part.strip() or part.endswith("."):
            # Windows drops these, so that two names become one.
            raise _unsafe_name("a part of it begins or ends with a space or ends with a dot", name)
        if len(part) > MAX_PART_CHARACTERS:
            raise _unsafe_name("it is too long", name)
        if part.split(".")[0].lower() in _RESERVED:
            raise _unsafe_name("it is a device's name on Windows", name)


def _check_clashes(names: Iterable[str]) -> None:
    """Refuse names that are one name on some systems, and a file that is also a folder."""
    files: set[str] = set()
    folders: set[str] = set()
    seen: set[str] = set()
    for name in names:
        same = unicodedata.normalize("NFKC", name).casefold().removesuffix("/")
        parts = same.split("/")
        if same in seen:
            raise AdapterRefused(
                ZIP_DUPLICATE_NAME,
                f"The zip holds {_shown(name)} twice, perhaps in another spelling. Zip the folder again.",
            )
        seen.add(same)
        (folders if name.endswith("/") else files).add(same)
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    if both := files & folders:
        raise AdapterRefused(
            ZIP_DUPLICATE_NAME,
            f"{_shown(min(both))} is a file and a folder at once in the zip. Zip the folder again.",
        )


def _check_sizes(infos: list[zipfile.ZipInfo], max_bytes: int) -> None:
    total = sum(info.file_size for info in infos)
    compressed = sum(info.compress_size for info in infos)
    for info in infos:
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise damaged(f"{_shown(info.orig_filename)} is stored, and has two sizes")
    if total > _RATIO_FREE_BYTES and total > MAX_RATIO * max(1, compressed):
        raise bomb(f"{compressed} bytes that claim to be {total}")
    for info in infos:
        if info.file_size > _RATIO_FREE_BYTES and info.file_size > MAX_RATIO * max(1, info.compress_size):
            raise bomb(
                f"{_shown(info.orig_filename)}: {info.compress_size} bytes claim to be {info.file_size}"
            )
    if total > max_bytes:
        raise too_large(max_bytes, f"{total} bytes")


# --- where the bytes are ---


def _locate(file: BinaryIO, infos: list[zipfile.ZipInfo], directory_offset: int) -> list[ZipEntry]:
    """Read each entry's own header, which must say what the directory says, and refuse entries that overlap."""
    entries: list[ZipEntry] = []
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise bomb(f"{_shown(info.orig_filename)} overlaps another entry")
        if end == 0 and info.header_offset:
            raise damaged(f"{info.header_offset} bytes before the first entry")
        data_offset = _check_local_header(file, info)
        end = data_offset + info.compress_size
        if end > directory_offset:
            raise damaged(f"{_shown(info.orig_filename)} reaches into the directory")
        if not info.orig_filename.endswith("/"):
            entries.append(
                ZipEntry(
                    name=info.orig_filename,
                    size_bytes=info.file_size,
                    compressed_bytes=info.compress_size,
                    is_deflated=info.compress_type == zipfile.ZIP_DEFLATED,
                    crc32=info.CRC,
                    data_offset=data_offset,
                )
            )
    return entries


def _check_local_header(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Answer where the entry's bytes begin."""
    shown = _shown(info.orig_filename)
    file.seek(info.header_offset)
    content = file.read(_LOCAL.size)
    if len(content) < _LOCAL.size:
        raise damaged(f"{shown} lies outside the file")
    magic, _, flags, method, _, _, _, compressed, size, name_bytes, extra_bytes = _LOCAL.unpack(content)
    if magic != _LOCAL_MAGIC or flags & _ENCRYPTED_FLAGS or method != info.compress_type:
        raise damaged(f"the header of {shown} contradicts the directory")
    raw = file.read(name_bytes)
    try:
        name = raw.decode("utf-8" if flags & _UTF8_FLAG else "cp437")
    except UnicodeDecodeError as error:
        raise damaged(f"the header of {shown} has another name") from error
    # Sizes may come after the bytes or in a zip64 field; where they stand here, they must agree.
    may_follow = bool(flags & _SIZES_FOLLOW_FLAG)
    agree = all(
        here in (there, 0xFFFFFFFF) or (here == 0 and may_follow)
        for here, there in ((size, info.file_size), (compressed, info.compress_size))
    )
    if name != info.orig_filename or not agree:
        raise damaged(f"the header of {shown} contradicts the directory")
    return int(info.header_offset) + _LOCAL.size + int(name_bytes) + int(extra_bytes)


# --- refusals ---


def too_large(max_bytes: int, detail: str = "") -> AdapterRefused:
    """The refusal of an adapter over the operator's limit."""
    return AdapterRefused(
        ADAPTER_TOO_LARGE,
        f"The adapter is larger than {gigabytes(max_bytes)}, the limit here. An adapter is mostly far smaller than its"
        " model: check that this is one. MUSICGEN_MAX_ADAPTER_MB sets the limit.",
        detail,
    )


def bomb(detail: str) -> AdapterRefused:
    """The refusal of a zip that unpacks to far more than it is."""
    return AdapterRefused(
        ZIP_BOMB, "The zip would unpack to far more than an adapter can be. It is not safe to open.", detail
    )


def damaged(detail: str) -> AdapterRefused:
    """The refusal of a zip whose parts contradict each other."""
    return AdapterRefused(
        ZIP_DAMAGED, "The zip is damaged or was tampered with. Zip the adapter's folder again.", detail
    )


def _unsafe_name(reason: str, name: str, detail: str = "") -> AdapterRefused:
    return AdapterRefused(
        ZIP_UNSAFE_NAME,
        f"A file name in the zip is not safe: {reason}. Zip the adapter's folder again, with plain names.",
        detail or f"the name {name[:200]!r}",
    )


def _shown(name: str) -> str:
    """A name as people may see it: short, and nothing in it that is not printed."""
    plain = "".join(character if character.isprintable() else "?" for character in name)
    return plain if len(plain) <= 80 else f"{plain[:77]}..."

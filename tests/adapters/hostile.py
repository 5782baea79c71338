"""The corpus of hostile archives: what each one is, and the code and words of its refusal."""

from __future__ import annotations

import json
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from tests.adapters.zips import (
    CONFIG,
    WEIGHTS,
    Entry,
    adapter_files,
    forged,
    lora_config,
    safetensors,
    with_entries,
    zipped,
)

SYMLINK = (stat.S_IFLNK | 0o777) << 16
DEVICE = (stat.S_IFCHR | 0o666) << 16
FIFO = (stat.S_IFIFO | 0o666) << 16
RLO = "\u202e"


@dataclass(frozen=True)
class Hostile:
    """One archive. `says` is part of the sentence that people see."""

    name: str
    make: Callable[[], bytes]
    code: str
    says: str


def named(name: str | bytes, flags: int = 0x800) -> Callable[[], bytes]:
    """A sound adapter with one more file of that name."""
    raw = name if isinstance(name, bytes) else name.encode()
    return lambda: with_entries(Entry(raw, b"x", flags=flags))


def config_of(text: str) -> Callable[[], bytes]:
    """Sound weights beside this config."""
    return lambda: zipped({**adapter_files(), CONFIG: text.encode()})


def weights_of(content: bytes) -> Callable[[], bytes]:
    """A sound config beside these weights."""
    return lambda: zipped({**adapter_files(), WEIGHTS: content})


def _noise(count: int) -> bytes:
    return random.Random(7).randbytes(65_536) * (count // 65_536)


def _overlapping() -> bytes:
    files = adapter_files()
    kernel = Entry(WEIGHTS.encode(), files[WEIGHTS])
    copies = [Entry(f"{number}.txt".encode(), files[WEIGHTS], offset=0, packed=b"") for number in range(50)]
    return forged([kernel, *copies])


def _quoted() -> bytes:
    """Each entry's bytes hold the next entry's header, as in the bombs of one layer that grow quadratically."""
    inner = Entry(CONFIG.encode(), adapter_files()[CONFIG], method=0)
    header = forged([inner])[: 30 + len(CONFIG) + len(inner.content)]
    outer = Entry(WEIGHTS.encode(), header, method=0)
    place, size = 30 + len(WEIGHTS), len(inner.content)
    again = Entry(CONFIG.encode(), inner.content, method=0, offset=place, packed=b"", compressed=size)
    return forged([outer, again])


def _many(count: int) -> bytes:
    return forged([Entry(f"{number}.txt".encode(), b"", method=0) for number in range(count)])


def _cut(part: float) -> Callable[[], bytes]:
    return lambda: (whole := zipped(adapter_files()))[: int(len(whole) * part)]


def _flipped() -> bytes:
    content = bytearray(zipped(adapter_files(), method=zipfile.ZIP_STORED))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def _broken_stream() -> bytes:
    return forged(
        [
            Entry(CONFIG.encode(), adapter_files()[CONFIG]),
            Entry(WEIGHTS.encode(), b"x" * 100, packed=b"\xff" * 40),
        ]
    )


def _torch_file() -> bytes:
    return zipped(
        {"archive/data.pkl": b"\x80\x02}q\x00.", "archive/data/0": b"0" * 64, "archive/version": b"3"}
    )


def _only_pickle() -> bytes:
    return zipped({CONFIG: adapter_files()[CONFIG], "adapter_model.bin": _torch_file()})


def _deep() -> str:
    return json.dumps(lora_config())[:-1] + ', "rank_pattern": ' + "[" * 100_000 + "]" * 100_000 + "}"


def _zip64_lie() -> bytes:
    whole = zipped(adapter_files())
    end = whole[-22:]
    place = struct.unpack_from("<L", end, 16)[0]
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2**40, 2**40, len(whole) - 22 - place, place
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(whole) - 22, 1)
    return whole[:-22] + record + locator + end[:8] + b"\xff" * 12 + end[20:]


def _zip64_unannounced() -> bytes:
    """A directory that seems to hold the records of a zip64, which speak of a directory of a terabyte."""
    whole = zipped(adapter_files())
    directory_end = len(whole) - 22
    size, place = struct.unpack_from("<2L", whole, directory_end + 12)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, 2**40, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, directory_end, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, size + len(record) + len(locator), place, 0)
    return whole[:-22] + record + locator + end


def _zip64_elsewhere() -> bytes:
    whole = zipped(adapter_files())
    return whole[:-22] + whole[-22:-14] + b"\xff" * 12 + whole[-2:]


def _lying_safetensors(header: str) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode()


HOSTILE = [
    # Ways out of the folder.
    Hostile("a parent folder", named("../evil.json"), "ZIP_UNSAFE_NAME", "leads out"),
    Hostile("many parent folders", named("a/../../../../etc/passwd"), "ZIP_UNSAFE_NAME", "leads out"),
    Hostile("a parent folder at the end", named("a/.."), "ZIP_UNSAFE_NAME", "leads out"),
    Hostile("the folder itself", named("./config.json"), "ZIP_UNSAFE_NAME", "leads out"),
    Hostile("an empty part", named("a//b.json"), "ZIP_UNSAFE_NAME", "leads out"),
    Hostile("dots and a space", named("a/.. /b"), "ZIP_UNSAFE_NAME", "leads out"),
    Hostile("three dots", named("a/.../b"), "ZIP_UNSAFE_NAME", "leads out"),
    Hostile("backslashes", named("..\\evil.json"), "ZIP_UNSAFE_NAME", "backslash"),
    Hostile("a mix of slashes", named("a/..\\../evil.json"), "ZIP_UNSAFE_NAME", "backslash"),
    Hostile("percent signs", named("%2e%2e%2fevil.json"), "ZIP_UNSAFE_NAME", "encoding"),
    Hostile("percent signs twice", named("%252e%252e/evil.json"), "ZIP_UNSAFE_NAME", "encoding"),
    Hostile("wide dots and slash", named("．．／evil.json"), "ZIP_UNSAFE_NAME", "leads out"),
    Hostile("a two-dot leader", named("\u2025/evil.json"), "ZIP_UNSAFE_NAME", "leads out"),
    Hostile("overlong UTF-8", named(b"\xc0\xae\xc0\xae/evil.json"), "ZIP_UNSAFE_NAME", "not the text"),
    Hostile("an absolute path", named("/etc/cron.d/evil"), "ZIP_UNSAFE_NAME", "root of a disk"),
    Hostile("a share", named("//server/share/evil"), "ZIP_UNSAFE_NAME", "root of a disk"),
    Hostile("a home", named("~/.bashrc"), "ZIP_UNSAFE_NAME", "home"),
    Hostile("a drive", named("C:/evil.json"), "ZIP_UNSAFE_NAME", "drive"),
    Hostile("a drive without a slash", named("c:evil.json"), "ZIP_UNSAFE_NAME", "drive"),
    Hostile("a stream of NTFS", named("adapter_config.json:evil"), "ZIP_UNSAFE_NAME", "colon"),
    Hostile("a device of Windows", named("a/NUL.txt"), "ZIP_UNSAFE_NAME", "Windows"),
    # Names that are not what they look like.
    Hostile("a zero byte", named("adapter.json\0.bin"), "ZIP_UNSAFE_NAME", "zero byte"),
    Hostile("a line break", named("a\nb.json"), "ZIP_UNSAFE_NAME", "cannot be seen"),
    Hostile("an escape of terminals", named("\x1b[2Jevil"), "ZIP_UNSAFE_NAME", "cannot be seen"),
    Hostile("right to left", named(f"evil{RLO}nosj.json"), "ZIP_UNSAFE_NAME", "cannot be seen"),
    Hostile("a joiner of no width", named("adapter\u200b_config.json"), "ZIP_UNSAFE_NAME", "cannot be seen"),
    Hostile("a trailing dot", named("adapter_config.json."), "ZIP_UNSAFE_NAME", "dot"),
    Hostile("a trailing space", named("adapter_config.json "), "ZIP_UNSAFE_NAME", "space"),
    Hostile("a long name", named("a" * 200 + ".json"), "ZIP_UNSAFE_NAME", "too long"),
    Hostile("a very long name", named("a/" * 3 + "b" * 60_000), "ZIP_UNSAFE_NAME", "too long"),
    Hostile("a deep folder", named("a/" * 20 + "b.json"), "ZIP_UNSAFE_NAME", "deep"),
    Hostile("no name", named(""), "ZIP_UNSAFE_NAME", "empty"),
    # One name twice.
    Hostile("a name twice", named(CONFIG), "ZIP_DUPLICATE_NAME", "twice"),
    Hostile("another case", named("Adapter_Config.JSON"), "ZIP_DUPLICATE_NAME", "twice"),
    Hostile("another spelling", named("adapter_ｃonfig.json"), "ZIP_DUPLICATE_NAME", "twice"),
    Hostile(
        "a file that is a folder", named(f"{CONFIG}/evil.json"), "ZIP_DUPLICATE_NAME", "a file and a folder"
    ),
    # What is no file.
    Hostile(
        "a link", lambda: with_entries(Entry(b"l", b"/etc/passwd", external=SYMLINK)), "ZIP_LINK", "link"
    ),
    Hostile(
        "the weights as a link",
        lambda: forged(
            [
                Entry(CONFIG.encode(), b"{}"),
                Entry(WEIGHTS.encode(), b"/etc/shadow", method=0, external=SYMLINK),
            ]
        ),
        "ZIP_LINK",
        "link",
    ),
    Hostile("a link of Windows", lambda: with_entries(Entry(b"l", b"x", external=0x400)), "ZIP_LINK", "link"),
    Hostile("a device", lambda: with_entries(Entry(b"d", external=DEVICE)), "ZIP_DEVICE", "no file"),
    Hostile("a pipe", lambda: with_entries(Entry(b"p", external=FIFO)), "ZIP_DEVICE", "no file"),
    Hostile("a folder with bytes", lambda: with_entries(Entry(b"d/", b"x" * 50)), "ZIP_DAMAGED", "tampered"),
    # Bombs.
    Hostile("zeros", weights_of(bytes(60_000_000)), "ZIP_BOMB", "far more"),
    Hostile("a config of zeros", config_of(" " * 100_000_000), "ZIP_BOMB", "far more"),
    Hostile("entries over each other", _overlapping, "ZIP_BOMB", "far more"),
    Hostile("entries inside each other", _quoted, "ZIP_BOMB", "far more"),
    Hostile(
        "more than it claims",
        lambda: forged([Entry(CONFIG.encode(), b"{}"), Entry(WEIGHTS.encode(), bytes(40_000_000), size=900)]),
        "ZIP_BOMB",
        "far more",
    ),
    Hostile(
        "a claim of 4 GB",
        lambda: with_entries(Entry(b"a.txt", b"x", size=0xFFFFFFFE)),
        "ZIP_BOMB",
        "far more",
    ),
    Hostile(
        "larger than the limit",
        lambda: zipped({**adapter_files(), "a.txt": _noise(12_000_000)}, method=zipfile.ZIP_STORED),
        "ADAPTER_TOO_LARGE",
        "MUSICGEN_MAX_ADAPTER_MB",
    ),
    Hostile(
        "a large config",
        lambda: zipped({**adapter_files(), CONFIG: _noise(3_000_000)}, method=zipfile.ZIP_STORED),
        "CONFIG_TOO_LARGE",
        "1 MB",
    ),
    Hostile("a zip in the zip", named("more.zip"), "ZIP_NESTED", "another archive"),
    Hostile("a tar in the zip", named("logs/run.TAR"), "ZIP_NESTED", "another archive"),
    Hostile("1001 files", lambda: _many(1001), "ZIP_TOO_MANY_FILES", "more than 1000"),
    Hostile("60000 files", lambda: _many(60_000), "ZIP_TOO_MANY_FILES", "more than 1000"),
    # Lies.
    Hostile(
        "fewer entries than told", lambda: forged([Entry(b"a", b"x")], count=3), "ZIP_DAMAGED", "tampered"
    ),
    Hostile(
        "another name inside",
        lambda: with_entries(Entry(b"notes.txt", b"x", local_name=b"../../x.x")),
        "ZIP_DAMAGED",
        "tampered",
    ),
    Hostile(
        "another method inside",
        lambda: with_entries(Entry(b"a", b"x", local_method=0)),
        "ZIP_DAMAGED",
        "tampered",
    ),
    Hostile("a wrong checksum", _flipped, "ZIP_DAMAGED", "tampered"),
    Hostile("bytes that are no deflate", _broken_stream, "ZIP_DAMAGED", "tampered"),
    Hostile(
        "a stored file of two sizes",
        lambda: with_entries(Entry(b"a", b"xy", 0, size=9)),
        "ZIP_DAMAGED",
        "tampered",
    ),
    Hostile(
        "an entry outside the file",
        lambda: with_entries(Entry(b"a", b"x", offset=10**6)),
        "ZIP_DAMAGED",
        "tampered",
    ),
    Hostile(
        "a directory elsewhere", lambda: forged([Entry(b"a")], directory_offset=0), "ZIP_DAMAGED", "tampered"
    ),
    Hostile("a zip64 that lies", _zip64_lie, "ZIP_TOO_MANY_FILES", "more than 1000"),
    Hostile("a zip64 that nobody announced", _zip64_unannounced, "ZIP_DAMAGED", "tampered"),
    Hostile("a zip64 without its records", _zip64_elsewhere, "ZIP_DAMAGED", "tampered"),
    Hostile(
        "a part of several", lambda: forged([Entry(b"a")], disk=1), "ZIP_UNSUPPORTED", "one part of several"
    ),
    Hostile(
        "something before the zip", lambda: b"#!/bin/sh\n" + zipped(adapter_files()), "NOT_A_ZIP", "not a zip"
    ),
    Hostile(
        "a zip before the zip",
        lambda: zipped({"a": b"x"}) + zipped(adapter_files()),
        "ZIP_DAMAGED",
        "tampered",
    ),
    Hostile(
        "something after the zip", lambda: zipped(adapter_files()) + b"\0" * 99, "ZIP_DAMAGED", "tampered"
    ),
    # Not readable.
    Hostile("a password", lambda: with_entries(Entry(b"a", b"x", flags=1)), "ZIP_ENCRYPTED", "password"),
    Hostile(
        "a strong password", lambda: with_entries(Entry(b"a", b"x", method=99)), "ZIP_ENCRYPTED", "password"
    ),
    Hostile("bzip2", lambda: zipped(adapter_files(), method=zipfile.ZIP_BZIP2), "ZIP_UNSUPPORTED", "bzip2"),
    Hostile("LZMA", lambda: zipped(adapter_files(), method=zipfile.ZIP_LZMA), "ZIP_UNSUPPORTED", "LZMA"),
    Hostile(
        "an unknown method", lambda: with_entries(Entry(b"a", method=77)), "ZIP_UNSUPPORTED", "method 77"
    ),
    Hostile("half a zip", _cut(0.5), "ZIP_DAMAGED", "cut off"),
    Hostile("all but its last bytes", _cut(0.999), "ZIP_DAMAGED", "cut off"),
    Hostile("an empty file", lambda: b"", "NOT_A_ZIP", "empty"),
    Hostile("an empty zip", lambda: zipped({}), "ZIP_EMPTY", "empty"),
    # Not a zip.
    Hostile("a 7z archive", lambda: b"7z\xbc\xaf\x27\x1c" + bytes(90), "NOT_A_ZIP", "7z"),
    Hostile("a gzip archive", lambda: b"\x1f\x8b\x08" + bytes(90), "NOT_A_ZIP", "gzip"),
    Hostile("a tar archive", lambda: bytes(257) + b"ustar\0" + bytes(300), "NOT_A_ZIP", "tar"),
    Hostile("a program", lambda: b"MZ\x90\0" + bytes(90), "NOT_A_ZIP", "program"),
    Hostile("a web page", lambda: b"<!DOCTYPE html><html>Log in", "NOT_A_ZIP", "web page"),
    Hostile(
        "a pointer of LFS",
        lambda: b"version https://git-lfs.github.com/spec/v1\n",
        "NOT_A_ZIP",
        "git lfs pull",
    ),
    Hostile("the weights alone", lambda: adapter_files()[WEIGHTS], "NOT_A_ZIP", "safetensors file alone"),
    Hostile("a picture", lambda: b"\x89PNG\r\n\x1a\n" + bytes(90), "NOT_A_ZIP", "not a zip"),
    # Pickles.
    Hostile("a file of PyTorch", _torch_file, "PICKLE_REFUSED", "any program"),
    Hostile("an old file of PyTorch", lambda: b"\x80\x02}q\x00.", "PICKLE_REFUSED", "any program"),
    Hostile("only pickles", _only_pickle, "PICKLE_REFUSED", "adapter_model.bin"),
    # Plain zips of the wrong thing.
    Hostile("holiday pictures", lambda: zipped({"a.jpg": b"x", "b.jpg": b"y"}), "NO_ADAPTER", "no adapter"),
    Hostile(
        "two adapters",
        lambda: zipped({f"{top}/{name}": body for top in "ab" for name, body in adapter_files().items()}),
        "NO_ADAPTER",
        "2 adapters",
    ),
    Hostile(
        "a folder in a folder",
        lambda: zipped(adapter_files(), top="run/checkpoint-9/"),
        "NO_ADAPTER",
        "run/checkpoint-9",
    ),
]

#: Sound zips around files that do harm to whoever reads them.
HOSTILE_FILES = [
    ("deep JSON", config_of(_deep())),
    ("a list for a config", config_of("[]")),
    ("no JSON", config_of("not JSON")),
    ("no text", lambda: zipped({**adapter_files(), CONFIG: b"\xff\xfe\x00"})),
    ("NaN", config_of(json.dumps(lora_config()).replace('"lora_alpha": 8', '"lora_alpha": NaN'))),
    ("infinity", config_of(json.dumps(lora_config()).replace('"lora_alpha": 8', '"lora_alpha": Infinity'))),
    (
        "a number of 100000 digits",
        config_of(json.dumps(lora_config()).replace('"r": 4', '"r": ' + "9" * 100_000)),
    ),
    ("a rank below zero", config_of(json.dumps(lora_config(r=-4)))),
    ("a rank that is text", config_of(json.dumps(lora_config(r="4; rm -rf /")))),
    ("weights of nothing", weights_of(b"")),
    ("weights of noise", weights_of(_noise(200_000))),
    ("a header of 2^63 bytes", weights_of((2**63).to_bytes(8, "little") + b"{}")),
    ("a header that is a list", weights_of(_lying_safetensors("[]"))),
    ("a deep header", weights_of(_lying_safetensors('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"))),
    (
        "tensors outside the file",
        weights_of(_lying_safetensors('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}')),
    ),
    (
        "a tensor of 10^30 numbers",
        weights_of(
            _lying_safetensors(
                '{"a":{"dtype":"F32","shape":[N],"data_offsets":[0,4N]}}'.replace("N", "9" * 30)
            )
        ),
    ),
    ("tensors of no adapter", weights_of(safetensors({"w": ([2], [1.0, 2.0])}))),
]

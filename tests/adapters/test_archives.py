"""Hostile archives: each is refused with its own sentence, quickly, and nothing of it is left on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from adapters.format.errors import AdapterRefused
from adapters.importing.archive import unpack_zip
from adapters.models import Adapter
from adapters.services.importing import ZipSource, import_adapter
from tests.adapters.hostile import HOSTILE, HOSTILE_FILES, Hostile, named
from tests.adapters.zips import CONFIG, WEIGHTS, Entry, adapter_files, forged, with_entries, zipped

#: Nobody waits longer for a refusal, in seconds. Most take a few milliseconds.
LONGEST_SECONDS = 2.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, settings: Any) -> Path:
    settings.STUDIO = settings.STUDIO.model_copy(update={"home": tmp_path / "home", "max_adapter_mb": 200})
    return tmp_path / "home"


def left_in(home: Path) -> list[str]:
    """Every file below the home but the lock that imports hold."""
    return sorted(path.name for path in home.rglob("*") if path.is_file() and path.name != ".lock")


def refusal_of(path: Path) -> AdapterRefused:
    began = time.monotonic()
    with pytest.raises(AdapterRefused) as refused:
        import_adapter(source=ZipSource(path, "evil.zip"))
    assert time.monotonic() - began < LONGEST_SECONDS
    return refused.value


@pytest.mark.django_db
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_it_is_refused_with_its_sentence_and_leaves_nothing(
    hostile: Hostile, home: Path, tmp_path: Path, settings: Any
) -> None:
    if hostile.code == "ADAPTER_TOO_LARGE":
        settings.STUDIO = settings.STUDIO.model_copy(update={"max_adapter_mb": 10})
    archive = tmp_path / "evil.zip"
    archive.write_bytes(hostile.make())
    before = {path for path in tmp_path.rglob("*") if home not in path.parents}
    refused = refusal_of(archive)
    assert refused.code == hostile.code, refused.detail
    assert hostile.says in refused.message
    assert refused.message.endswith(".")
    assert refused.message.isprintable() or "\u202f" in refused.message
    assert left_in(home) == []
    assert {path for path in tmp_path.rglob("*") if home not in path.parents} - {home} == before
    assert not Adapter.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "make"), HOSTILE_FILES, ids=[name for name, _ in HOSTILE_FILES])
def test_hostile_files_in_a_sound_zip_are_refused_and_leave_nothing(
    name: str, make: Any, home: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "evil.zip"
    archive.write_bytes(make())
    refused = refusal_of(archive)
    assert refused.message.endswith(".")
    assert left_in(home) == []
    assert not Adapter.objects.exists()


def test_refusals_that_ask_for_different_things_have_different_sentences() -> None:
    by_code: dict[str, set[str]] = {}
    for hostile in HOSTILE:
        by_code.setdefault(hostile.code, set()).add(hostile.says)
    assert len(HOSTILE) >= 80
    assert len(by_code) >= 15


def test_a_plain_file_name_is_no_reason(tmp_path: Path) -> None:
    """The corpus is refused for its names, and not for being written by hand."""
    archive = tmp_path / "fine.zip"
    for name in (
        "notes.txt",
        "logs/events.json",
        "Ünïcode Näme (2) [v1].txt",
        "日本語.md",
        "a..b.txt",
        "..gitignore",
    ):
        archive.write_bytes(named(name)())
        folder = tmp_path / "out"
        folder.mkdir()
        unpack_zip(archive, folder, max_bytes=10**6)
        (folder / CONFIG).unlink()
        (folder / WEIGHTS).unlink()
        folder.rmdir()


@pytest.mark.parametrize(
    "make",
    [
        lambda files: zipped(files),
        lambda files: zipped(files, method=0),
        lambda files: zipped(files, top="my-adapter/"),
        lambda files: zipped(files, comment=b"a hash of forty characters, as git writes"),
        lambda files: forged([Entry(name.encode(), body) for name, body in files.items()]),
        lambda files: zipped(
            [("my-adapter/", b""), *((f"my-adapter/{name}", body) for name, body in files.items())]
        ),
        lambda files: zipped(
            [*((f"mine/{name}", body) for name, body in files.items()), (f"__MACOSX/mine/._{CONFIG}", b"x")]
        ),
        lambda files: zipped(
            {**files, "optimizer.pt": b"\x80\x02", "training_args.bin": b"x", "a/b/c.txt": b"y"}
        ),
    ],
    ids=[
        "deflated",
        "stored",
        "top folder",
        "comment",
        "by hand",
        "folder entry",
        "from a Mac",
        "left-overs",
    ],
)
def test_an_honest_zip_is_unpacked_whole(make: Any, tmp_path: Path) -> None:
    files = adapter_files(readme="# Mine")
    archive, folder = tmp_path / "a.zip", tmp_path / "out"
    archive.write_bytes(make(files))
    folder.mkdir()
    arrived = unpack_zip(archive, folder, max_bytes=10**6)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert (arrived.config, arrived.weights) == (folder / CONFIG, folder / WEIGHTS)


def test_a_zip64_is_unpacked(tmp_path: Path) -> None:
    import zipfile

    files = adapter_files()
    archive, folder = tmp_path / "a.zip", tmp_path / "out"
    with zipfile.ZipFile(archive, "w") as made:
        for name, body in files.items():
            with made.open(name, "w", force_zip64=True) as entry:
                entry.write(body)
    folder.mkdir()
    unpack_zip(archive, folder, max_bytes=10**6)
    assert (folder / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_only_the_files_of_an_adapter_are_written(tmp_path: Path) -> None:
    archive, folder = tmp_path / "a.zip", tmp_path / "out"
    archive.write_bytes(with_entries(Entry(b"run.sh", b"#!/bin/sh"), Entry(b"training_args.bin", b"x")))
    folder.mkdir()
    arrived = unpack_zip(archive, folder, max_bytes=10**6)
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS}
    assert arrived.left_out == ("training_args.bin",)

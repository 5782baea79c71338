"""Backups that somebody changed, cut off or made up: refused before anything happens."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generation.models import Take
from tests.backup.studios import all_files, all_rows, back_up, refused, studio_at

# --- Archives that were changed ---

Change = Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]


def rewritten(source: Path, target: Path, change: Change, extra: list[tarfile.TarInfo] | None = None) -> Path:
    """The archive with each member changed; `extra` ones stand before the list at its end."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            if member.name == "manifest.json":
                for each in extra or ():
                    new.addfile(each, io.BytesIO(b"x" * each.size))
            changed = change(member, content.read())
            if changed is not None:
                changed[0].size = len(changed[1])
                new.addfile(changed[0], io.BytesIO(changed[1]))
    return target


def same(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return member, content


def member_of(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return member


@pytest.mark.parametrize(
    "extra",
    [
        member_of("home/../../evil"),
        member_of("/tmp/evil"),
        member_of("home//takes/evil"),
        member_of("home/takes/./evil"),
        member_of("home\\..\\evil"),
        member_of("evil"),
        member_of("home/takes/link", tarfile.SYMTYPE, "/etc/passwd"),
        member_of("home/takes/link", tarfile.LNKTYPE, "home/takes/other"),
        member_of("home/takes/pipe", tarfile.FIFOTYPE),
        member_of("home/takes/device", tarfile.CHRTYPE),
        member_of("home/takes", tarfile.DIRTYPE),
        member_of("backup.json"),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}",
)
def test_only_plain_files_of_their_own_place_are_unpacked(
    extra: tarfile.TarInfo, backup: Path, tmp_path: Path
) -> None:
    bad = rewritten(backup, tmp_path / "bad.tar", same, [extra])
    with studio_at(tmp_path / "new") as home:
        assert "It was changed; nothing was restored." in refused(bad)
        assert list(home.iterdir()) == []
    assert not (tmp_path / "evil").exists()


def with_byte_changed(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    is_take = member.name.startswith("home/takes/")
    return member, content[:-1] + bytes([content[-1] ^ 1]) if is_take else content


def without_takes(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes] | None:
    return None if member.name.startswith("home/takes/") else (member, content)


def without_list(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes] | None:
    return None if member.name == "manifest.json" else (member, content)


def without_header(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes] | None:
    return None if member.name == "backup.json" else (member, content)


def of_another_format(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return member, content.replace(b'"format": 1', b'"format": 2')


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_byte_changed, "is damaged: its hash is another"),
        (without_takes, "The backup and its list differ"),
        (without_list, "it was cut off"),
        (without_header, "not a backup of MusicGen Studio"),
        (of_another_format, "The backup is of format 2 and this release reads 1"),
    ],
)
def test_a_changed_backup_is_refused_before_anything_happens(
    change: Change, sentence: str, full: Path, backup: Path, tmp_path: Path
) -> None:
    bad = rewritten(backup, tmp_path / "bad.tar", change)
    rows, files = all_rows(), all_files(full)
    assert sentence in refused(bad, "--force")
    assert all_rows() == rows
    assert all_files(full) == files


@pytest.mark.parametrize("name", ["cut.tar", "cut.tar.gz"])
def test_a_backup_that_was_cut_off_is_refused(name: str, full: Path, tmp_path: Path) -> None:
    whole = back_up(tmp_path / name).read_bytes()
    for part in (len(whole) // 2, len(whole) - len(whole) // 10):
        (tmp_path / name).write_bytes(whole[:part])
        assert "Nothing was changed" in refused(tmp_path / name, "--force")


def forged(source: Path, target: Path, name: str, old: bytes, new: bytes) -> Path:
    """One member changed, and the list with it: as somebody would who knows the format."""
    hashes: dict[str, list[Any]] = {}

    def change(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name == name:
            assert old in content
            content = content.replace(old, new)
            hashes[name] = [len(content), hashlib.sha256(content).hexdigest()]
        if member.name == "manifest.json":
            listed = json.loads(content)
            listed["files"] |= hashes
            content = json.dumps(listed).encode()
        return member, content

    return rewritten(source, target, change)


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (b"../secret_key", "A row of the backup names a file outside its folder"),
        (b"other.wav", "Rows and files of the backup do not agree"),
        (b'", {"', "holds a line that is no row"),
    ],
)
def test_a_row_cannot_name_a_file_elsewhere(
    new: bytes, sentence: str, full: Path, backup: Path, tmp_path: Path
) -> None:
    old = Take.objects.order_by("pk")[0].file_name.encode()
    evil = forged(backup, tmp_path / "bad.tar", "rows/generation.take.jsonl", old, new)
    assert sentence in refused(evil, "--force")


def test_a_backup_of_a_newer_release_is_refused(full: Path, backup: Path, tmp_path: Path) -> None:
    newer = forged(backup, tmp_path / "bad.tar", "backup.json", b'"0002_shipped', b'"0999_shipped')
    assert "made by a newer release" in refused(newer, "--force")


def test_what_is_no_archive_is_refused(studio: Path, tmp_path: Path) -> None:
    (tmp_path / "no.tar").write_bytes(b"no archive at all" * 100)
    assert "is no backup, or was cut off or damaged" in refused(tmp_path / "no.tar")
    assert refused(tmp_path / "none.tar") == f"There is no file {tmp_path / 'none.tar'}."
    assert "is a folder" in refused(tmp_path)

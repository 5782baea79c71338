"""`manage.py backup` and `restore`: everything comes back, agrees with itself, and a failure loses nothing."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers
from django.contrib.auth.models import Group, Permission, User
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from adapters.models import Adapter
from adapters.services.importing import ZipSource, import_adapter
from generation.models import EngineHost, Job, JobStatus, Take
from generation.services import jobs, takes
from musicgen_site.backup import archive, restore
from registry.models import ModelConfig
from tests.adapters.zips import adapter_files, zipped
from tests.generation.music import make_job, make_running_job, make_take, save
from tests.site.studios import build_template, studio_at

Blocker = Any


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Blocker) -> Path:
    """A migrated database."""
    with django_db_blocker.unblock():
        return build_template(tmp_path_factory.mktemp("template") / "template.sqlite3")


@pytest.fixture
def studio(template: Path, tmp_path: Path, django_db_blocker: Blocker) -> Iterator[Path]:
    """The process's own studio, with nothing in it yet. Yields its home."""
    channel_layers.backends.clear()
    with django_db_blocker.unblock(), studio_at(tmp_path / "studio", template=template) as home:
        yield home
    channel_layers.backends.clear()


@pytest.fixture(scope="module")
def original(
    template: Path, tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Blocker
) -> tuple[Path, Path]:
    """A studio with people, jobs in each state, takes and an adapter, and a backup of it; both to be copied only."""
    folder = tmp_path_factory.mktemp("original")
    channel_layers.backends.clear()
    with django_db_blocker.unblock(), studio_at(folder / "studio", template=template) as home:
        fill(folder)
        backup = back_up(folder / "b.tar")
    channel_layers.backends.clear()
    return home, backup


@pytest.fixture
def full(original: tuple[Path, Path], tmp_path: Path, django_db_blocker: Blocker) -> Iterator[Path]:
    """A copy of that studio."""
    home, backup = original
    shutil.copytree(home, tmp_path / "studio")
    shutil.copy(backup, tmp_path / "b.tar")
    channel_layers.backends.clear()
    with django_db_blocker.unblock(), studio_at(tmp_path / "studio"):
        yield tmp_path / "studio"
    channel_layers.backends.clear()


@pytest.fixture
def backup(full: Path, tmp_path: Path) -> Path:
    """A backup of the full studio."""
    return tmp_path / "b.tar"


def fill(folder: Path) -> None:
    alice = User.objects.create_user("alice", password="alice-password")
    alice.groups.add(Group.objects.create(name="listeners"))
    alice.user_permissions.add(Permission.objects.order_by("-pk")[0])
    make_take(alice, prompt="piano «слова» \u2028 \x7f", title="Ä title")
    make_take(alice, prompt="deleted lately", deleted_at=timezone.now())
    save(make_running_job(alice, prompt="half done", variations=2))
    make_job(alice, prompt="waiting")
    failed = make_running_job(alice)
    jobs.end_job(failed, JobStatus.FAILED, host=failed.lease_owner, error_code="X", error_message="Y")
    archive_path = folder / "adapter.zip"
    archive_path.write_bytes(zipped(adapter_files()))
    import_adapter(source=ZipSource(archive_path, "jazz.zip"), name="Jazz")
    EngineHost.objects.create(
        name="old", hostname="elsewhere", pid=1, heartbeat_at=timezone.now() - timedelta(days=1)
    )


def back_up(target: Path) -> Path:
    call_command("backup", str(target), verbosity=0, stdout=io.StringIO())
    return target


def bring_back(source: Path, *options: str) -> dict[str, Any]:
    said = io.StringIO()
    call_command("restore", str(source), "--json", *options, stdout=said)
    answer: dict[str, Any] = json.loads(said.getvalue())
    return answer


def refused(source: Path, *options: str) -> str:
    with pytest.raises(CommandError) as problem:
        bring_back(source, *options)
    return str(problem.value)


def all_rows() -> dict[str, Any]:
    """Every row that should survive, whatever the database."""
    tables = (User, Group, Job, Take, Adapter, ModelConfig)
    found = {table.__name__: list(table._default_manager.order_by("pk").values()) for table in tables}
    # What a running job turns into is told by a test of its own.
    for row in found["Job"]:
        for name in ("status", "attempts", "lease_owner", "lease_expires_at", "stage", "frames_done"):
            row.pop(name)
    for user in User.objects.all():
        found[f"rights of {user}"] = [
            sorted(group.name for group in user.groups.all()),
            sorted(str(right) for right in user.user_permissions.all()),
        ]
    return found


def all_files(home: Path) -> dict[str, bytes]:
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for folder in ("takes", "adapters")
        for path in sorted((home / folder).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def assert_rows_and_files_agree(home: Path) -> None:
    named = {f"takes/{name}" for name in Take.objects.values_list("file_name", flat=True)}
    named |= {
        f"adapters/{sha}.safetensors" for sha in Adapter.objects.values_list("weights_sha256", flat=True)
    }
    assert named == set(all_files(home))


# --- There and back ---


@pytest.mark.parametrize("name", ["studio.tar", "studio.tar.gz"])
def test_everything_comes_back_in_an_empty_home(name: str, full: Path, tmp_path: Path) -> None:
    rows, files = all_rows(), all_files(full)
    assert len(files) == 4
    backup = back_up(tmp_path / name)
    assert backup.stat().st_mode & 0o077 == 0
    with studio_at(tmp_path / "new") as home:
        assert bring_back(backup)["replaced"] == ""
        assert all_rows() == rows
        assert all_files(home) == files
        assert_rows_and_files_agree(home)
        assert User.objects.get(username="alice").check_password("alice-password")
        # A new row does not take the number of an old one.
        assert make_job(User.objects.get(username="alice")).pk > max(row["id"] for row in rows["Job"])
        assert not EngineHost.objects.exists()
        assert list(home.glob(".restore-*")) == []
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_running_jobs_are_queued_again_and_keep_their_takes(full: Path, tmp_path: Path) -> None:
    cancelled = make_running_job(User.objects.get(username="alice"), prompt="cancelled meanwhile")
    jobs.request_cancel(cancelled)
    backup = back_up(tmp_path / "new.tar")
    assert Job.objects.get(prompt="half done").status == JobStatus.RUNNING
    with studio_at(tmp_path / "new"):
        bring_back(backup)
        job = Job.objects.get(prompt="half done")
        assert (job.status, job.attempts, job.lease_owner) == (JobStatus.QUEUED, 0, "")
        assert job.takes.count() == 1
        assert Job.objects.get(prompt="cancelled meanwhile").status == JobStatus.CANCELLED


def test_secrets_logins_and_caches_stay_behind(full: Path, tmp_path: Path) -> None:
    (full / "secret_key").write_text("k" * 50)
    for folder in ("cache", "scratch", "incoming", "replaced-1", "songs"):
        (full / folder).mkdir(exist_ok=True)
        (full / folder / "file.bin").write_bytes(b"something")
    (full / "songs" / "link").symlink_to("/etc/passwd")
    (full / "takes" / "orphan.wav").write_bytes(b"no row")
    with tarfile.open(back_up(tmp_path / "new.tar")) as tar:
        names = tar.getnames()
    kept = [name for name in names if name.startswith("home/")]
    assert "home/songs/file.bin" in kept
    assert {name.split("/")[1] for name in kept} == {"takes", "adapters", "songs"}
    assert not any("orphan" in name or "link" in name or "session" in name for name in names)


def test_a_backup_of_a_busy_studio_agrees_with_itself(studio: Path, tmp_path: Path) -> None:
    alice = User.objects.create_user("alice")
    stop = threading.Event()
    problems: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                make_take(alice)
                old = Take.objects.order_by("id").values_list("pk", flat=True)[:2]
                long_ago = timezone.now() - timedelta(days=1)
                Take.objects.filter(pk__in=list(old)).update(deleted_at=long_ago)
                takes.purge_deleted_takes()
                make_take(alice)
        except BaseException as problem:  # noqa: BLE001 - told by the test itself
            problems.append(problem)
        finally:
            connections.close_all()

    for _ in range(10):
        make_take(alice)
    worker = threading.Thread(target=work)
    worker.start()
    try:
        backups = [back_up(tmp_path / f"{number}.tar") for number in range(2)]
    finally:
        stop.set()
        worker.join()
    assert problems == []
    for number, backup in enumerate(backups):
        with studio_at(tmp_path / f"new-{number}") as home:
            bring_back(backup)
            assert Take.objects.exists()
            assert_rows_and_files_agree(home)


def test_a_take_purged_between_rows_and_files_is_left_out(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = Take.objects.get(prompt="deleted lately")

    def purge_first(*arguments: Any, **named: Any) -> Any:
        Take.objects.filter(pk=doomed.pk).update(deleted_at=timezone.now() - timedelta(days=1))
        assert takes.purge_deleted_takes() == 1
        return writing(*arguments, **named)

    writing = archive.writing
    monkeypatch.setattr("musicgen_site.backup.create.writing", purge_first)
    backup = back_up(tmp_path / "new.tar")
    with studio_at(tmp_path / "new") as home:
        bring_back(backup)
        assert not Take.objects.filter(pk=doomed.pk).exists()
        assert_rows_and_files_agree(home)


def test_a_row_whose_file_was_lost_before_is_kept_and_told(full: Path, tmp_path: Path) -> None:
    take = Take.objects.order_by("pk")[0]
    take.path.unlink()
    said = io.StringIO()
    call_command("backup", str(tmp_path / "new.tar"), stdout=io.StringIO(), stderr=said)
    assert take.file_name in said.getvalue()
    with studio_at(tmp_path / "new"):
        bring_back(tmp_path / "new.tar")
        assert Take.objects.filter(pk=take.pk).exists()


def test_a_backup_of_an_older_release_is_migrated(
    full: Path, tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_command("migrate", "generation", "0003", interactive=False, verbosity=0)
    backup = back_up(tmp_path / "new.tar")
    with tarfile.open(backup) as tar:
        rows = tar.extractfile("rows/generation.job.jsonl")
        assert rows is not None
        assert b"request_id" not in rows.readline()
    with studio_at(tmp_path / "new"):
        bring_back(backup)
        assert set(Job.objects.values_list("request_id", flat=True)) == {""}


@pytest.mark.postgres
def test_rows_move_between_the_kinds_of_database(
    full: Path, tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, files = all_rows(), all_files(full)
    from_sqlite = back_up(tmp_path / "sqlite.tar")
    with studio_at(tmp_path / "on-postgres", url=postgres) as home:
        bring_back(from_sqlite)
        assert all_rows() == rows
        assert all_files(home) == files
        alice = User.objects.get(username="alice")
        assert make_job(alice, prompt="made there").pk > max(row["id"] for row in rows["Job"])
        from_postgres = back_up(tmp_path / "postgres.tar")
        rows = all_rows()

        # In the place of what is there: whole, or not at all.
        assert "not empty" in refused(from_sqlite)
        monkeypatch.setattr(restore, "_compare_files", fail)
        assert "no disk today" in refused(from_sqlite, "--force")
        assert all_rows() == rows
        monkeypatch.undo()
        replaced = Path(bring_back(from_sqlite, "--force")["replaced"])
        assert not Job.objects.filter(prompt="made there").exists()
        assert all_files(replaced) == all_files(home) == files
    with studio_at(tmp_path / "back"):
        bring_back(from_postgres)
        assert all_rows() == rows


# --- What is refused ---


def fail(*arguments: Any, **named: Any) -> None:
    raise OSError("no disk today")


def test_a_studio_that_is_not_empty_is_left_alone_without_force(
    full: Path, backup: Path, tmp_path: Path
) -> None:
    rows, files = all_rows(), all_files(full)
    assert "is not empty" in refused(backup)
    for path in (full / "takes").iterdir():
        path.rename(tmp_path / path.name)
    for path in (full / "adapters").iterdir():
        path.unlink()
    assert "The database is not empty" in refused(backup)
    report = bring_back(backup, "--force")
    assert all_rows() == rows
    assert all_files(full) == files
    assert (Path(report["replaced"]) / "studio.sqlite3").is_file()


def test_force_moves_aside_what_was_there(full: Path, backup: Path, tmp_path: Path) -> None:
    later = make_take(User.objects.get(username="alice"), prompt="made later")
    replaced = Path(bring_back(backup, "--force")["replaced"])
    assert not Take.objects.filter(pk=later.pk).exists()
    assert_rows_and_files_agree(full)
    assert (replaced / "takes" / later.file_name).is_file()
    with studio_at(replaced):
        assert Take.objects.filter(pk=later.pk).exists()


def test_a_running_studio_is_not_replaced(full: Path, backup: Path, tmp_path: Path) -> None:
    EngineHost.objects.create(name="alive", hostname="elsewhere", pid=1)
    assert (
        refused(backup, "--force")
        == "The studio is running. Stop its web and engine processes, then restore."
    )


@pytest.mark.parametrize("step", ["rows.build", "_Swap.put_home", "_Swap.put_database"])
def test_a_failure_at_any_step_loses_nothing(
    step: str, full: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_take(User.objects.get(username="alice"), prompt="made later")
    rows, files = all_rows(), all_files(full)
    names = sorted(path.name for path in full.iterdir())
    monkeypatch.setattr(f"musicgen_site.backup.restore.{step}", fail)
    assert "no disk today" in refused(backup, "--force")
    connections["default"].close()
    assert all_rows() == rows
    assert all_files(full) == files
    left = sorted(path.name for path in full.iterdir() if not path.name.startswith("replaced-"))
    assert [name for name in left if not name.endswith(("-wal", "-shm"))] == [
        name for name in names if not name.endswith(("-wal", "-shm"))
    ]


def test_a_half_done_swap_is_undone(
    full: Path, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, files = all_rows(), all_files(full)
    count = 0
    rename = Path.rename

    def fails_once(path: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == 5:  # takes and adapters aside, both new ones in place, then the database
            raise OSError("no disk today")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    assert "no disk today" in refused(backup, "--force")
    assert count > 5
    assert all_rows() == rows
    assert all_files(full) == files


def test_a_backup_is_not_written_over_a_file_nor_into_the_home(full: Path, tmp_path: Path) -> None:
    there = tmp_path / "c.tar"
    there.write_text("mine")
    with pytest.raises(CommandError, match="exists already"):
        back_up(there)
    assert there.read_text() == "mine"
    with pytest.raises(CommandError, match="outside the studio's own folder"):
        back_up(full / "c.tar")
    with pytest.raises(CommandError, match="There is no folder"):
        back_up(tmp_path / "none" / "c.tar")


def test_a_full_disk_leaves_no_half_backup(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CommandError, match="no disk today"):
        back_up(tmp_path / "c.tar")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "c."))] == []


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
    newer = forged(backup, tmp_path / "bad.tar", "backup.json", b'"0004_', b'"0999_')
    assert "made by a newer release" in refused(newer, "--force")


def test_what_is_no_archive_is_refused(studio: Path, tmp_path: Path) -> None:
    (tmp_path / "no.tar").write_bytes(b"no archive at all" * 100)
    assert "is no backup, or was cut off or damaged" in refused(tmp_path / "no.tar")
    assert refused(tmp_path / "none.tar") == f"There is no file {tmp_path / 'none.tar'}."
    assert "is a folder" in refused(tmp_path)

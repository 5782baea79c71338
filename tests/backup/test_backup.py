"""`manage.py backup` and `restore`: everything comes back, agrees with itself, and a failure loses nothing."""

import io
import os
import tarfile
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from generation.models import EngineHost, Job, JobStatus, Take
from generation.services import jobs, takes
from musicgen_site.backup import archive, restore
from tests.backup.studios import (
    all_files,
    all_rows,
    assert_rows_and_files_agree,
    back_up,
    bring_back,
    fail,
    refused,
    studio_at,
)
from tests.generation.music import make_job, make_running_job, make_take
from tests.media_files import take_file

# --- There and back ---


@pytest.mark.usefixtures("by_migrations")
@pytest.mark.parametrize("name", ["studio.tar", "studio.tar.gz"])
def test_everything_comes_back_in_an_empty_home(name: str, full: Path, tmp_path: Path) -> None:
    rows, files = all_rows(), all_files(full)
    assert len(files) == 5
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
    assert {name.split("/")[1] for name in kept} == {"takes", "clips", "adapters", "songs"}
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
    take_file(take).unlink()
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


def test_a_studio_that_is_not_empty_is_left_alone_without_force(
    full: Path, backup: Path, tmp_path: Path
) -> None:
    rows, files = all_rows(), all_files(full)
    assert "is not empty" in refused(backup)
    for path in (full / "takes").iterdir():
        path.rename(tmp_path / path.name)
    for path in (*(full / "adapters").iterdir(), *(full / "clips").iterdir()):
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

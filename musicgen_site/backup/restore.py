"""Brings a backup back: unpacked and checked aside, its database built aside, and only then put into place.

Until that last step nothing of the present studio is touched, and a failure in it is undone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction
from django.db.models import Case, F, Q, Value, When
from django.utils import timezone

from generation.models import Job, JobStatus
from generation.services.hosts import running_host
from musicgen_site.backup import files, rows
from musicgen_site.backup.archive import BackupProblem, unpack
from musicgen_site.studio_settings import create_home
from registry.media import probe

#: Tables that a fresh studio fills by itself.
_FILLED_BY_ITSELF = rows.LEFT_OUT | {"contenttypes.contenttype", "auth.permission", "registry.modelconfig"}
_CHANGED = "It was changed; nothing was restored."


@dataclass
class RestoreReport:
    """What a restore brought back, and where it put what was there before (empty when nothing was)."""

    made_at: str
    rows: int
    files: int
    replaced: str


def restore_backup(source: Path, home: Path, *, force: bool) -> RestoreReport:
    """Make the studio what it was at the backup. Raises BackupProblem, OSError, DatabaseError; then it is as before."""
    _refuse_where_it_would_harm(home, force=force)
    probe()
    create_home(home)
    staging = Path(tempfile.mkdtemp(prefix=".restore-", dir=home))
    try:
        header, manifest = unpack(source, staging)
        try:
            leaves = [(str(app), str(name)) for app, name in header["migrations"]]
            counts = {str(label): int(count) for label, count in header["tables"].items()}
            gone = {label: list(manifest["gone"].get(label, ())) for label in files.LABELS}
            lost = {str(path) for path in manifest["lost"]}
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise BackupProblem(f"The backup's own description is not complete. {_CHANGED}") from problem
        rows.check_known(leaves)
        swap = _Swap(home)
        with _target_database(swap) as alias:
            rows.build(alias, leaves, staging / "rows", counts)
            _settle(alias, gone)
            _compare_files(alias, staging / "home", lost)
            _put_into_bucket(staging / "home")
            if alias == DEFAULT_DB_ALIAS:
                swap.put_home(staging / "home")
        if alias != DEFAULT_DB_ALIAS:
            with swap.undone_on_failure():
                swap.put_home(staging / "home")
                swap.put_database()
        return RestoreReport(
            made_at=str(header.get("made_at", "")),
            rows=sum(counts.values()),
            files=sum(1 for name in manifest["files"] if name.startswith("home/")),
            replaced=swap.replaced,
        )
    finally:
        shutil.rmtree(staging, ignore_errors=True)


# --- What must not be overwritten ---


def _refuse_where_it_would_harm(home: Path, *, force: bool) -> None:
    database = connections[DEFAULT_DB_ALIAS]
    for entry in files.kept_entries(home):
        if entry.is_symlink():
            raise BackupProblem(
                f"{entry} is a link. Remove it, restore, and move the folder to where it should lie afterwards."
            )
    has_database = database.vendor != "sqlite" or Path(database.settings_dict["NAME"]).exists()
    if has_database and _is_running():
        raise BackupProblem("The studio is running. Stop its web and engine processes, then restore.")
    if force:
        return
    here = "Restore into an empty one, or add --force: what is there is then moved aside."
    if next(_files_in(home), None) is not None:
        raise BackupProblem(f"The studio's folder {home} is not empty. {here}")
    if any(media_of().is_remote and media_of().entries() for media_of in files.MEDIA.values()):
        raise BackupProblem(
            "The bucket of MUSICGEN_MEDIA_URL is not empty. Name another prefix, or add --force: what no row names"
            " afterwards is then set aside by the clean-up."
        )
    if has_database and _has_rows():
        raise BackupProblem(
            "The database is not empty. Restore into an empty one, or add --force: what is in it is then replaced."
        )


def _is_running() -> bool:
    try:
        return running_host() is not None
    except DatabaseError:  # there are no tables yet, or those of another release
        return False


def _files_in(home: Path) -> Iterator[Path]:
    for entry in files.kept_entries(home):
        paths = entry.rglob("*") if entry.is_dir() else iter([entry])
        yield from (path for path in paths if path.is_file() and not path.name.startswith("."))


def _has_rows() -> bool:
    connection = connections[DEFAULT_DB_ALIAS]
    there = set(connection.introspection.table_names())
    with connection.cursor() as cursor:
        for model in apps.get_models(include_auto_created=True):
            table = model._meta.db_table
            if table not in there or model._meta.label_lower in _FILLED_BY_ITSELF:
                continue
            cursor.execute(f"SELECT 1 FROM {connection.ops.quote_name(table)} LIMIT 1")  # noqa: S608 - names of ours
            if cursor.fetchone():
                return True
    return False


# --- The database ---


@contextlib.contextmanager
def _target_database(swap: _Swap) -> Iterator[str]:
    """An empty database to build: a file beside SQLite's own, or PostgreSQL's own within one transaction."""
    connection = connections[DEFAULT_DB_ALIAS]
    if connection.vendor == "sqlite":
        place = Path(connection.settings_dict["NAME"])
        create_home(place.parent)
        swap.database = (place.with_name(f".restore-{secrets.token_hex(6)}.sqlite3"), place)
        try:
            with rows.another_database("restored", {"NAME": swap.database[0]}) as alias:
                yield alias
                with connections[alias].cursor() as cursor:
                    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except BaseException:
            swap.drop_new_database()
            raise
        return
    with swap.undone_on_failure(), transaction.atomic():
        names = {*connection.introspection.django_table_names(only_existing=True), "django_migrations"}
        with connection.cursor() as cursor:
            for name in sorted(names & set(connection.introspection.table_names(cursor))):
                cursor.execute(f"DROP TABLE {connection.ops.quote_name(name)} CASCADE")
        yield DEFAULT_DB_ALIAS


def _settle(alias: str, gone: dict[str, list[Any]]) -> None:
    """What was under way belongs to hosts that are not here: it goes back to the queue without counting as tried."""
    for label, pks in gone.items():
        apps.get_model(label)._base_manager.using(alias).filter(pk__in=pks).delete()
    running = Job.objects.using(alias).filter(status=JobStatus.RUNNING)
    nothing = {"lease_owner": "", "lease_expires_at": None, "stage": "", "stage_fraction": None, "live": None}
    running.filter(cancel_requested_at__isnull=False).update(
        status=JobStatus.CANCELLED, finished_at=timezone.now(), **nothing
    )
    fewer = Case(When(Q(attempts__gt=0), then=F("attempts") - 1), default=Value(0))
    running.update(status=JobStatus.QUEUED, attempts=fewer, frames_done=0, **nothing)


def _compare_files(alias: str, unpacked: Path, lost: set[str]) -> None:
    """Every row has its file and every file its row. Raises BackupProblem."""
    named = {each.path for each in files.named_files(apps, alias)}
    there = {
        path.relative_to(unpacked).as_posix()
        for folder in files.BY_ROW
        for path in (unpacked / folder).rglob("*")
        if path.is_file()
    }
    if any(len(Path(path).parts) != 2 or ".." in path for path in named):
        raise BackupProblem(f"A row of the backup names a file outside its folder. {_CHANGED}")
    if named - lost != there:
        odd = sorted((named - lost) ^ there)[0]
        raise BackupProblem(f"Rows and files of the backup do not agree: {odd}. {_CHANGED}")


# --- Into place ---


def _put_into_bucket(unpacked: Path) -> None:
    """Upload what belongs there. A name always means the same content, so that this takes nothing from the present studio.

    What is there and has no row afterwards is an orphan, which the clean-up sets aside. Raises MediaAway.
    """
    for name, media_of in files.MEDIA.items():
        media, folder = media_of(), unpacked / name
        if not media.is_remote or not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            with media.writing(path.name) as target:
                path.replace(target)
        folder.rmdir()


@dataclass
class _Swap:
    """Moves what is there aside and the new into its place, and back again when something fails."""

    home: Path
    database: tuple[Path, Path] | None = None
    replaced: str = ""
    _moves: list[tuple[Path, Path]] = field(default_factory=list)
    _stamp: str = field(default_factory=lambda: f"{files.REPLACED}{timezone.now():%Y%m%d-%H%M%S}")

    def put_home(self, unpacked: Path) -> None:
        """The files."""
        os.sync()  # what takes the place of the old must be on the disk
        for entry in files.kept_entries(self.home):
            self._move_aside(entry)
        for entry in sorted(unpacked.iterdir()) if unpacked.is_dir() else ():
            self._move(entry, self.home / entry.name)

    def put_database(self) -> None:
        """SQLite's file, the last step: from here on the studio is the restored one."""
        assert self.database is not None
        new, place = self.database
        connections[DEFAULT_DB_ALIAS].close()
        for suffix in ("-wal", "-shm", ""):
            old = place.with_name(place.name + suffix)
            if old.exists():
                self._move_aside(old)
        self._move(new, place)

    def drop_new_database(self) -> None:
        """Remove what was built of a database that is not wanted."""
        if self.database is not None:
            for suffix in ("-wal", "-shm", ""):
                self.database[0].with_name(self.database[0].name + suffix).unlink(missing_ok=True)

    @contextlib.contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Move everything back when the block fails, also at its very end."""
        try:
            yield
        except BaseException:
            for source, target in reversed(self._moves):
                target.rename(source)
            self.drop_new_database()
            raise

    def _move_aside(self, entry: Path) -> None:
        folder = entry.parent / self._stamp
        folder.mkdir(mode=0o700, exist_ok=True)
        self.replaced = str(folder)
        self._move(entry, folder / entry.name)

    def _move(self, source: Path, target: Path) -> None:
        source.rename(target)
        self._moves.append((source, target))

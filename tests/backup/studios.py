"""Whole studios for tests of backups: a home and a database of their own, one at a time the process's own."""

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import dj_database_url
import pytest
from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.core.management import CommandError, call_command
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils import timezone

from adapters.models import Adapter
from adapters.services.importing import ZipSource, import_adapter
from generation.models import Clip, EngineHost, Job, JobStatus, Take
from generation.services import jobs
from registry.models import ModelConfig
from tests.adapters.zips import adapter_files, zipped
from tests.generation.music import make_clip, make_job, make_running_job, make_take, save


@contextmanager
def studio_at(home: Path, *, template: Path | None = None, url: str = "") -> Iterator[Path]:
    """This process's studio is the one at `home`; its SQLite database is a copy of the template, where one is named.

    `url` names a PostgreSQL database instead. The caller lets queries through.
    """
    kept_settings, kept_studio = connections.settings[DEFAULT_DB_ALIAS], settings.STUDIO
    kept_connection = connections[DEFAULT_DB_ALIAS]
    changes: dict[str, Any] = {"NAME": home / "studio.sqlite3"}
    if url:
        changes = {**dj_database_url.parse(url), "OPTIONS": {}}
    if template is not None:
        home.mkdir(parents=True)
        shutil.copy(template, home / "studio.sqlite3")
    connections.settings[DEFAULT_DB_ALIAS] = {**kept_settings, **changes}
    del connections[DEFAULT_DB_ALIAS]
    settings.STUDIO = kept_studio.model_copy(update={"home": home})
    try:
        yield home
    finally:
        connections[DEFAULT_DB_ALIAS].close()
        settings.STUDIO = kept_studio
        connections.settings[DEFAULT_DB_ALIAS] = kept_settings
        connections[DEFAULT_DB_ALIAS] = kept_connection


def fill(folder: Path) -> None:
    alice = User.objects.create_user("alice", password="alice-password")
    alice.groups.add(Group.objects.create(name="listeners"))
    alice.user_permissions.add(Permission.objects.order_by("-pk")[0])
    make_take(alice, prompt="piano «слова» \u2028 \x7f", title="Ä title")
    make_take(alice, prompt="deleted lately", deleted_at=timezone.now())
    make_clip(alice)
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
    tables = (User, Group, Job, Take, Clip, Adapter, ModelConfig)
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
        for folder in ("takes", "clips", "adapters")
        for path in sorted((home / folder).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def assert_rows_and_files_agree(home: Path) -> None:
    named = {f"takes/{name}" for name in Take.objects.values_list("file_name", flat=True)}
    named |= {f"clips/{name}" for name in Clip.objects.values_list("file_name", flat=True)}
    named |= {
        f"adapters/{sha}.safetensors" for sha in Adapter.objects.values_list("weights_sha256", flat=True)
    }
    assert named == set(all_files(home))


def fail(*arguments: Any, **named: Any) -> None:
    raise OSError("no disk today")

"""Studios to back up: an empty one, and one with something of everything."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers
from django.db.migrations.executor import MigrationExecutor

from musicgen_site.backup import rows
from tests.backup.studios import back_up, fill, studio_at
from tests.conftest import Prepare

Blocker = Any


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, prepared: Prepare) -> Path:
    """A migrated database, to be copied."""
    home = tmp_path_factory.mktemp("template") / "home"
    prepared(home)
    return home / "studio.sqlite3"


@pytest.fixture
def by_migrations() -> None:
    """For tests whose restores make their tables by migrations; see `copied_tables`."""


@pytest.fixture(autouse=True)
def copied_tables(template: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let restores copy this release's empty SQLite tables: migrations take most of a restore's time.

    The tables of older releases and of PostgreSQL are still made by migrations.
    """

    class Copying(MigrationExecutor):
        def migrate(self, targets: Any, *arguments: Any, **options: Any) -> Any:
            is_current = sorted(targets) == sorted(self.loader.graph.leaf_nodes())
            if self.connection.vendor != "sqlite" or self.loader.applied_migrations or not is_current:
                return super().migrate(targets, *arguments, **options)
            with closing(sqlite3.connect(template)) as source:
                source.backup(self.connection.connection)
            return None

    if "by_migrations" not in request.fixturenames:
        monkeypatch.setattr(rows, "MigrationExecutor", Copying)


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

"""Studios to back up: an empty one, and one with something of everything."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers

from tests.backup.studios import back_up, build_template, fill, studio_at

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

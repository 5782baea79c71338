"""Whole studios for tests of backups: a home and a database of their own, one at a time the process's own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dj_database_url
from django.conf import settings
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, connections

from musicgen_site.backup.rows import another_database


def build_template(path: Path) -> Path:
    """An empty, migrated SQLite database, to be copied."""
    with another_database("template", {"NAME": path}) as alias:
        call_command("migrate", database=alias, interactive=False, verbosity=0)
        with connections[alias].cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


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

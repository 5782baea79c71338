"""Rows as lines of JSON, table by table, and back: every column exactly, into either kind of database.

Written and read through the models as they were at the backup's own migrations, so that an older backup is first
restored as it was and then migrated.
"""

from __future__ import annotations

import json
import sqlite3
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.management.color import no_style
from django.core.management.sql import emit_post_migrate_signal
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.models import Field, Model
from django.utils.duration import duration_string

from musicgen_site.backup.archive import BackupProblem

#: What lets people in is not carried over; hosts belong to processes that run, and counts of tries to the moment.
LEFT_OUT: Final = frozenset(
    {"sessions.session", "generation.enginehost", "musicgen_site.setuplink", "gated_configs.ratelimit"}
)
_CHUNK: Final = 500

Key = tuple[str, str]


# --- Reading ---


@contextmanager
def snapshot(scratch: Path) -> Iterator[str]:
    """The alias of a database that stands still at this moment, whatever the studio goes on to write."""
    live = connections[DEFAULT_DB_ALIAS]
    if live.vendor != "sqlite":
        with transaction.atomic(using=DEFAULT_DB_ALIAS):
            with live.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield DEFAULT_DB_ALIAS
        return
    copy = scratch / "snapshot.sqlite3"
    live.ensure_connection()
    target = sqlite3.connect(copy)
    try:
        live.connection.backup(target)
    finally:
        target.close()
    with another_database("snapshot", {"NAME": copy}) as alias:
        yield alias


@contextmanager
def another_database(alias: str, changes: dict[str, Any]) -> Iterator[str]:
    """A database beside the studio's own for as long as the block lasts."""
    connections.settings[alias] = {**connections.settings[DEFAULT_DB_ALIAS], **changes}
    try:
        yield alias
    finally:
        connections[alias].close()
        del connections[alias]
        del connections.settings[alias]


def applied_leaves(alias: str) -> list[Key]:
    """The last migration of each app in that database. Raises BackupProblem where it is of a newer release."""
    loader = MigrationLoader(connections[alias])
    applied = set(loader.applied_migrations)
    unknown = sorted(
        key for key in applied if key[0] in loader.migrated_apps and key not in loader.graph.nodes
    )
    if unknown:
        raise BackupProblem(
            "The database is of a newer release than this one. Make the backup with that one."
        )
    if not applied:
        raise BackupProblem("There is no database yet, so there is nothing to keep.")
    known = applied & loader.graph.nodes.keys()
    return sorted(
        key
        for key in known
        if not any(
            child.key in known and child.key[0] == key[0] for child in loader.graph.node_map[key].children
        )
    )


def models_at(leaves: list[Key]) -> Any:
    """The models as they were at these migrations, as an app registry."""
    return MigrationLoader(None).project_state(leaves).apps


def tables_of(apps: Any) -> dict[str, type[Model]]:
    """Every table that a backup holds, by the label of its model."""
    found = {model._meta.label_lower: model for model in apps.get_models(include_auto_created=True)}
    return {
        label: model
        for label, model in sorted(found.items())
        if label not in LEFT_OUT and model._meta.managed and not model._meta.proxy
    }


def write_tables(alias: str, apps: Any, folder: Path) -> dict[str, int]:
    """Write `LABEL.jsonl` for each table: its columns, then a line a row. Returns the rows of each."""
    counts = {}
    for label, model in tables_of(apps).items():
        names = [field.attname for field in _columns(model)]
        rows = model._base_manager.using(alias).order_by("pk").values_list(*names)
        counts[label] = 0
        with (folder / f"{label}.jsonl").open("x", encoding="ascii") as output:
            output.write(json.dumps(names) + "\n")
            for row in rows.iterator(chunk_size=2000):
                output.write(json.dumps([_plain(value) for value in row]) + "\n")
                counts[label] += 1
    return counts


def _columns(model: type[Model]) -> list[Field[Any, Any]]:
    return [field for field in model._meta.local_concrete_fields if not field.generated]


def _plain(value: Any) -> Any:
    """A column's value for JSON; what is JSON by itself stays, and a field's `to_python` reads the rest back."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return duration_string(value)
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, bytes | memoryview):
        return b64encode(bytes(value)).decode("ascii")
    return value


# --- Writing ---


def check_known(leaves: list[Key]) -> None:
    """Raise BackupProblem where this release does not have the backup's migrations."""
    known = MigrationLoader(None).graph.nodes
    if any(key not in known for key in leaves):
        raise BackupProblem(
            "The backup was made by a newer release than this one. Restore it with that release. Nothing was changed."
        )


def build(alias: str, leaves: list[Key], folder: Path, counts: dict[str, int]) -> None:
    """Make the tables of an empty database, fill them from the backup, and bring them to this release."""
    connection = connections[alias]
    MigrationExecutor(connection).migrate(leaves)
    apps = models_at(leaves)
    tables = tables_of(apps)
    if tables.keys() != counts.keys():
        odd = sorted(tables.keys() ^ counts.keys())[0]
        raise BackupProblem(
            f"The backup has not the tables of its release: {odd}. It was changed; nothing was restored."
        )
    # Tables are filled in any order; SQLite must be told so before its transaction begins.
    with connection.constraint_checks_disabled(), transaction.atomic(using=alias):
        with connection.cursor() as cursor:
            # Migrations put rows of their own into some tables; the backup has them too.
            for model in apps.get_models(include_auto_created=True):
                if model._meta.managed and not model._meta.proxy:
                    cursor.execute(f"DELETE FROM {connection.ops.quote_name(model._meta.db_table)}")  # noqa: S608
        for label, model in tables.items():
            _fill(alias, model, folder / f"{label}.jsonl", counts[label])
        with connection.cursor() as cursor:
            for statement in connection.ops.sequence_reset_sql(no_style(), list(tables.values())):
                cursor.execute(statement)
        connection.check_constraints()
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    emit_post_migrate_signal(verbosity=0, interactive=False, db=alias)


def _fill(alias: str, model: type[Model], path: Path, count: int) -> None:
    connection = connections[alias]
    fields = _columns(model)
    with path.open(encoding="ascii") as lines:
        if next(lines, "").strip() != json.dumps([field.attname for field in fields]):
            raise BackupProblem(
                f"{path.name} has not the columns of its release. It was changed; nothing was restored."
            )
        names = ", ".join(connection.ops.quote_name(str(field.column)) for field in fields)
        places = ", ".join(["%s"] * len(fields))
        insert = f"INSERT INTO {connection.ops.quote_name(model._meta.db_table)} ({names}) VALUES ({places})"  # noqa: S608
        written, waiting = 0, []
        with connection.cursor() as cursor:
            for line in lines:
                waiting.append(_prepared(line, fields, connection, path.name))
                written += 1
                if len(waiting) == _CHUNK:
                    cursor.executemany(insert, waiting)
                    waiting.clear()
            if waiting:
                cursor.executemany(insert, waiting)
    if written != count:
        raise BackupProblem(f"{path.name} has {written} rows and should have {count}. Nothing was restored.")


def _prepared(line: str, fields: list[Field[Any, Any]], connection: Any, name: str) -> list[Any]:
    try:
        return [
            field.get_db_prep_save(field.to_python(value), connection)
            for field, value in zip(fields, json.loads(line), strict=True)
        ]
    except (ValueError, TypeError, ValidationError) as problem:
        raise BackupProblem(
            f"{name} holds a line that is no row. It was changed; nothing was restored."
        ) from problem

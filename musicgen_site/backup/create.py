"""Makes a backup beside a studio that goes on working: first the rows of one moment, then the files they name.

A file always comes before its row and goes after it, so the rows of one moment find their files; what was deleted
for good in between is listed, and a restore drops its row.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.apps import apps as current_apps
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils import timezone

from generation.version import VERSION
from musicgen_site.backup import files, rows
from musicgen_site.backup.archive import BackupProblem, BackupWriter, writing
from musicgen_site.backup.files import NamedFile


@dataclass
class BackupReport:
    """What a backup holds."""

    path: str
    file_bytes: int = 0
    rows: int = 0
    files: int = 0
    # Rows that name a file which the studio itself has lost: they are kept as they are.
    lost_files: list[str] = field(default_factory=list)


def make_backup(target: Path, home: Path) -> BackupReport:
    """Write a backup of the studio to `target`. Raises BackupProblem and OSError; then there is no file."""
    target = target.absolute()
    if not target.parent.is_dir():
        raise BackupProblem(f"There is no folder {target.parent}. Make it, or choose another place.")
    if target.resolve().is_relative_to(home.resolve()):
        raise BackupProblem(
            f"Write the backup outside the studio's own folder {home}, or it is lost with it."
        )
    report = BackupReport(str(target))
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as folder:
        scratch = Path(folder)
        tables = scratch / "rows"
        tables.mkdir()
        with rows.snapshot(scratch) as alias:
            leaves = rows.applied_leaves(alias)
            models = rows.models_at(leaves)
            counts = rows.write_tables(alias, models, tables)
            named = files.named_files(models, alias)
        (scratch / "snapshot.sqlite3").unlink(missing_ok=True)
        header = {
            "studio_version": VERSION,
            "made_at": timezone.now().isoformat(),
            "database": connections[DEFAULT_DB_ALIAS].vendor,
            "migrations": leaves,
            "tables": counts,
        }
        manifest: dict[str, Any] = {}
        with writing(target, header, manifest) as writer:
            _add_named(writer, named, manifest, report)
            _add_others(writer, home, files.other_files(home))
            report.files = len(writer.entries) - 1
            for path in sorted(tables.iterdir()):
                _add_file(writer, f"rows/{path.name}", path)
    report.rows = sum(counts.values())
    report.file_bytes = target.stat().st_size
    return report


def _add_named(
    writer: BackupWriter, named: list[NamedFile], manifest: dict[str, Any], report: BackupReport
) -> None:
    """Files that rows name. Fills `gone` (row and file were deleted meanwhile) and `lost` (the row has no file)."""
    gone: dict[str, list[Any]] = {}
    for each in named:
        if f"home/{each.path}" in writer.entries:
            continue
        try:
            with (
                contextlib.closing(each.media.opened(each.name)) as opened,
                contextlib.closing(opened.stream()) as source,
            ):
                writer.add(f"home/{each.path}", source, opened.size_bytes)
        except FileNotFoundError:
            if current_apps.get_model(each.label)._base_manager.filter(pk=each.pk).exists():
                report.lost_files.append(each.path)
            else:
                gone.setdefault(each.label, []).append(each.pk)
    manifest |= {"gone": gone, "lost": report.lost_files}


def _add_others(writer: BackupWriter, home: Path, paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            _add_file(writer, f"home/{path.relative_to(home).as_posix()}", path)
        except FileNotFoundError:
            continue  # it was removed between being listed and being read


def _add_file(writer: BackupWriter, name: str, path: Path) -> None:
    with path.open("rb") as source:
        writer.add(name, source, os.fstat(source.fileno()).st_size)

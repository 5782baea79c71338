"""`manage.py backup FILE`: the whole studio in one file, while it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from gated_configs.wording import spoken_bytes
from musicgen_site.backup.archive import BackupProblem
from musicgen_site.backup.create import make_backup
from musicgen_site.database import require_database


class Command(BaseCommand):
    """Exits 0 only when the file is whole and on the disk."""

    help = "Keep rows, takes and adapters in one file. The studio may run meanwhile."
    # `serve` checks the site; importing every page to do so again takes longer than the work.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Options."""
        parser.add_argument(
            "file", metavar="FILE", type=Path, help="New file; one that ends in .gz is compressed."
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Write it. Raises CommandError with a sentence; then there is no file."""
        require_database()
        try:
            report = make_backup(options["file"].expanduser(), settings.STUDIO.home)
        except BackupProblem as problem:
            raise CommandError(str(problem)) from problem
        except (OSError, DatabaseError) as problem:
            raise CommandError(f"The backup could not be made: {problem}. Nothing was kept.") from problem
        if options["json"]:
            self.stdout.write(json.dumps(asdict(report)))
            return
        for path in report.lost_files:
            self.stderr.write(f"{path} is missing in the studio; its row is kept without it.")
        self.stdout.write(
            f"{report.path}: {report.rows} rows and {report.files} files, {spoken_bytes(report.file_bytes)}."
        )

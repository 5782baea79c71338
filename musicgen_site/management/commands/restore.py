"""`manage.py restore FILE`: the studio as it was at a backup."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from musicgen_site.backup.archive import BackupProblem
from musicgen_site.backup.restore import restore_backup


class Command(BaseCommand):
    """Exits 0 only when the studio is the restored one; after anything else it is as it was."""

    help = "Bring a backup back into an empty studio, or with --force in the place of this one."
    # `serve` checks the site; importing every page to do so again takes longer than the work.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Options."""
        parser.add_argument("file", metavar="FILE", type=Path, help="File that `backup` wrote.")
        parser.add_argument(
            "--force",
            action="store_true",
            help="Replace what is there: files are moved aside, rows of PostgreSQL are dropped.",
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Restore. Raises CommandError with a sentence; then nothing was changed."""
        try:
            report = restore_backup(
                options["file"].expanduser(), settings.STUDIO.home, force=options["force"]
            )
        except BackupProblem as problem:
            raise CommandError(str(problem)) from problem
        except (OSError, DatabaseError, ValueError) as problem:
            raise CommandError(
                f"The backup could not be restored: {problem}. Nothing was changed."
            ) from problem
        if options["json"]:
            self.stdout.write(json.dumps(asdict(report)))
            return
        self.stdout.write(f"Restored {report.rows} rows and {report.files} files of {report.made_at}.")
        if report.replaced:
            self.stdout.write(f"What was there before lies in {report.replaced}. Remove it when all is well.")

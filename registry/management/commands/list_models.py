"""`manage.py list_models`: every model, what it can do, and which one is active."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from gated_configs.wording import channel_word, kilohertz, plain_number
from registry.services import list_models


class Command(BaseCommand):
    """Prints a table, or the same facts as `GET /api/models` with --json."""

    help = "List the models, what each can do, and which one is active."

    def add_arguments(self, parser: CommandParser) -> None:
        """Options."""
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print. Raises CommandError when there is no database yet."""
        try:
            models = list_models()
        except DatabaseError as problem:
            raise CommandError(
                "There is no database yet, or it is an older one. Run `manage.py migrate`, or start the studio once."
            ) from problem
        if options["json"]:
            current = next((model.pk for model in models if model.is_active), None)
            facts = {"models": [model.as_dict() for model in models], "current_model": current}
            self.stdout.write(json.dumps(facts, indent=2))
            return
        rows = [
            (
                "*" if model.is_active else " ",
                model.pk,
                f"{plain_number(model.duration_limit_seconds)} s",
                f"{kilohertz(model.sample_rate)} {channel_word(model.channels)}",
                f"{plain_number(model.vram_requirement_gb)} GB",
                model.licence,
                model.description if model.is_playable else f"Cannot be played yet. {model.unplayable_reason}",
            )
            for model in models
        ]
        heads = ("", "id", "longest", "sound", "memory", "licence", "")
        widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads) - 1)]
        for row in [heads, *rows]:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            self.stdout.write(f"{line}  {row[-1]}".rstrip())
        self.stdout.write("\n* active: new jobs use it unless they name another.")

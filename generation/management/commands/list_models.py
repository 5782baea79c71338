"""`manage.py list_models`: every model, what it can do, and which one is active."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from gated_configs.wording import channel_word, kilohertz, plain_number
from generation.services.models import list_model_facts


class Command(BaseCommand):
    """Prints a table, or the same facts as `GET /api/models` with --json."""

    help = "List the models, what each can do, and which one is active."
    # `serve` checks the site; importing every page to do so again takes longer than the work.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Options."""
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print. Raises CommandError when there is no database yet."""
        try:
            facts_of_all = list_model_facts()
        except DatabaseError as problem:
            raise CommandError(
                "There is no database yet, or it is an older one. Run `manage.py migrate`, or start the studio once."
            ) from problem
        if options["json"]:
            current = next((facts["id"] for facts in facts_of_all if facts["is_active"]), None)
            facts = {"models": facts_of_all, "current_model": current}
            self.stdout.write(json.dumps(facts, indent=2))
            return
        rows = [
            (
                "*" if facts["is_active"] else " ",
                facts["id"],
                "loaded" if facts["is_loaded"] else "installed" if facts["is_installed"] else "-",
                _longest(facts),
                f"{kilohertz(facts['sample_rate'])} {channel_word(facts['channels'])}",
                f"{plain_number(facts['vram_requirement_gb'])} GB",
                facts["licence"],
                facts["description"]
                if facts["is_playable"]
                else f"Cannot be played yet. {facts['unplayable_reason']}",
            )
            for facts in facts_of_all
        ]
        heads = ("", "id", "here", "longest", "sound", "memory", "licence", "")
        widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads) - 1)]
        for row in [heads, *rows]:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            self.stdout.write(f"{line}  {row[-1]}".rstrip())
        self.stdout.write("\n* active: new jobs use it unless they name another.")


def _longest(facts: dict[str, Any]) -> str:
    longest = f"{plain_number(facts['max_duration_seconds'])} s"
    extended = facts["max_extended_seconds"]
    return longest if extended is None else f"{longest}, in windows {plain_number(extended)} s"

"""`manage.py clean_up`: every rule at once, or what each would remove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from gated_configs.wording import spoken_bytes
from generation.retention.rules import Look
from generation.retention.run import Outcome, run_all

#: Lines of one rule that are printed without --verbosity 2.
SHOWN = 20


class Command(BaseCommand):
    """Exits 0 when all that is due is gone, or was told; 1 when something could not be removed."""

    help = "Remove what the rules of retention say: takes past their time, leftovers and orphans."

    def add_arguments(self, parser: CommandParser) -> None:
        """Options."""
        parser.add_argument(
            "--dry-run", action="store_true", help="Say what would be removed and change nothing."
        )
        parser.add_argument(
            "--at-once",
            action="store_true",
            help="Do not wait a week before files without a row, and rows without a file, go.",
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the rules. Raises CommandError when something could not be removed, after all the rest."""
        look = Look(only_tells=options["dry_run"], at_once=options["at_once"])
        try:
            outcomes = list(self._said(run_all(look), options))
        except DatabaseError as problem:
            raise CommandError(
                "There is no database yet, or it is an older one. Run `manage.py migrate`, or start the studio once."
            ) from problem
        if options["json"]:
            self.stdout.write(json.dumps({"dry_run": look.only_tells, "rules": list(map(_facts, outcomes))}))
        else:
            count = sum(len(outcome.removed) for outcome in outcomes)
            freed = spoken_bytes(sum(outcome.freed_bytes for outcome in outcomes))
            verb = "would be removed" if look.only_tells else "removed"
            self.stdout.write(f"{count} {verb}, {freed}.")
        problems = sum(len(outcome.problems) for outcome in outcomes)
        if problems:
            raise CommandError(f"{problems} of them could not be removed; the reasons are above.")

    def _said(self, outcomes: Iterator[Outcome], options: dict[str, Any]) -> Iterator[Outcome]:
        for outcome in outcomes:
            if not options["json"]:
                shown = len(outcome.removed) if options["verbosity"] > 1 else SHOWN
                if outcome.removed or outcome.note:
                    self.stdout.write(f"{outcome.rule.meaning}:")
                for removal in outcome.removed[:shown]:
                    size = f", {spoken_bytes(removal.size_bytes)}" if removal.size_bytes else ""
                    self.stdout.write(f"  {removal.what}{size}: {removal.reason}")
                if len(outcome.removed) > shown:
                    self.stdout.write(f"  and {len(outcome.removed) - shown} more; --verbosity 2 names them")
                if outcome.note:
                    self.stdout.write(f"  {outcome.note}")
            for problem in outcome.problems:
                self.stderr.write(problem)
            yield outcome


def _facts(outcome: Outcome) -> dict[str, Any]:
    return {
        "rule": outcome.rule.name,
        "removed": [
            {"what": removal.what, "bytes": removal.size_bytes, "reason": removal.reason}
            for removal in outcome.removed
        ],
        "freed_bytes": outcome.freed_bytes,
        "left": outcome.left,
        "note": outcome.note,
        "problems": outcome.problems,
    }

"""`manage.py check`: Django's own, and whether the bucket of takes can be reached and written where one is configured."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import check

from registry.media import MediaAway, probe


class Command(check.Command):
    """Other commands run Django's checks before their work; only this one waits for another machine."""

    def handle(self, *app_labels: Any, **options: Any) -> None:
        """Check all. Raises CommandError with a sentence for the bucket, SystemCheckError for the rest."""
        super().handle(*app_labels, **options)
        if app_labels or options["tags"] or options["list_tags"]:
            return
        try:
            probe()
        except MediaAway as problem:
            raise CommandError(problem.in_full) from problem

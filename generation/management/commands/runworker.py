"""`manage.py runworker generation`: an engine without a web server. Channels' own command, with an engine that starts."""

from typing import Any

from channels.management.commands import runworker
from django.core.management.base import CommandError

from generation.engine_worker import EngineWorker
from registry.media import MediaAway, probe


class Command(runworker.Command):
    """Carries out jobs until it is asked to end, then hands back the one it holds."""

    help = "Carry out jobs without a web server: `runworker generation`."
    worker_class = EngineWorker

    def handle(self, *args: Any, **options: Any) -> None:
        """Work until asked to end. Raises CommandError where takes could not be kept."""
        try:
            probe()
        except MediaAway as problem:
            raise CommandError(problem.in_full) from problem
        super().handle(*args, **options)

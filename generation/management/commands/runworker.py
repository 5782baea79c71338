"""`manage.py runworker generation`: an engine without a web server. Channels' own command, with an engine that starts."""

from channels.management.commands import runworker

from generation.engine_worker import EngineWorker


class Command(runworker.Command):
    """Carries out jobs until it is asked to end, then hands back the one it holds."""

    help = "Carry out jobs without a web server: `runworker generation`."
    worker_class = EngineWorker

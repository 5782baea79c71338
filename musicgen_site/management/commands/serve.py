"""`manage.py serve`: the whole studio in one command, pages and engine."""

from __future__ import annotations

import tempfile
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from adapters.services.shipped import import_shipped
from musicgen_site.database import prepare_database
from musicgen_site.security import check_listen_address
from musicgen_site.services.setup import make_setup_link, needs_administrator
from registry.media import MediaAway, probe
from registry.services import UnknownLimits, check_limits


class Command(BaseCommand):
    """Prepares an empty home, starts the engine and serves the pages."""

    _setup_secret = ""

    help = "Serve the studio: pages, API, socket and engine."

    def add_arguments(self, parser: CommandParser) -> None:
        """Options that stand above the environment."""
        parser.add_argument("--host", default=settings.STUDIO.host, help="Address to listen on.")
        parser.add_argument(
            "--port", type=int, default=settings.STUDIO.port, help="Port; 0 takes a free one."
        )
        parser.add_argument(
            "--no-engine",
            action="store_true",
            help="Serve pages only; `runworker generation` carries out jobs.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until asked to end. Raises CommandError with a sentence when it cannot start."""
        studio = settings.STUDIO
        host, port = options["host"], options["port"]
        if not 0 <= port <= 65535:
            raise CommandError(f"{port} is not a port. Choose one from 1 to 65535, or 0 for a free one.")
        try:
            address = check_listen_address(host, studio.access, studio.allowed_hosts)
        except ImproperlyConfigured as problem:
            raise CommandError(str(problem)) from problem
        prepare_database(studio)
        try:
            probe()
        except MediaAway as problem:
            raise CommandError(problem.in_full) from problem
        try:
            check_limits("MUSICGEN_MAX_DURATION_SECONDS", studio.max_duration_seconds)
            check_limits("MUSICGEN_MAX_EXTENDED_SECONDS", studio.max_extended_seconds)
        except UnknownLimits as problem:
            raise CommandError(str(problem)) from problem
        import_shipped()
        if studio.access == "shared" and needs_administrator():
            self._setup_secret = make_setup_link()

        # Uploads wait here: the system's own place for temporary files is memory on many machines.
        studio.incoming_folder.mkdir(mode=0o700, exist_ok=True)
        tempfile.tempdir = str(studio.incoming_folder)

        # Twisted and the consumers take a moment to import: only once it is clear that we will serve.
        from channels.layers import get_channel_layer

        from generation.engine_worker import EngineWorker
        from generation.housekeeper import Housekeeper
        from musicgen_site.asgi import application
        from musicgen_site.server import StudioServer
        from registry.events import ENGINE_CHANNEL

        worker = None
        if not options["no_engine"]:
            worker = EngineWorker(application, channels=[ENGINE_CHANNEL], channel_layer=get_channel_layer())
        server = StudioServer(
            application,
            host=address,
            port=port,
            worker=worker,
            housekeeper=Housekeeper(),
            on_listening=self._say_where,
        )
        server.run()
        if server.failure:
            raise CommandError(
                f"The studio cannot listen on {host}:{port}: {server.failure} Choose another with --port."
            )

    def _say_where(self, host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        if shown in ("0.0.0.0", "[::]"):  # noqa: S104 - compared, not bound
            shown = "localhost"
        address = f"http://{shown}:{port}/"
        self.stdout.write(f"MusicGen Studio is at {address}  (Ctrl+C stops it)")
        self._say_how_to_begin(address)
        self.stdout.flush()

    def _say_how_to_begin(self, address: str) -> None:
        """In a shared studio without people: the one-time link for the first administrator."""
        if not self._setup_secret:
            return
        studio = settings.STUDIO
        if studio.behind_https_proxy and studio.allowed_hosts:
            # Past the proxy there is no way in.
            address = f"https://{studio.allowed_hosts[0]}/"
        self.stdout.write(
            f"Nobody can log in yet. Make the first administrator at {address}setup/{self._setup_secret}/ "
            "within 24 hours; the link works once."
        )

"""`manage.py switch_model ID`: another active model, by the running server or, without one, right here."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from generation.api_schemas import SwitchOut
from generation.database import in_database
from generation.dispatcher import Dispatcher
from generation.services.hosts import running_host
from generation.switch_card import switch_card
from musicgen_site.database import prepare_database
from musicgen_site.progress_line import ProgressLine
from registry.models import ModelSwitch, SwitchStage
from registry.services import (
    ModelNotFound,
    ModelNotPlayable,
    SwitchUnderWay,
    cancel_switch,
    request_switch,
)

#: The row is read this often, in seconds.
LOOK_EVERY = 0.1
#: A server that took the switch and fell silent is given this long before its lease is looked at, in seconds.
PATIENCE = 2.0


class Command(BaseCommand):
    """Exits 0 only when the model is ready. With --no-wait it only asks."""

    help = "Switch to another model and follow it until it is ready."
    # `serve` checks the site; importing every page to do so again takes longer than the work.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Options."""
        parser.add_argument("model", metavar="ID", help="Model id or Hugging Face id.")
        parser.add_argument("--reload", action="store_true", help="Start the active model anew.")
        parser.add_argument("--no-wait", action="store_true", help="Ask the running server and do not wait.")
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask, follow, report. Raises CommandError unless the model is ready."""
        as_json: bool = options["json"]
        prepare_database(settings.STUDIO)
        try:
            answer = request_switch(options["model"], reload=options["reload"])
        except ModelNotFound as problem:
            self._give_up(as_json, str(problem), "MODEL_NOT_FOUND")
        except ModelNotPlayable as problem:
            self._give_up(as_json, str(problem), "MODEL_NOT_PLAYABLE")
        except SwitchUnderWay as problem:
            self._give_up(as_json, str(problem), "SWITCH_UNDER_WAY")
        if answer.switch is None:
            facts = {
                "outcome": answer.outcome,
                "message": answer.sentence,
                "model_id": answer.model.pk,
                "switch": None,
            }
            self.stdout.write(json.dumps(facts) if as_json else answer.sentence)
            return
        if options["no_wait"]:
            if running_host() is None:
                cancel_switch(answer.switch)
                self._give_up(
                    as_json, "No server is running that could switch later. Leave --no-wait out.", "NO_ENGINE"
                )
            self._report(as_json, answer.outcome, answer.switch, answer.sentence)
            return
        switch = asyncio.run(self._follow(answer.switch.pk))
        if switch.stage != SwitchStage.READY:
            code = switch.error_code or "CANCELLED"
            self._give_up(
                as_json, switch.message, code, status=130 if switch.stage == SwitchStage.CANCELLED else 1
            )
        self._report(
            as_json, answer.outcome, switch, f"{switch.message} It took {switch.elapsed_seconds:.1f} s."
        )

    def _report(self, as_json: bool, outcome: str, switch: ModelSwitch, sentence: str) -> None:
        if as_json:
            facts = SwitchOut.of(switch).model_dump(mode="json")
            self.stdout.write(
                json.dumps(
                    {"outcome": outcome, "message": sentence, "model_id": switch.model_id, "switch": facts}
                )
            )
        else:
            self.stdout.write(sentence)

    def _give_up(self, as_json: bool, sentence: str, code: str, *, status: int = 1) -> NoReturn:
        if as_json:
            self.stdout.write(json.dumps({"error": sentence, "error_code": code}))
        raise CommandError(sentence, returncode=status)

    async def _follow(self, switch_id: int) -> ModelSwitch:
        """Watch the row until the switch has ended; carry it out here when no server does. Ctrl+C cancels it."""
        show = ProgressLine(self.stderr)
        dispatcher: Dispatcher | None = None
        working: asyncio.Task[None] | None = None
        interrupted = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
        asked_at = 0.0
        try:
            while True:
                switch: ModelSwitch
                switch, line, percent = await in_database(_look)(switch_id)
                show(f"{switch.model.display_name}: {line}", percent)
                if not switch.is_open:
                    return switch
                if interrupted.is_set() and time.monotonic() - asked_at > PATIENCE:
                    asked_at = time.monotonic()
                    await in_database(cancel_switch)(switch)
                if working is None and await in_database(running_host)() is None:
                    # It also ends a switch whose server was killed: its first look is at leases.
                    dispatcher = Dispatcher(only_switch=switch_id)
                    # Its news would be drawn through the progress line.
                    logging.getLogger("generation").setLevel(logging.WARNING)
                    working = asyncio.create_task(dispatcher.run())
                if working is not None and working.done():
                    working.result()  # what went wrong, rather than a wait without an end
                await asyncio.sleep(LOOK_EVERY)
        finally:
            show.close()
            if dispatcher is not None and working is not None:
                await dispatcher.stop()
                await asyncio.gather(working, return_exceptions=True)


def _look(switch_id: int) -> tuple[ModelSwitch, str, float | None]:
    switch = ModelSwitch.objects.select_related("model", "previous").get(pk=switch_id)
    card = switch_card(switch)
    return switch, card.status_line, card.percent

"""`manage.py`, but a switch stays in the stage named by HOLD_IN until it is stopped: what a signal meets there."""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "musicgen_site.settings")

import django
from django.core.management import execute_from_command_line

django.setup()

from generation.switch_run import SwitchRun  # noqa: E402
from registry.models import SwitchStage  # noqa: E402

enter = SwitchRun._enter


async def enter_and_stay(run: SwitchRun, stage: SwitchStage) -> None:
    await enter(run, stage)
    if stage == os.environ["HOLD_IN"]:
        await asyncio.to_thread(run._stop.wait)


SwitchRun._enter = enter_and_stay  # type: ignore[method-assign, assignment]
execute_from_command_line(sys.argv[1:])

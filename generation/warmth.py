"""What an engine keeps loaded while nobody asks: the active model, a spare process, and nothing that rests for long.

Knows the pool and models; what is going on beside, the dispatcher tells it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from django.conf import settings

from generation.database import going_on, in_database
from generation.runner_pool import RunnerPool
from generation.runners import LoadRefused, RunnerDied
from generation.services import hosts
from registry.downloads import DownloadFailed
from registry.models import ModelConfig

logger = logging.getLogger(__name__)

#: How often to look whether the active model is loaded, in seconds.
LOOK_EVERY: Final = 2.0
#: A spare process is made once the engine has had nothing to do for so long, in seconds.
SPARE_AFTER: Final = 10.0


@dataclass
class Warmth:
    """Loads and ends runners that no job asked for. `tell` stores and tells the engine's state."""

    pool: RunnerPool
    is_idle: Callable[[], bool]
    #: Id of the active model as the last beat heard it: enough to see that nothing is to be done.
    active: Callable[[], str]
    tell: Callable[[], Awaitable[None]]
    stopping: asyncio.Event
    #: The load under way: model id, stage, fraction.
    load_stage: tuple[str, str, float | None] | None = None
    #: Why the active model could not be loaded.
    last_error: str = ""
    #: Whether it looked once at what should be loaded.
    has_begun: bool = False
    _refused: str = ""

    async def keep_active_loaded(self) -> None:
        """Load the active model when nothing else is going on, and again should its runner die."""
        while not self.stopping.is_set():
            with going_on(logger, "the active model could not be made ready"):
                active_is_loaded = bool(self.pool.loaded(self.active()))
                if not active_is_loaded and self.is_idle() and not self.pool.is_resting:
                    model = await in_database(self._unloaded_active)()
                    if model is not None and model.pk != self._refused and self.is_idle():
                        await self._load(model)
                self.has_begun = True
            await asyncio.sleep(LOOK_EVERY)

    def _unloaded_active(self) -> ModelConfig | None:
        loaded = [runner.model_id for runner in self.pool.living()]
        return ModelConfig.objects.filter(is_active=True).exclude(pk__in=loaded).first()

    async def _load(self, model: ModelConfig) -> None:
        def note(stage: str, fraction: float | None) -> None:
            self.load_stage = (model.pk, stage, fraction)

        note("starting", None)
        await self.tell()
        began = time.monotonic()
        try:
            runner = await self.pool.get(model, on_progress=note)
        except (DownloadFailed, LoadRefused, RunnerDied) as problem:
            # A job that needs it will say so on its card; until then the chip does. Not tried over and over.
            self._refused = model.pk
            self.last_error = str(problem)
            logger.warning("the active model could not be made ready: %s", problem)
        else:
            self.last_error = ""
            assert runner.loaded is not None
            logger.info(
                "%s is ready on %s, %s, after %.1f s",
                model.display_name,
                runner.loaded.device_name,
                runner.loaded.dtype,
                time.monotonic() - began,
            )
        finally:
            self.load_stage = None
        await self.tell()

    async def keep_house(self, host: str, *, active: str, memory_wanted: bool, idle_seconds: float) -> None:
        """End what nobody used for a while, and everything idle when somebody asks for the memory."""
        if memory_wanted and await in_database(hosts.take_free_memory_request)(host):
            await self.pool.free_memory()
            await self.tell()
            return
        if await self.pool.end_idle(for_seconds=60 * settings.STUDIO.keep_alive_minutes, keep=active):
            await self.tell()
        if self.pool.living() and idle_seconds > SPARE_AFTER:
            self.pool.prepare_spare()

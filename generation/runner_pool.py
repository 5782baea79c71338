"""The runners of this host: one for each loaded model, as many as memory allows.

Least recently used goes first when memory is short; idle ones end after a keep-alive. Knows processes and
memory, not jobs. One loads at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from django.conf import settings

from generation.database import in_database
from generation.installation import installed_folder
from generation.runners import Runner, RunnerDied
from registry.downloads import DownloadFailed
from registry.fit import needed_bytes
from registry.hardware import GB, Hardware, read_hardware
from registry.models import ModelConfig
from registry.services import note_architecture

logger = logging.getLogger(__name__)

OnLoad = Callable[[str, float | None], None]

#: A spare process holds its imported libraries, about this many bytes; it is kept only where that is little.
SPARE_BYTES: Final = GB // 2


class RunnerPool:
    """Loaded models by id. Owned by one event loop."""

    def __init__(self, *, keeps_spare: bool) -> None:
        self._runners: dict[str, Runner] = {}
        self._lock = asyncio.Lock()
        self._keeps_spare = keeps_spare
        # Somebody asked for the memory: nothing is loaded again before a job or a switch needs it.
        self.is_resting = False
        self._spare: Runner | None = None
        self._making_spare: asyncio.Task[None] | None = None

    def loaded(self, model_id: str) -> Runner | None:
        """The living runner of that model."""
        runner = self._runners.get(model_id)
        return runner if runner is not None and runner.is_alive else None

    def living(self) -> list[Runner]:
        """Every living runner that holds a model, most recently used first."""
        alive = [runner for runner in self._runners.values() if runner.is_alive]
        return sorted(alive, key=lambda runner: -runner.last_used)

    def held_bytes(self) -> int:
        """Memory that ending all idle runners would give back."""
        return sum(self.bytes_of(runner) for runner in self.living() if not runner.is_busy)

    def hardware(self) -> Hardware:
        """The machine as it is now. On a simulated one all that our processes hold counts."""
        held = sum(self.bytes_of(runner) for runner in self.living())
        spare = (self._spare.memory_bytes() or 0) if self._spare is not None else 0
        return read_hardware(held_bytes=held + spare)

    @staticmethod
    def bytes_of(runner: Runner) -> int:
        """Memory that a runner holds, on its device."""
        if runner.loaded is not None and runner.loaded.device != "cpu":
            return runner.loaded.memory_bytes
        return runner.memory_bytes() or 0

    async def get(self, model: ModelConfig, *, on_progress: OnLoad, is_busy: bool = False) -> Runner:
        """A runner that holds the model, loaded when there is none. Raises DownloadFailed, LoadRefused, RunnerDied.

        With `is_busy` it comes held, so that nobody ends it before the caller has begun; who asked for that lets it
        go.
        """
        self.is_resting = False
        runner = self.loaded(model.pk)
        if runner is None:
            async with self._lock:
                runner = self.loaded(model.pk)
                if runner is None:
                    await self.make_room(model)
                    runner = await self._start(model, on_progress)
                    self._runners[model.pk] = runner
        if is_busy:
            runner.hold()
        runner.last_used = time.monotonic()
        return runner

    async def start_beside(self, model: ModelConfig, *, on_progress: OnLoad) -> Runner:
        """A new runner with the model loaded, not yet one of the pool. Raises as `get` does."""
        async with self._lock:
            return await self._start(model, on_progress)

    async def _start(self, model: ModelConfig, on_progress: OnLoad) -> Runner:
        folder = await asyncio.to_thread(installed_folder, model)
        if folder is None:
            raise DownloadFailed(
                "INCOMPLETE", f"{model.display_name} is not installed. Switch to it in Settings to fetch it."
            )
        runner = await self._fresh_process(on_progress)
        runner.model_id = model.pk
        # The hub's cache names the folder of a snapshot by its commit.
        runner.revision = None if model.local_path else folder.name
        try:
            await runner.load(
                checkpoint=str(folder),
                device=settings.STUDIO.device,
                dtype=settings.STUDIO.dtype,
                on_progress=on_progress,
            )
            # What the checkpoint itself says decides which adapters fit.
            await in_database(note_architecture)(model, folder)
        except BaseException:
            await runner.end()
            raise
        return runner

    def touch(self, runner: Runner) -> None:
        """Count the runner as the one used last."""
        runner.last_used = time.monotonic()

    async def adopt(self, runner: Runner) -> None:
        """Take a started runner in; one that held the same model ends."""
        self.is_resting = False
        old = self._runners.get(runner.model_id)
        self._runners[runner.model_id] = runner
        runner.last_used = time.monotonic()
        if old is not None and old is not runner:
            await old.end()

    async def settled(self) -> None:
        """Wait for the load that is going on, if any: what it takes cannot be counted before its end."""
        async with self._lock:
            pass

    async def make_room(self, model: ModelConfig, *, keep: frozenset[str] = frozenset()) -> bool:
        """End idle runners, least recently used first, until the model fits. False when it still does not."""
        await self._drop_dead()
        while not self.fits_beside(model):
            idle = [
                runner
                for runner in reversed(self.living())
                if not runner.is_busy and runner.model_id not in keep and runner.model_id != model.pk
            ]
            if idle:
                await self.end(idle[0].model_id)
            elif self._spare is not None:
                await self._end_spare()
            else:
                return False
        return True

    def fits_beside(self, model: ModelConfig) -> bool:
        """Whether the model fits in the memory that is free now."""
        machine = self.hardware()
        needed, _ = needed_bytes(model, machine.device)
        return needed <= machine.free_bytes

    async def end(self, model_id: str) -> None:
        """End the runner of that model; all of its memory comes back."""
        runner = self._runners.pop(model_id, None)
        if runner is not None:
            logger.info("ending the runner of %s", model_id)
            await runner.end()

    async def end_idle(self, *, for_seconds: float = 0.0, keep: str | None = None) -> int:
        """End runners that have been idle for so long. Returns how many."""
        now = time.monotonic()
        idle = [
            runner.model_id
            for runner in self.living()
            if not runner.is_busy and runner.model_id != keep and now - runner.last_used >= for_seconds
        ]
        for model_id in idle:
            await self.end(model_id)
        return len(idle)

    async def free_memory(self) -> int:
        """End every idle runner and the spare. Returns how many models that were."""
        self.is_resting = True
        ended = await self.end_idle()
        await self._end_spare()
        return ended

    async def end_all(self) -> None:
        """End everything."""
        self._keeps_spare = False
        await self._end_spare()
        for model_id in list(self._runners):
            await self.end(model_id)

    async def _drop_dead(self) -> None:
        for model_id, runner in list(self._runners.items()):
            if not runner.is_alive:
                await self.end(model_id)

    # A process with its libraries imported, waiting for a model: half of a cold start's time.

    async def _fresh_process(self, on_progress: OnLoad) -> Runner:
        if self._making_spare is not None:
            on_progress("starting", None)
            with contextlib.suppress(RunnerDied):
                await asyncio.shield(self._making_spare)
        spare, self._spare = self._spare, None
        if spare is not None and spare.is_alive:
            return spare
        on_progress("starting", None)
        runner = Runner()
        try:
            await runner.start()
        except BaseException:
            # Also when whoever wanted it gave up meanwhile: nobody else knows of this process.
            await runner.end()
            raise
        return runner

    def prepare_spare(self) -> None:
        """Begin to make a spare process, where there is none and memory is plenty."""
        if not self._keeps_spare or self._making_spare is not None:
            return
        if self.is_resting or (self._spare is not None and self._spare.is_alive):
            return
        if self.hardware().free_bytes < 4 * SPARE_BYTES:
            return
        self._making_spare = asyncio.create_task(self._make_spare())

    async def _make_spare(self) -> None:
        runner = Runner()
        try:
            await runner.start()
            self._spare = runner
        except BaseException as problem:
            await runner.end()
            if not isinstance(problem, RunnerDied):
                raise
            logger.warning("no spare runner: %s", problem)
        finally:
            self._making_spare = None

    async def _end_spare(self) -> None:
        making, spare = self._making_spare, self._spare
        self._spare = None
        if making is not None:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
        if spare is not None:
            await spare.end()

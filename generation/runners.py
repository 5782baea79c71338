"""The studio's end of a runner: start the child process, send commands, receive events, notice its death.

Knows the protocol, asyncio and processes; knows neither rows nor torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import psutil
from django.conf import settings

from generation.engine import protocol
from generation.runner_silence import Silence

logger = logging.getLogger(__name__)

_Events = asyncio.Queue[protocol.Event | None]
#: What is said of a take on its way.
RequestEvent = (
    protocol.RequestProgress | protocol.RequestAudio | protocol.RequestFinished | protocol.RequestFailed
)

#: How long a runner that was asked to end may take before it is killed, in seconds.
END_BOUND: Final = 3.0
#: How long the system may take to end one that was killed, in seconds. A driver or a dead disk can hold it for ever.
KILL_BOUND: Final = 10.0
#: How long a runner may take to read a command, in seconds; what it did not read by then waits for it in our memory.
SEND_BOUND: Final = 5.0
#: Longest line a runner may write, in bytes.
LINE_BOUND: Final = 1 << 20

#: Where `python -m generation.engine` finds its package.
_PROJECT: Final = Path(__file__).resolve().parent.parent


#: What a runner has no use for. It reads files that others wrote, so it holds as little as it can.
_NOT_FOR_RUNNERS: Final = frozenset(
    {
        "DATABASE_URL",
        "REDIS_URL",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "MUSICGEN_SECRET_KEY",
        "MUSICGEN_EMAIL_URL",
        "MUSICGEN_METRICS_TOKEN",
    }
)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_RUNNERS}
    return {**kept, "PYTHONUNBUFFERED": "1"}


class RunnerDied(RuntimeError):
    """The process ended without being asked to. `detail` is the end of what it wrote to stderr."""

    def __init__(self, exit_code: int | None, detail: str) -> None:
        self.exit_code = exit_code
        self.detail = detail
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        return f"The runner ended unexpectedly (status {self.exit_code})."


class RunnerHung(RunnerDied):
    """The process stood still, and was ended for it. `what` says in words what it did, as in "did nothing for 60 s"."""

    def __init__(self, what: str, detail: str) -> None:
        self.what = what
        super().__init__(None, detail)

    def _sentence(self) -> str:
        return f"The runner {self.what}, so it was ended."


class LoadRefused(RuntimeError):
    """The checkpoint could not be loaded. `str()` is the sentence for people."""

    def __init__(self, failure: protocol.LoadFailed) -> None:
        self.error_code = failure.error_code
        self.detail = failure.detail
        super().__init__(failure.message)


class Runner:
    """One child process that holds one loaded model. Owned by one event loop, where any number of requests may be waited
    for at once.
    """

    def __init__(self, *, model_id: str = "") -> None:
        self.model_id = model_id
        self.revision: str | None = None  # commit on the hub, None for a folder of somebody's own
        self.is_proven = False  # whether it has ever made a sound
        self.last_used = time.monotonic()
        self.loaded: protocol.LoadFinished | None = None
        self.versions: dict[str, str] = {}
        self._users = 0
        self._process: asyncio.subprocess.Process | None = None
        # What it says while it starts and loads, and then what it says about each request. None is its end.
        self._events: _Events = asyncio.Queue()
        self._answers: dict[str, _Events] = {}
        self._silence: Silence | None = None
        self._has_ended = False
        self._hung = ""
        self._last_words: deque[str] = deque(maxlen=40)
        self._readers: list[asyncio.Task[None]] = []

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def is_busy(self) -> bool:
        """Whether somebody uses it: it must not be ended now."""
        return self._users > 0

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Nobody else ends it meanwhile."""
        self.hold()
        try:
            yield
        finally:
            self.let_go()

    def hold(self) -> None:
        """Begin to use it; who does that lets it go."""
        self._users += 1

    def let_go(self) -> None:
        """Use it no longer."""
        self._users -= 1
        self.last_used = time.monotonic()

    @property
    def pid(self) -> int | None:
        """The process's number while it runs."""
        return self._process.pid if self._process is not None and self.is_alive else None

    def memory_bytes(self) -> int | None:
        """Resident memory of the process in bytes; None when it has none."""
        if self.pid is None:
            return None
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(self.pid).memory_info().rss)
        return None

    def peak_bytes(self) -> int | None:
        """Most resident memory that the process ever had, in bytes; None where the system does not say."""
        if self.pid is None:
            return None
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return self.memory_bytes()

    async def start(self) -> None:
        """Start the process and wait until its libraries are imported. Raises RunnerDied."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "generation.engine",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BOUND,
            cwd=_PROJECT,
            env=_environment(),
            # Ctrl+C in the terminal is for the studio, which then ends its runners in order.
            start_new_session=True,
        )
        self._readers = [
            asyncio.create_task(self._read_events()),
            asyncio.create_task(self._read_last_words()),
        ]
        event = await self._next(self._events)
        if isinstance(event, protocol.Started):
            self.versions = event.versions

    async def load(
        self,
        *,
        checkpoint: str,
        device: str,
        dtype: str,
        on_progress: Callable[[str, float | None], None],
    ) -> protocol.LoadFinished:
        """Load a checkpoint folder into a process that has started. Raises LoadRefused, RunnerDied."""
        await self.send(
            protocol.Load(
                checkpoint=checkpoint,
                device=device,
                dtype=dtype,
                kept=str(settings.STUDIO.engine_folder),
                takes_at_once=settings.STUDIO.takes_at_once,
            )
        )
        while True:
            event = await self._next(self._events)
            match event:
                case protocol.LoadProgress():
                    on_progress(event.stage, event.fraction)
                case protocol.LoadFinished():
                    self.loaded = event
                    self.last_used = time.monotonic()
                    if event.no_kernels:
                        logger.warning(
                            "no compiled kernels: %s %s", event.no_kernels, event.no_kernels_detail
                        )
                    return event
                case protocol.LoadFailed():
                    await self.end()
                    raise LoadRefused(event)
                case _:
                    logger.warning("runner said %s while loading", event)

    @property
    def is_generating(self) -> bool:
        """Whether a request is in its hands right now."""
        return bool(self._answers)

    async def generate(self, command: protocol.Generate) -> AsyncIterator[RequestEvent]:
        """Render one request and yield its events; the last is finished or failed. Raises RunnerDied.

        Others may be rendered beside it.
        """
        async with contextlib.aclosing(self._events_of(command)) as events:
            async for event in events:
                if isinstance(event, protocol.RequestFinished) and event.frames:
                    self.is_proven = True
                if isinstance(event, RequestEvent):
                    yield event

    async def prove(self, command: protocol.Prove) -> protocol.Proved | protocol.RequestFailed:
        """Measure what an adapter does to the loaded model, between two steps of what is rendered. Raises RunnerDied."""
        async with contextlib.aclosing(self._events_of(command)) as events:
            async for event in events:
                if isinstance(event, protocol.Proved | protocol.RequestFailed):
                    self.last_used = time.monotonic()
                    return event
        raise AssertionError("a request ends with an answer")

    async def _events_of(
        self, command: protocol.Generate | protocol.Prove
    ) -> AsyncGenerator[protocol.Event, None]:
        """Everything that is said about a request, to its end. What is said after we stopped listening is dropped."""
        name = command.request
        if not self._answers:
            self._silence = None  # that of some earlier work
        answers = self._answers[name] = asyncio.Queue()
        try:
            if self._has_ended:
                answers.put_nowait(None)
            await self.send(command)
            while True:
                event = await self._next(answers)
                if isinstance(event, protocol.Refused):
                    event = protocol.RequestFailed(
                        request=name,
                        error_code=protocol.ENGINE_ERROR,
                        message="The engine refused the request.",
                        detail=event.message,
                    )
                is_last = not isinstance(event, protocol.RequestProgress | protocol.RequestAudio)
                if is_last:
                    # Before it is told: who stops listening at the last event must not count as one that waits.
                    self._answers.pop(name, None)
                yield event
                if is_last:
                    return
        finally:
            self._answers.pop(name, None)

    async def send(self, command: protocol.Command) -> None:
        """Write one command. A runner that is gone is noticed by whoever waits for its answer."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(ConnectionError, TimeoutError):
            self._process.stdin.write(command.encode().encode() + b"\n")
            await asyncio.wait_for(self._process.stdin.drain(), SEND_BOUND)

    async def end(self) -> None:
        """End the process and give all of its memory back; kill it when it does not go by itself."""
        if self._process is not None and self._process.returncode is None:
            if not self.versions:
                # Still at its imports, it would hear nothing of us, and it holds nothing yet.
                await self._kill()
            await self.send(protocol.Unload())
            if self._process.stdin is not None:
                self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), END_BOUND)
            except TimeoutError:
                await self._kill()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self._readers = []

    async def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        try:
            await asyncio.wait_for(self._process.wait(), KILL_BOUND)
        except TimeoutError:
            logger.error("the system does not end process %s; its memory is lost until it does", self.pid)

    async def _next(self, events: _Events) -> protocol.Event:
        """The next of those events. Raises RunnerHung for a process that stands still, RunnerDied for one that is gone."""
        while True:
            # One for all who wait: a runner that speaks to another request is not silent.
            silence = self._silence = self._silence or Silence(self.pid, settings.STUDIO.runner_still_seconds)
            try:
                event = await asyncio.wait_for(events.get(), silence.step)
                break
            except TimeoutError:
                longest = next(iter(self._answers.values()), events)  # who has waited longest looks for all
                if events is longest and silence is self._silence and (what := silence.look()):
                    self._hung = what
                    await self._kill()
                    await self.end()
                    raise self._death() from None
        if event is None:
            assert self._process is not None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), KILL_BOUND)
            if self.is_alive:  # it closed its output and stays
                await self._kill()
            # Let the last words arrive: stderr may be read after stdout has ended.
            await asyncio.sleep(0.05)
            events.put_nowait(None)
            raise self._death()
        return event

    def _death(self) -> RunnerDied:
        detail = "\n".join(self._last_words)
        if self._hung:
            return RunnerHung(self._hung, detail)
        return RunnerDied(self._process.returncode if self._process is not None else None, detail)

    async def _read_events(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                self._silence = None
                try:
                    self._hand_out(protocol.decode_event(line))
                except protocol.ProtocolError as problem:
                    logger.warning("runner wrote something that is no event: %s", problem)
        except ValueError:  # a line beyond the bound: nothing after it can be trusted
            logger.exception("runner wrote too long a line")
            self._process.kill()
        finally:
            self._has_ended = True
            for events in (self._events, *self._answers.values()):
                events.put_nowait(None)

    def _hand_out(self, event: protocol.Event) -> None:
        name = getattr(event, "request", None)
        if name is None:
            if isinstance(event, protocol.Refused):
                logger.warning("runner refused a command: %s", event.message)
            self._events.put_nowait(event)
        elif name in self._answers:
            self._answers[name].put_nowait(event)
        else:
            # What is left of a request that we have stopped waiting for.
            logger.debug("runner said %s out of turn", event)

    async def _read_last_words(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError):
            while line := await self._process.stderr.readline():
                text = line.decode(errors="replace").rstrip()
                self._last_words.append(text[:500])
                logger.debug("runner %s: %s", self._process.pid, text)

"""The runner: reads commands, holds one loaded model, works one request at a time, writes events.

One thread reads, one works; only the wire is shared. Knows nothing of jobs, rows or pages.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from importlib.metadata import version
from typing import BinaryIO, NoReturn

import torch
from transformers.utils import logging

from generation.engine.adapters.attach import Attachment
from generation.engine.adapters.proof import prove
from generation.engine.checkpoint import LoadedModel, device_name, load_checkpoint
from generation.engine.errors import EngineError
from generation.engine.memory import held_memory_bytes, release_all_unused_memory, release_unused_memory
from generation.engine.protocol import (
    INVALID_REQUEST,
    Cancel,
    Command,
    Event,
    Generate,
    Load,
    LoadFailed,
    LoadFinished,
    LoadProgress,
    LoadStage,
    ProtocolError,
    Prove,
    Refused,
    RequestFailed,
    RequestFinished,
    RequestProgress,
    RequestStage,
    Started,
    Unload,
    decode_command,
)
from generation.engine.render import Rendering, render

PROGRESS_INTERVAL_SECONDS = 0.1
#: Below this a step is over before threads have been woken for it: the demo is two to three times as fast on one.
PARAMETERS_WORTH_THREADS = 20_000_000
LONGEST_LINE_BYTES = 1 << 24  # a request carries the config of each of its adapters


def main(commands: BinaryIO, events: BinaryIO) -> NoReturn:
    """Serve commands until `unload`, a failed load, or the parent's end."""
    # Ctrl-C in a terminal reaches the whole process group; the parent decides what it means for its runners.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.set_verbosity_error()
    status = 70  # EX_SOFTWARE, unless serving ends as it should
    try:
        status = Runner(commands, events).serve()
    finally:
        if sys.exc_info()[0]:
            traceback.print_exc()
        # Not sys.exit: the interpreter would wait for the reading thread, which waits for the parent.
        sys.stderr.flush()
        os._exit(status)


class Runner:
    """One model and the requests for it. `serve` runs on the working thread, `_read` on the reading one."""

    def __init__(self, commands: BinaryIO, events: BinaryIO) -> None:
        self._commands = commands
        self._events = events
        self._writing = threading.Lock()
        self._work: queue.SimpleQueue[Load | Generate | Prove] = queue.SimpleQueue()
        self._pending: dict[str, threading.Event] = {}  # request id -> set when it is to stop
        self._guard = threading.Lock()  # of _pending and _load_seen
        self._load_seen = False
        self._model: LoadedModel | None = None
        self._attachment = Attachment()

    def serve(self) -> int:
        """Work through commands in the order they came; returns the exit status once a load has failed."""
        versions = {"python": sys.version.split()[0]}
        versions |= {
            name: version(name)
            for name in ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
        }
        self._send(Started(pid=os.getpid(), versions=versions))
        threading.Thread(target=self._read, name="commands", daemon=True).start()
        while True:
            command = self._work.get()
            if isinstance(command, Load):
                if not self._load(command):
                    return 1
            else:
                self._answer(command)

    # --- the reading thread ---

    def _read(self) -> None:
        try:
            while line := self._commands.readline(LONGEST_LINE_BYTES):
                try:
                    self._take(decode_command(self._whole(line)))
                except ProtocolError as error:
                    self._send(Refused(message=str(error)))
        finally:
            # The parent is gone, and with it whoever would read what is being made.
            os._exit(0)

    def _whole(self, line: bytes) -> bytes:
        """The line; one longer than any command is skipped to its end and ProtocolError raised."""
        if len(line) < LONGEST_LINE_BYTES or line.endswith(b"\n"):
            return line
        while (rest := self._commands.readline(LONGEST_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        raise ProtocolError(f"the line is longer than {LONGEST_LINE_BYTES} bytes")

    def _take(self, command: Command) -> None:
        if isinstance(command, Unload):
            # At once, also in the middle of a step or a load: the end of the process gives all memory back.
            # The lock keeps an event from being cut in half, unless nobody reads events any more.
            self._writing.acquire(timeout=1.0)
            os._exit(0)
        with self._guard:
            if isinstance(command, Cancel):
                if stop := self._pending.get(command.request):
                    stop.set()
                return
            if isinstance(command, Load):
                if self._load_seen:
                    raise ProtocolError("this runner has its model; start another one for another model")
                self._load_seen = True
            else:
                if command.request in self._pending:
                    raise ProtocolError(f"request {command.request!r} is waiting or running already")
                self._pending[command.request] = threading.Event()
        self._work.put(command)

    # --- the working thread ---

    def _load(self, command: Load) -> bool:
        started = time.perf_counter()
        throttle = _Throttle()

        def report(stage: LoadStage, fraction: float | None) -> None:
            if throttle.lets_pass(stage, final=fraction == 1.0):
                self._send(LoadProgress(stage=stage, fraction=fraction))

        try:
            self._model = load_checkpoint(
                command.checkpoint,
                revision=command.revision,
                device=command.device,
                dtype=command.dtype,
                on_progress=report,
            )
        except EngineError as error:
            self._send(LoadFailed(error_code=error.error_code, message=error.message, detail=error.detail))
            return False
        fit_threads(self._model)
        self._send(_load_finished(self._model, time.perf_counter() - started))
        return True

    def _answer(self, command: Generate | Prove) -> None:
        stop = self._pending[command.request]
        try:
            event = self._outcome(command, stop)
        finally:
            with self._guard:
                del self._pending[command.request]
        self._send(event)

    def _outcome(self, command: Generate | Prove, stop: threading.Event) -> Event:
        model = self._model
        if model is None:
            message = "No model is loaded. Send a load command first."
            return RequestFailed(request=command.request, error_code=INVALID_REQUEST, message=message)
        try:
            event = (
                prove(model, command, self._attachment)
                if isinstance(command, Prove)
                else self._take_of(model, command, stop)
            )
        except EngineError as error:
            event = RequestFailed(
                request=command.request,
                error_code=error.error_code,
                message=error.message,
                detail=error.detail,
            )
        # Outside the handler, where the exception no longer holds the tensors of the steps it came through.
        if isinstance(event, RequestFailed):
            release_all_unused_memory(model.device)
        else:
            release_unused_memory(model.device)
        return event

    def _take_of(self, model: LoadedModel, command: Generate, stop: threading.Event) -> Event:
        throttle = _Throttle()

        def report(stage: RequestStage, done: int, total: int) -> None:
            if throttle.lets_pass(stage, final=done == total):
                self._send(
                    RequestProgress(
                        request=command.request, stage=stage, frames_done=done, frames_total=total
                    )
                )

        made = render(model, command, on_stage=report, should_stop=stop.is_set, attachment=self._attachment)
        return _request_finished(command, model, made)

    # --- the wire ---

    def _send(self, event: Event) -> None:
        line = event.encode().encode("utf-8") + b"\n"
        with self._writing:
            try:
                while line:  # a raw pipe may take less than it is given
                    line = line[self._events.write(line) :]
            except BrokenPipeError:
                os._exit(0)


class _Throttle:
    """Lets through the first report, the first of each stage, the last one, and ten a second between them."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._next = 0.0

    def lets_pass(self, stage: str, *, final: bool) -> bool:
        now = time.monotonic()
        if stage == self._stage and now < self._next and not final:
            return False
        self._stage, self._next = stage, now + PROGRESS_INTERVAL_SECONDS
        return True


def fit_threads(model: LoadedModel) -> None:
    """Give a small model on a CPU one thread, unless OMP_NUM_THREADS says how many; others keep torch's number."""
    small = model.parameters < PARAMETERS_WORTH_THREADS
    if small and model.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _load_finished(model: LoadedModel, seconds: float) -> LoadFinished:
    return LoadFinished(
        device=str(model.device),
        device_name=device_name(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        sample_rate=model.sample_rate,
        frame_rate=model.frame_rate,
        channels=model.channels,
        codebooks=model.codebooks,
        parameters=model.parameters,
        weight_bytes=model.weight_bytes,
        model_type=model.network.config.model_type,
        revision=model.revision,
        seconds=seconds,
        memory_bytes=held_memory_bytes(model.device),
    )


def _request_finished(command: Generate, model: LoadedModel, made: Rendering) -> RequestFinished:
    return RequestFinished(
        request=command.request,
        cancelled=made.cancelled,
        frames=made.frames,
        duration_seconds=made.duration_seconds,
        sample_rate=model.sample_rate,
        channels=model.channels,
        output=str(made.output) if made.output else None,
        seconds=made.seconds,
    )

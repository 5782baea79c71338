"""The runner: reads commands, holds one loaded model, works on requests side by side, writes events.

One thread reads, one works; only the wire is shared. Knows nothing of jobs, rows or pages.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, NoReturn

import torch
from transformers.utils import logging

from generation.engine.adapters.attach import Attachment
from generation.engine.adapters.proof import prove
from generation.engine.checkpoint import LoadedModel, device_name, load_checkpoint, load_failure
from generation.engine.company import Company
from generation.engine.errors import EngineError
from generation.engine.kernels import NoKernels
from generation.engine.live import OnAudio
from generation.engine.memory import (
    forget_peak,
    held_memory_bytes,
    release_all_unused_memory,
    release_unused_memory,
)
from generation.engine.network import DecoderStep
from generation.engine.packed import pack_decoder
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
    RequestAudio,
    RequestFailed,
    RequestFinished,
    RequestProgress,
    RequestStage,
    Started,
    Unload,
    decode_command,
    request_named_in,
)
from generation.engine.render import OnStage, Rendering

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
        self._company: Company | None = None

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
            for command in self._commands_at_hand():
                if isinstance(command, Load):
                    if not self._load(command):
                        return 1
                elif isinstance(command, Prove) or self._company is None:
                    self._answer(command)
                else:
                    self._company.add(
                        command,
                        on_stage=self._reporter(command.request),
                        should_stop=self._pending[command.request].is_set,
                        on_audio=self._teller(command.request),
                    )
            if self._company is not None and not self._company.is_idle:
                self._advance(self._company)

    def _commands_at_hand(self) -> Iterator[Load | Generate | Prove]:
        """Those that have come; waits for one where there is nothing to do."""
        if self._company is None or self._company.is_idle:
            yield self._work.get()
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._work.get_nowait()

    # --- the reading thread ---

    def _read(self) -> None:
        try:
            while line := self._commands.readline(LONGEST_LINE_BYTES):
                try:
                    self._take(decode_command(self._whole(line)))
                except ProtocolError as error:
                    self._send(Refused(message=str(error), request=request_named_in(line)))
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
            model = load_checkpoint(
                command.checkpoint,
                revision=command.revision,
                device=command.device,
                dtype=command.dtype,
                kept=Path(command.kept) if command.kept else None,
                on_progress=report,
            )
            prepare(model)
        except Exception as problem:  # noqa: BLE001 - the libraries fail with whatever they like
            error = load_failure(problem)
            self._send(LoadFailed(error_code=error.error_code, message=error.message, detail=error.detail))
            return False
        self._model = model
        self._company = Company(self._model, self._attachment, most=command.takes_at_once)
        self._send(_load_finished(self._model, time.perf_counter() - started))
        return True

    def _advance(self, company: Company) -> None:
        """One step of every take in hand, and an answer for each that ended."""
        assert self._model is not None
        events: list[Event] = []
        for request, outcome in company.advance():
            if isinstance(outcome, EngineError):
                events.append(_request_failed(request.request, outcome))
            else:
                events.append(_request_finished(request, self._model, outcome))
        if events and company.is_idle:
            if any(isinstance(event, RequestFailed) for event in events):
                release_all_unused_memory(self._model.device)
            else:
                release_unused_memory(self._model.device)
        for event in events:
            assert isinstance(event, RequestFailed | RequestFinished)
            self._end(event.request, event)

    def _answer(self, command: Generate | Prove) -> None:
        """A proof, between two steps of whatever else is in hand; or a request that came before a model."""
        event: Event
        if self._model is None:
            message = "No model is loaded. Send a load command first."
            event = RequestFailed(request=command.request, error_code=INVALID_REQUEST, message=message)
        else:
            assert isinstance(command, Prove)
            try:
                event = prove(self._model, command, self._attachment)
            except EngineError as error:
                event = _request_failed(command.request, error)
        if self._model is not None:
            # Outside the handler, where no exception holds the tensors of the steps it came through.
            release_all_unused_memory(self._model.device)
        self._end(command.request, event)

    def _end(self, request: str, event: Event) -> None:
        with self._guard:
            del self._pending[request]
        self._send(event)

    def _reporter(self, request: str) -> OnStage:
        throttle = _Throttle()

        def report(stage: RequestStage, done: int, total: int) -> None:
            if throttle.lets_pass(stage, final=done == total):
                self._send(
                    RequestProgress(request=request, stage=stage, frames_done=done, frames_total=total)
                )

        return report

    def _teller(self, request: str) -> OnAudio:
        def tell(chunk: int, path: Path, is_last: bool) -> None:
            self._send(RequestAudio(request=request, chunk=chunk, path=str(path), is_last=is_last))

        return tell

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


def prepare(model: LoadedModel) -> None:
    """Fit a model to where it is.

    On a CPU: pack its weights, and give a small one one thread, unless OMP_NUM_THREADS says how many. On a graphics card: try
    what a first take would wait for.
    """
    if model.device.type == "cuda":
        DecoderStep(model).rows_agree()
    if model.device.type != "cpu":
        return
    is_large = model.parameters >= PARAMETERS_WORTH_THREADS
    pack_decoder(
        model.network, model.kernels, is_large=is_large
    )  # of a quantised one the heads, which are left
    if not is_large and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    forget_peak()


def kernels_of(model: LoadedModel) -> tuple[str, NoKernels | None]:
    """What makes its steps, as a recipe says it, and why they are slower than they could be, where they are."""
    name, problem = f"compiled {model.kernels.name}" if model.kernels else "torch", model.no_kernels
    if model.device.type == "cuda":
        if DecoderStep(model).is_captured:
            return f"{name}, captured", problem
        problem = NoKernels("Steps cannot be captured on this card: update its driver.", "the log says why")
    return name, problem


def _load_finished(model: LoadedModel, seconds: float) -> LoadFinished:
    kernels, problem = kernels_of(model)
    return LoadFinished(
        device=str(model.device),
        device_name=device_name(model.device),
        dtype=model.format_name,
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
        kernels=kernels,
        no_kernels=str(problem or ""),
        no_kernels_detail=problem.detail if problem else "",
    )


def _request_failed(request: str, error: EngineError) -> RequestFailed:
    return RequestFailed(
        request=request, error_code=error.error_code, message=error.message, detail=error.detail
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
        work_seconds=made.work_seconds,
    )

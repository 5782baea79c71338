"""The calculator's process, seen from outside: started once, kept, replaced when it ends.

Runs in the web process. Each question has a connection of its own, so that none waits behind a slow one. Answers
are remembered by the config's hash, refusals too.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

from gated_configs.memory.architecture import Architecture
from gated_configs.memory.errors import (
    CalculatorError,
    CalculatorUnavailable,
    LimitExceeded,
    UnsupportedArchitecture,
)

#: Seconds that starting and the first answer may take: importing torch on a busy machine.
_START_SECONDS: Final = 60.0
#: Seconds after which a process that does not answer is ended; its own limits on one config are far lower.
_ANSWER_SECONDS: Final = 60.0
_TRIES: Final = 4
_REMEMBERED: Final = 512
#: Seconds for which a limit that was met is remembered: the machine may have been busy.
_LIMIT_REMEMBERED_SECONDS: Final = 300.0
_AGAIN: Final = b'{"again": "--everything"}\n'
logger = logging.getLogger(__name__)
_ROOT: Final = Path(__file__).resolve().parents[2]


class Calculator:
    """One calculating process and what it has answered so far. Safe to use from several threads at once."""

    def __init__(self) -> None:
        self._remembering = threading.Lock()
        self._answers: OrderedDict[str, tuple[Architecture | CalculatorError, float]] = OrderedDict()
        self._starting = threading.Lock()
        self._process: _Process | None = None
        self._arguments: tuple[str, ...] = ()

    def describe(self, config: dict[str, Any]) -> Architecture:
        """The architecture of a config that was checked.

        Raises UnsupportedArchitecture, LimitExceeded, or CalculatorUnavailable when no process can be had.
        """
        key = config_hash(config)
        answer = self._remembered(key)
        if answer is None:
            answer = self._ask(config)
            self._remember(key, answer)
        if isinstance(answer, CalculatorError):
            raise type(answer)(str(answer))
        return answer

    def warm_up(self) -> None:
        """Start the process now and do not wait for it, so that the first question finds it ready."""
        self._running()

    def close(self) -> None:
        """End the process. The next question starts another."""
        with self._starting:
            process, self._process = self._process, None
        if process is not None:
            process.end()

    @property
    def process_id(self) -> int | None:
        """The process's id while it runs."""
        process = self._process
        return process.pid if process is not None and process.is_alive else None

    def _remembered(self, key: str) -> Architecture | CalculatorError | None:
        with self._remembering:
            answer, until = self._answers.get(key, (None, 0.0))
            if answer is None or time.monotonic() > until:
                return None
            self._answers.move_to_end(key)
            return answer

    def _remember(self, key: str, answer: Architecture | CalculatorError) -> None:
        seconds = _LIMIT_REMEMBERED_SECONDS if isinstance(answer, LimitExceeded) else float("inf")
        with self._remembering:
            self._answers[key] = (answer, time.monotonic() + seconds)
            while len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)

    def _ask(self, config: dict[str, Any]) -> Architecture | CalculatorError:
        question = json.dumps({"config": config}).encode() + b"\n"
        for _ in range(_TRIES):
            process = self._running()
            try:
                answer = process.answer(question)
            except TimeoutError:
                self._drop(process)
                return LimitExceeded(
                    "Computing over this config took too long and was stopped. Try it again when the machine is less busy."
                )
            except OSError:
                # It ended: idle for long, or somebody ended it. Another takes its place.
                self._drop(process)
                continue
            if answer == _AGAIN:
                # Something that the lean process leaves out was needed: one with everything takes its place.
                self._arguments = ("--everything",)
                self._drop(process)
                continue
            return _understood(answer)
        raise CalculatorUnavailable(
            "The calculator's process ends as soon as it is started. Try again; if it stays so, run"
            " `python -m gated_configs.memory` on the server to see why."
        )

    def _running(self) -> _Process:
        with self._starting:
            if self._process is None or not self._process.is_alive:
                self._process = _Process(self._arguments)
            return self._process

    def _drop(self, process: _Process) -> None:
        """Have the next question start another process, unless somebody else has seen to it."""
        with self._starting:
            if self._process is process:
                self._process = None
        process.end()


class _Process:
    """One running process and the socket over which it is handed connections."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self._sending = threading.Lock()
        self._has_answered = False
        ours, theirs = socket.socketpair()
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-m", "gated_configs.memory", *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                cwd=_ROOT,
            )
        except OSError as error:
            ours.close()
            raise CalculatorUnavailable(f"The calculator's process cannot be started: {error}.") from error
        finally:
            theirs.close()
        self._socket = ours

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def answer(self, question: bytes) -> bytes:
        """The line that answers a line. Raises TimeoutError, or another OSError when the process has ended."""
        seconds = _ANSWER_SECONDS if self._has_answered else _START_SECONDS
        ends_at = time.monotonic() + seconds
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._sending:
                socket.send_fds(self._socket, [b"?"], [theirs.fileno()])
            ours.settimeout(seconds)
            ours.sendall(question)
            read = bytearray()
            while not read.endswith(b"\n"):
                left = ends_at - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                ours.settimeout(left)
                chunk = ours.recv(1 << 16)
                if not chunk:
                    raise ConnectionResetError("the process ended without an answer")
                read += chunk
        self._has_answered = True
        return bytes(read)

    def end(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()


_SECRETS: Final = frozenset(
    {
        *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "DATABASE_URL", "REDIS_URL"),
        *("MUSICGEN_SECRET_KEY", "MUSICGEN_EMAIL_URL", "MUSICGEN_METRICS_TOKEN"),
    }
)


def _environment() -> dict[str, str]:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "critical",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        # A process that forks has one thread.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", "")))),
    }
    # Secrets have no business in a process that reads what strangers paste.
    return {name: value for name, value in environment.items() if name not in _SECRETS}


def config_hash(config: dict[str, Any]) -> str:
    """A name for a config's content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _understood(line: bytes) -> Architecture | CalculatorError:
    answer = json.loads(line)
    if "architecture" in answer:
        try:
            return Architecture.from_json(answer["architecture"])
        except (KeyError, TypeError) as error:
            raise CalculatorUnavailable(
                "The studio was updated while it ran, and its calculator is of the other release. Start the studio again."
            ) from error
    if "detail" in answer:
        logger.warning("a config was refused after an error that no check foresaw: %s", answer["detail"])
    kinds = {kind.code: kind for kind in (UnsupportedArchitecture, LimitExceeded)}
    return kinds.get(answer["code"], UnsupportedArchitecture)(answer["sentence"])


_calculator = Calculator()
atexit.register(_calculator.close)


def shared_calculator() -> Calculator:
    """The one calculator of this process."""
    return _calculator

"""The child process that builds models from configs, seen from outside: started once, kept, replaced when it ends.

Runs in the web process. Answers are remembered by the config's hash, refusals too.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import selectors
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

#: Seconds that starting may take: importing torch on a busy machine.
_START_SECONDS: Final = 60.0
#: Seconds after which a child that does not answer is ended; its own limit on a build is far lower.
_ANSWER_SECONDS: Final = 15.0
_REMEMBERED: Final = 512
_AGAIN: Final = b'{"again": "--everything"}'
_ROOT: Final = Path(__file__).resolve().parents[2]


class Calculator:
    """One child process and what it has answered so far. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: OrderedDict[str, Architecture | CalculatorError] = OrderedDict()
        self._buffer = b""
        self._arguments: tuple[str, ...] = ()

    def describe(self, config: dict[str, Any]) -> Architecture:
        """The architecture of a config that was checked.

        Raises UnsupportedArchitecture, LimitExceeded, or CalculatorUnavailable when no child can be had.
        """
        key = config_hash(config)
        with self._lock:
            answer = self._answers.get(key)
            if answer is None:
                answer = self._ask(config)
                self._answers[key] = answer
                while len(self._answers) > _REMEMBERED:
                    self._answers.popitem(last=False)
            else:
                self._answers.move_to_end(key)
        if isinstance(answer, CalculatorError):
            raise type(answer)(str(answer))
        return answer

    def warm_up(self) -> None:
        """Start the child now, so that the first question need not wait for it."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the child. The next question starts another."""
        with self._lock:
            self._end()

    @property
    def process_id(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def _ask(self, config: dict[str, Any]) -> Architecture | CalculatorError:
        question = json.dumps({"config": config}).encode() + b"\n"
        for is_last in (False, False, True):
            process = self._running()
            try:
                assert process.stdin is not None
                process.stdin.write(question)
                process.stdin.flush()
                answer = self._line(_ANSWER_SECONDS)
            except BrokenPipeError:
                answer = b""
            if answer is None:
                self._end()
                return LimitExceeded(
                    f"Computing over this config took more than {_ANSWER_SECONDS:.0f} seconds and was stopped."
                )
            if answer == _AGAIN:
                # Something that the lean child leaves out was needed: a child with everything takes its place.
                self._arguments = ("--everything",)
                self._end()
                continue
            if answer:
                return _understood(answer)
            # It ended by itself: idle for long, or out of memory on this very config.
            self._end()
            if is_last:
                return LimitExceeded(
                    "Computing over this config ended the process that did it; it was stopped."
                )
        raise AssertionError("unreachable")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TRANSFORMERS_VERBOSITY": "critical",
            "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", "")))),
        }
        # A token has no business in a process that reads what strangers paste.
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            environment.pop(name, None)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gated_configs.memory", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd=_ROOT,
            )
        except OSError as error:
            raise CalculatorUnavailable(f"The calculator's process cannot be started: {error}.") from error
        self._buffer = b""
        if not self._line(_START_SECONDS):
            self._end()
            raise CalculatorUnavailable("The calculator's process did not start.")
        return self._process

    def _line(self, timeout_seconds: float) -> bytes | None:
        """The child's next line; empty when it ended, None when time is up."""
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    if left <= 0:
                        return None
                    continue
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    return b""
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        process.kill()
        process.wait()


def config_hash(config: dict[str, Any]) -> str:
    """A name for a config's content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _understood(line: bytes) -> Architecture | CalculatorError:
    answer = json.loads(line)
    if "architecture" in answer:
        return Architecture.from_json(answer["architecture"])
    kinds = {kind.code: kind for kind in (UnsupportedArchitecture, LimitExceeded)}
    return kinds.get(answer["code"], UnsupportedArchitecture)(answer["sentence"])


_calculator = Calculator()
atexit.register(_calculator.close)


def shared_calculator() -> Calculator:
    """The one calculator of this process."""
    return _calculator

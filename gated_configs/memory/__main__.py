"""The child process: configs come in as JSON lines, architectures go out. Ends when its input does, or when idle.

Limits are set before anything pasted is read. It has no network, runs no code from a config, and writes nothing.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
from types import FrameType
from typing import Any, BinaryIO, Final

#: Seconds of processor time for one build. The largest real ones take a quarter of a second.
_BUILD_SECONDS: Final = 1.2
#: Address space beyond what the libraries take when loaded.
_EXTRA_BYTES: Final = 1536 * 1024 * 1024
#: A child that has grown by this much since it was ready ends after its answer and is started anew.
_MOST_GROWTH_KIB: Final = 400 * 1024
_IDLE_SECONDS: Final = 900.0
_MAX_LINE_BYTES: Final = 32 * 1024 * 1024


def main() -> None:
    """Answer one line after another."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[name] = "1"
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    _set_limit(resource.RLIMIT_CORE, 0)

    from gated_configs.memory.lean_imports import import_libraries, import_symbolic_shapes, was_touched

    is_lean = "--everything" not in sys.argv
    try:
        import_libraries(is_lean=is_lean)
    except Exception:
        if not is_lean:
            raise
        # Another version of a library may need what was left out: start once more with everything.
        os.dup2(answers.fileno(), 1)
        os.execv(sys.executable, [sys.executable, "-m", "gated_configs.memory", "--everything"])  # noqa: S606
    # torch looks for a folder for temporary files by writing one; let it know the answer before writing ends.
    tempfile.gettempdir()
    _set_limit(resource.RLIMIT_FSIZE, 0)
    _set_limit(resource.RLIMIT_AS, _address_space_bytes() + _EXTRA_BYTES)
    gc.freeze()
    at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers.write(b'{"ready": true}\n')
    questions = os.fdopen(0, "rb", buffering=0)
    pending = b""
    while True:
        line, pending = _next_line(questions, pending)
        if line is None:
            return
        answer = _answer(line)
        if is_lean and "architecture" not in answer and was_touched():
            answer = {"again": "--everything"}
        answers.write(json.dumps(answer).encode() + b"\n")
        gc.collect()
        if not pending and not select.select([questions], [], [], 0.2)[0]:
            import_symbolic_shapes()
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_start > _MOST_GROWTH_KIB:
            return


def _next_line(questions: BinaryIO, pending: bytes) -> tuple[bytes | None, bytes]:
    while b"\n" not in pending:
        readable, _, _ = select.select([questions], [], [], _IDLE_SECONDS)
        chunk = questions.read(1 << 20) if readable else b""
        if not chunk or len(pending) > _MAX_LINE_BYTES:
            return None, b""
        pending += chunk
    line, _, rest = pending.partition(b"\n")
    return line, rest


class _TimeIsUp(BaseException):
    """Raised in the middle of a build; a BaseException so that no library takes it for its own."""


def _ring(number: int, frame: FrameType | None) -> None:
    raise _TimeIsUp


def _answer(line: bytes) -> dict[str, Any]:
    from gated_configs.memory.description import describe
    from gated_configs.memory.errors import CalculatorError
    from gated_configs.memory.lean_imports import import_family

    try:
        config = json.loads(line)["config"]
        # Importing a family's module is slow and harmless: it does not count.
        import_family(config)
        signal.signal(signal.SIGVTALRM, _ring)
        signal.setitimer(signal.ITIMER_VIRTUAL, _BUILD_SECONDS)
        try:
            return {"architecture": describe(config).as_json()}
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except CalculatorError as error:
        return {"code": error.code, "sentence": str(error)}
    except _TimeIsUp:
        return _limit(f"Building this config takes more than {_BUILD_SECONDS} seconds; it was stopped.")
    except MemoryError:
        return _limit("Building this config takes more memory than a calculation may have; it was stopped.")
    except RecursionError:
        return _limit("This config is nested too deeply to be built.")
    except Exception as error:  # noqa: BLE001 -- a config that no check foresaw is refused, and the child lives on
        detail = " ".join(str(error).split())[:200]
        return {
            "code": "UNSUPPORTED_ARCHITECTURE",
            "sentence": f"This config cannot be computed: {type(error).__name__}: {detail}",
        }


def _limit(sentence: str) -> dict[str, Any]:
    return {"code": "LIMIT_EXCEEDED", "sentence": sentence}


def _set_limit(kind: int, value: int) -> None:
    try:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    except (ValueError, OSError):
        # Not every system can limit everything; the other limits still hold.
        return


def _address_space_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as statistics:  # noqa: PTH123 -- a file of the kernel's
            return int(statistics.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 8 * 1024**3


if __name__ == "__main__":
    main()

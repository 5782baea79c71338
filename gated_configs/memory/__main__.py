"""The calculator's process: it imports the libraries once and forks for each config, so that none harms the next.

Limits are the kernel's and are set before anything pasted is read by a library. It has no network, runs no code
from a config, and writes nothing.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from gated_configs.memory.spare import Spare

#: Seconds of processor time for one config. Most take a twentieth, the slowest real one a fifth.
BUILD_SECONDS: Final = 1.0
#: Seconds on the clock from the question's arrival, so that a refusal is there within two on a busy machine too. One
#: that has had next to no time of the processor till then is a real config on a machine that has none to give.
CLOCK_SECONDS: Final = 1.25
_STARVED_SECONDS: Final = 0.6
#: Seconds on the clock for whatever waits instead of computing.
_LONGEST_SECONDS: Final = 20.0
#: Address space beyond what the libraries take when loaded.
_EXTRA_BYTES: Final = 1024 * 1024 * 1024
#: Configs computed at a time; the next ones wait.
_AT_ONCE: Final = 3
#: A process that has imported so many families that it grew by this much makes place for a fresh one.
_MOST_GROWTH_KIB: Final = 400 * 1024
_IDLE_SECONDS: Final = 900.0
_MAX_LINE_BYTES: Final = 32 * 1024 * 1024
_READ_SECONDS: Final = 5.0
#: Nobody has asked for so long: time to fork ahead of the next question.
_PAUSE_SECONDS: Final = 0.02


@dataclass(frozen=True)
class _Fork:
    """One config being computed: where its answer goes and when it must be there."""

    connection: socket.socket
    ends_at: float


def main() -> None:
    """Serve questions that come as connections over the socket on standard input, until it closes or is idle."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[name] = "1"
    _set_limit(resource.RLIMIT_CORE, 0)

    from gated_configs.memory.lean_imports import import_libraries

    is_lean = "--everything" not in sys.argv
    try:
        import_libraries(is_lean=is_lean)
    except Exception:
        if not is_lean:
            raise
        # Another version of a library may need what was left out: start once more with everything.
        os.execv(sys.executable, [sys.executable, "-m", "gated_configs.memory", "--everything"])  # noqa: S606
    # torch looks for a folder for temporary files by writing one; let it know the answer before writing ends.
    tempfile.gettempdir()
    _set_limit(resource.RLIMIT_FSIZE, 0)
    _serve(socket.socket(fileno=0))


def _serve(questions: socket.socket) -> None:
    from gated_configs.memory.spare import Spare

    forks: dict[int, _Fork] = {}
    spare: Spare | None = None
    at_start = _resident_kib()
    idle_since = time.monotonic()
    while True:
        _end_forks(forks)
        grown = _resident_kib() - at_start > _MOST_GROWTH_KIB
        if not forks and (grown or time.monotonic() - idle_since > _IDLE_SECONDS):
            return
        wait_for = [] if grown or len(forks) >= _AT_ONCE else [questions]
        pause = 0.02 if forks else _PAUSE_SECONDS if spare is None else 30.0
        if not select.select(wait_for, [], [], pause)[0]:
            if spare is None and not forks:
                gc.freeze()
                spare = Spare(_answer_and_end, questions)
            continue
        idle_since = time.monotonic()
        word, descriptors, _, _ = socket.recv_fds(questions, 1, 1)
        if not word:
            questions.close()
            return
        for descriptor in descriptors:
            if _take(socket.socket(fileno=descriptor), forks, spare):
                spare = None


def _take(connection: socket.socket, forks: dict[int, _Fork], spare: Spare | None) -> bool:
    """Read one question and have a fork answer it: the spare one, if it can. False where it is none."""
    from gated_configs.memory.blueprint import import_modules

    ends_at = time.monotonic() + CLOCK_SECONDS
    try:
        question = _line(connection)
        config = json.loads(question)["config"]
    except (OSError, ValueError, KeyError, TypeError):
        connection.close()
        return False
    is_taken = spare is not None and spare.take(connection, question)
    # For the next configs of the family; a fork that was made ahead imports them for itself at the same time.
    with contextlib.suppress(Exception):
        import_modules(config)
    if spare is not None and is_taken:
        forks[spare.pid] = _Fork(connection, ends_at)
        return True
    if spare is not None:
        spare.end()
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        _answer_and_end(connection, question)
    forks[pid] = _Fork(connection, ends_at)
    return True


def _line(connection: socket.socket) -> bytes:
    connection.settimeout(_READ_SECONDS)
    read = bytearray()
    while not read.endswith(b"\n"):
        chunk = connection.recv(1 << 20)
        if not chunk or len(read) > _MAX_LINE_BYTES:
            raise OSError("the question is cut off or too long")
        read += chunk
    return bytes(read)


def _answer_and_end(connection: socket.socket, question: bytes) -> NoReturn:
    status = 1
    try:
        gc.disable()  # it lives for a moment, and collecting would touch every shared page
        _set_limit(resource.RLIMIT_AS, _address_space_bytes() + _EXTRA_BYTES)
        # By default the signal ends the process, in the middle of a library's C code too.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, BUILD_SECONDS)
        answer = json.dumps(_answer(json.loads(question)["config"])).encode() + b"\n"
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.settimeout(_LONGEST_SECONDS)
        connection.sendall(answer)
        status = 0
    finally:
        os._exit(status)


def _answer(config: dict[str, Any]) -> dict[str, Any]:
    from gated_configs.memory.description import describe
    from gated_configs.memory.errors import CalculatorError
    from gated_configs.memory.lean_imports import was_touched

    was_touched()
    try:
        return {"architecture": describe(config).as_json()}
    except MemoryError:
        return _limit("memory")
    except RecursionError:
        return {"code": "LIMIT_EXCEEDED", "sentence": "This config is nested too deeply to be built."}
    except CalculatorError as error:
        refusal = {"code": error.code, "sentence": str(error)}
    except Exception as error:  # noqa: BLE001 -- a config that no check foresaw is refused
        refusal = {
            "code": "UNSUPPORTED_ARCHITECTURE",
            "sentence": "This config cannot be computed: its fields are not what its family has. Compare it with the"
            " config.json of the model's page.",
            "detail": f"{type(error).__name__}: {error}"[:500],
        }
    return {"again": "--everything"} if was_touched() else refusal


def _end_forks(forks: dict[int, _Fork]) -> None:
    """See to the forks that have ended, and end those whose time is up."""
    for pid, fork in list(forks.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            late = time.monotonic() - fork.ends_at
            if late < 0 or (late < _LONGEST_SECONDS and _processor_seconds(pid) < _STARVED_SECONDS):
                continue
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            _tell(fork.connection, _limit("time", ", or try again when the machine is less busy"))
        elif os.WIFSIGNALED(status):
            # Its timer, or whatever a library does when it gets no more memory.
            _tell(fork.connection, _limit("time" if os.WTERMSIG(status) == signal.SIGPROF else "memory"))
        elif os.WEXITSTATUS(status):
            _tell(fork.connection, _limit("memory"))
        fork.connection.close()
        del forks[pid]


def _processor_seconds(pid: int) -> float:
    """What a process has used of the processor; where the system does not say, as if it were much."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as statistics:  # noqa: PTH123
            ticks = statistics.read().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return _STARVED_SECONDS


def _tell(connection: socket.socket, answer: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(answer).encode() + b"\n")


def _limit(what: str, otherwise: str = "") -> dict[str, Any]:
    return {
        "code": "LIMIT_EXCEEDED",
        "sentence": f"Building this config takes more {what} than a calculation may have; it was stopped."
        f" Real models stay far below: check its sizes{otherwise}.",
    }


def _set_limit(kind: int, value: int) -> None:
    try:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    except (ValueError, OSError):
        # Not every system can limit everything; the other limits still hold.
        return


def _resident_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _address_space_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as statistics:  # noqa: PTH123 -- a file of the kernel's
            return int(statistics.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 8 * 1024**3


if __name__ == "__main__":
    main()

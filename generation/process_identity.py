"""Which process is which: a number alone is given again, and a clock that jumps changes when a process began.

Knows Linux's /proc; elsewhere nothing can be told. Knows no rows.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")


def identity_of(pid: int) -> str:
    """What tells the process of that number from every other; empty where it cannot be told or there is none.

    Made of this machine's start, the space of process numbers (a container has its own) and the tick at which the
    process began, counted from the machine's start.
    """
    space = process_space()
    if not space:
        return ""
    with contextlib.suppress(OSError, IndexError):
        # The second field is the program's name, which may hold spaces and brackets.
        after_name = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        is_zombie = after_name[0] == "Z"
        return "" if is_zombie else f"{space}/{after_name[19]}"
    return ""


@lru_cache(maxsize=1)
def process_space() -> str:
    """The start of this machine and the space of process numbers that we see; empty where it cannot be told."""
    with contextlib.suppress(OSError):
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').readlink()}"
    return ""


def is_of_here(identity: str) -> bool:
    """Whether that identity is of a process whose number means something here."""
    return bool(identity) and identity.rpartition("/")[0] == process_space()

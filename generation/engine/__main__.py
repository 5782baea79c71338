"""`python -m generation.engine`: one runner. Its protocol is in `generation.engine.protocol`."""

import os
import sys
from typing import BinaryIO


def _taken_over_stdout() -> BinaryIO:
    """A private copy of stdout; fd 1 itself leads to stderr from now on, for Python and for C code alike."""
    private = os.dup(1)  # not inherited by children
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(private, "wb", buffering=0)


# Read when torch is imported. Threads that wait by spinning, as is the default, stall each other as soon as another
# program wants the processor: with two threads on two busy cores a step took fifty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":
    events = _taken_over_stdout()  # before anything is imported that might print
    from generation.engine.libraries import import_libraries

    import_libraries()
    from generation.engine.runner import main

    main(sys.stdin.buffer, events)

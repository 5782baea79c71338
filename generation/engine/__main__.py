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


if __name__ == "__main__":
    events = _taken_over_stdout()  # before anything is imported that might print
    from generation.engine.libraries import bound_waiting, import_libraries

    bound_waiting()
    import_libraries()
    from generation.engine.runner import main

    main(sys.stdin.buffer, events)

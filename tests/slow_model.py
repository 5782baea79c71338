"""A checkpoint that makes a frame slowly, and runners that stand still: for tests that act in the middle of a job.

A short take of the demo is over within a second on a quick machine, between two looks. Knows no app's rows.
"""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from generation.engine.random_checkpoint import CheckpointShape, build_checkpoint

#: Narrow and deep: 20 s of audio take about 8 s on a quick machine, and its weights are small. Compiled kernels know no heads
#: of 8 numbers, so that a step goes through its modules one by one.
SLOW = CheckpointShape(layers=16, heads=8)


def build_slow(folder: Path) -> Path:
    """Write the slow checkpoint into `folder`, and answer the folder."""
    build_checkpoint(folder, SLOW, seed=4)
    return folder


def make_demo_slow(environment: dict[str, str], checkpoint: Path) -> None:
    """In a prepared home, let the demo model play the slow checkpoint."""
    database = Path(environment["MUSICGEN_HOME"], "studio.sqlite3")
    with closing(sqlite3.connect(database)) as connection, connection:
        changed = connection.execute(
            "UPDATE registry_modelconfig SET local_path = ? WHERE id = 'musicgen-demo'", [str(checkpoint)]
        )
        assert changed.rowcount == 1


@contextmanager
def standing_still(pid: int | None) -> Iterator[None]:
    """The process does nothing inside the block and goes on after it, as on a machine with no time for it."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)

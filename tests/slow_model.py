"""A checkpoint that makes a frame slowly, and runners that stand still: for tests that act in the middle of a job.

The demo is over within half a second on a quick machine, between two looks. Knows no app's rows.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from generation.engine.random_checkpoint import CheckpointShape, build_checkpoint
from tests.site.test_studio_settings import manage

#: The demo's shape with ten times its layers: 20 s of audio take about 8 s where the demo takes 1.4 s.
SLOW = CheckpointShape(layers=32)

_CHANGE_THE_DEMO = """
from django.conf import settings
from musicgen_site.database import prepare_database
from registry.models import ModelConfig
prepare_database(settings.STUDIO)
ModelConfig.objects.filter(pk="musicgen-demo").update(local_path={folder!r})
"""


def build_slow(folder: Path) -> Path:
    """Write the slow checkpoint into `folder`, and answer the folder."""
    build_checkpoint(folder, SLOW, seed=4)
    return folder


def make_demo_slow(environment: dict[str, str], checkpoint: Path) -> None:
    """Prepare a studio's home in which the demo model plays the slow checkpoint."""
    ended = manage(
        "shell", "-v0", "-c", _CHANGE_THE_DEMO.format(folder=str(checkpoint)), environment=environment
    )
    assert ended.returncode == 0, ended.stderr


@contextmanager
def standing_still(pid: int | None) -> Iterator[None]:
    """The process does nothing inside the block and goes on after it, as on a machine with no time for it."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)

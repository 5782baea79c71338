"""A studio of the benchmark's own: an environment without anybody's settings, and `manage.py serve` in it.

Knows nothing of what is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings

MANAGE: Final = (sys.executable, str(settings.BASE_DIR / "manage.py"))


@dataclass(frozen=True)
class OwnServer:
    """Where it listens, without a slash at the end, and its process."""

    url: str
    process: subprocess.Popen[str]


def prepared_environment(home: Path, **own: str) -> dict[str, str]:
    """The environment of a studio in that folder, whose database is made. `own` are settings for it."""
    hidden = ("MUSICGEN_", "DJANGO_", "DATABASE_URL", "REDIS_URL")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment = {**inherited, "MUSICGEN_HOME": str(home), "PYTHONUNBUFFERED": "1", **own}
    home.mkdir(parents=True, exist_ok=True)
    subprocess.run([*MANAGE, "migrate", "--verbosity", "0"], check=True, env=environment)
    return environment


def run_in_shell(script: str, environment: dict[str, str]) -> str:
    """Run a script with the studio's models at hand; what it printed. Raises CalledProcessError."""
    command = [*MANAGE, "shell", "--verbosity", "0", "-c", script]
    ran = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return ran.stdout


@contextmanager
def own_server(environment: dict[str, str], *options: str) -> Iterator[OwnServer]:
    """`manage.py serve` with these options on a free port, ended by SIGTERM. Raises RuntimeError where it does not start."""
    process = subprocess.Popen(
        [*MANAGE, "serve", "--port", "0", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = next((word for word in line.split() if word.startswith("http")), None)
        if url is None:
            raise RuntimeError("The benchmark's own studio did not start.")
        yield OwnServer(url.rstrip("/"), process)
    finally:
        process.terminate()
        process.wait(timeout=60)

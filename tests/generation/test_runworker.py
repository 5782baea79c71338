"""`manage.py runworker generation`: an engine beside a server that has none, over nothing but the database."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT, RunningStudio, running_studio, wait_until
from tests.slow_model import make_demo_slow

pytestmark = pytest.mark.slow

PATIENCE = 240


def ask(studio: RunningStudio, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The API's answer."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{studio.url}api/{path}", content, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        result: dict[str, Any] = json.load(answer)
    return result


def test_a_worker_does_the_work_and_hands_it_back_when_asked_to_end(
    prepared_environment: dict[str, str], slow_checkpoint: Path
) -> None:
    environment = {**prepared_environment, "OMP_NUM_THREADS": "1"}
    make_demo_slow(environment, slow_checkpoint)
    with running_studio(environment, options=["--no-engine"]) as studio:
        job = ask(studio, "generations", {"prompt": "slow piano", "duration_seconds": 0.5, "seed": 7})
        worker = subprocess.Popen(
            [sys.executable, "manage.py", "runworker", "generation"],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            path = f"generations/{job['id']}"
            wait_until(lambda: ask(studio, path)["status"] == "finished", seconds=PATIENCE, what="the take")
            assert ask(studio, path)["takes"][0]["frames"] == 25
            long = ask(studio, "generations", {"prompt": "long piano", "duration_seconds": 20})
            path = f"generations/{long['id']}"
            wait_until(lambda: ask(studio, path)["frames_done"] >= 10, seconds=PATIENCE, what="progress")
            runners = psutil.Process(worker.pid).children(recursive=True)
            worker.send_signal(signal.SIGTERM)
            _, log = worker.communicate(timeout=60)
        finally:
            worker.kill()
            worker.wait()
        assert worker.returncode == 0, log
        assert "Traceback" not in log
        assert ask(studio, path)["status"] == "queued"
        assert ask(studio, path)["takes"] == []
        assert runners
        wait_until(lambda: not any(one.is_running() for one in runners), seconds=30, what="the runner's end")
        with urllib.request.urlopen(studio.url, timeout=30) as page:
            assert "no engine" in page.read().decode()

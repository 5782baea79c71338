"""SIGTERM, as a service manager sends it: what runs may end, nothing new begins, and a second one does not wait."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, running_studio, wait_until
from tests.generation.test_runworker import PATIENCE, ask
from tests.slow_model import make_demo_slow
from tests.switching.servers import rows

pytestmark = pytest.mark.slow


def job_in(home: Path, job_id: int) -> dict[str, Any]:
    """The job's row."""
    return rows(home, f"SELECT * FROM generation_job WHERE id = {job_id}")[0]


def readiness(url: str) -> tuple[int, dict[str, Any]]:
    """Status and answer of `/readyz`."""
    try:
        with urllib.request.urlopen(f"{url}readyz", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def test_what_runs_is_finished_and_a_second_signal_does_not_wait(
    prepared_environment: dict[str, str], slow_checkpoint: Path
) -> None:
    environment = {
        **prepared_environment,
        "MUSICGEN_DRAIN_SECONDS": "120",
        "MUSICGEN_TAKES_AT_ONCE": "1",
    }
    make_demo_slow(environment, slow_checkpoint)
    with running_studio(environment) as studio:
        first = ask(studio, "generations", {"prompt": "slow piano", "duration_seconds": 6})["id"]
        waiting = ask(studio, "generations", {"prompt": "long piano", "duration_seconds": 20})["id"]
        wait_until(lambda: job_in(studio.home, first)["frames_done"] >= 5, seconds=PATIENCE, what="progress")
        studio.process.send_signal(signal.SIGTERM)
        wait_until(lambda: readiness(studio.url)[0] == 503, seconds=10, what="being unready")
        assert "asked to end" in readiness(studio.url)[1]["error"]
        with urllib.request.urlopen(studio.url, timeout=30) as page:
            assert "stopping" in page.read().decode(), "pages are served meanwhile, and say so"
        assert studio.process.wait(timeout=PATIENCE) == 0
        assert "Traceback" not in "".join(studio.log)
        assert job_in(studio.home, first)["status"] == "finished"
        assert job_in(studio.home, waiting)["status"] == "queued"
        assert job_in(studio.home, waiting)["started_at"] is None, "nothing new was begun"

    worker = subprocess.Popen(
        [sys.executable, "manage.py", "runworker", "generation"], cwd=ROOT, env=environment
    )
    try:
        wait_until(
            lambda: job_in(studio.home, waiting)["frames_done"] >= 5, seconds=PATIENCE, what="progress"
        )
        worker.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        assert worker.poll() is None, "there are two minutes"
        assert job_in(studio.home, waiting)["status"] == "running"
        worker.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        assert worker.wait(timeout=30) == 0
        assert time.monotonic() - asked < 8
    finally:
        worker.kill()
        worker.wait()
    given_back = job_in(studio.home, waiting)
    assert (given_back["status"], given_back["attempts"], given_back["lease_owner"]) == ("queued", 0, "")

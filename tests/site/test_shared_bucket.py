"""Two machines with a home each, which share PostgreSQL, Redis and a bucket and no folder."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import (
    ROOT,
    STORAGE_ENVIRONMENT,
    StorageServer,
    environment_for,
    running_studio,
)

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.redis]

PATIENCE = 240


def test_a_take_of_one_machine_is_played_from_another(
    postgres: str, redis_server: str, storage_server: StorageServer, tmp_path: Path
) -> None:
    """With an adapter that came in where no engine is."""
    shared = {
        "DATABASE_URL": postgres,
        "REDIS_URL": redis_server,
        "MUSICGEN_MEDIA_URL": storage_server.new_bucket(),
        **STORAGE_ENVIRONMENT,
    }
    here = {**environment_for(tmp_path / "here"), **shared, "MUSICGEN_SHIPPED_ADAPTERS": "true"}
    there = {**environment_for(tmp_path / "there"), **shared}
    with running_studio(here, options=["--no-engine"]) as web:

        def ask(path: str, body: dict[str, Any] | None = None) -> Any:
            content = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(
                f"{web.url}api/{path}", content, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)

        (adapter,) = ask("adapters")["adapters"]
        job = ask(
            "generations",
            {"prompt": "lullaby", "duration_seconds": 0.5, "adapters": [{"id": adapter["id"]}]},
        )
        engine = subprocess.Popen(
            [sys.executable, "manage.py", "runworker", "generation"],
            cwd=ROOT,
            env=there,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while ask(f"generations/{job['id']}")["status"] in ("queued", "running"):
                assert time.monotonic() < deadline, "there is no take in time"
                time.sleep(0.5)  # each look costs processor time, which the engine needs
        finally:
            engine.terminate()
            _, log = engine.communicate(timeout=60)
        ended = ask(f"generations/{job['id']}")
        assert ended["status"] == "finished", (ended, log)
        assert "Traceback" not in log
        (take,) = ended["takes"]
        request = urllib.request.Request(
            f"{web.url}{take['audio_url'].lstrip('/')}", headers={"Range": "bytes=0-43"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert (answer.status, answer.read()[:4]) == (206, b"RIFF")
    sound = [path.name for home in ("here", "there") for path in (tmp_path / home).rglob("*.wav")]
    assert sound == [], "no machine keeps it"
    copies = [path.parent for path in tmp_path.rglob("*.safetensors")]
    assert copies == [tmp_path / "there" / "cache" / "adapters"]

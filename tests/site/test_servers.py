"""The larger set-up: the same code over PostgreSQL and Redis, on private servers."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from tests.conftest import (
    ROOT,
    STORAGE_ENVIRONMENT,
    StorageServer,
    bring_kernels,
    environment_for,
    running_studio,
)

PATIENCE = 240

#: Tests of rows and services, which are where two databases can differ; the others would only take time.
PORTABLE_TESTS = [
    "tests/generation/test_api.py",
    "tests/generation/test_bucket.py::test_machines_wait_for_each_other_in_the_database",
    "tests/generation/test_engine_state.py",
    "tests/generation/test_jobs.py",
    "tests/generation/test_takes.py",
    "tests/registry/test_services.py",
    "tests/site/test_access.py",
]


@pytest.mark.postgres
@pytest.mark.redis
@pytest.mark.slow
def test_a_take_of_one_machine_is_played_from_another(
    postgres: str, redis_server: str, storage_server: StorageServer, kernels_folder: Path, tmp_path: Path
) -> None:
    """With an adapter that came in where no engine is. They share PostgreSQL, Redis and a bucket, and no folder."""
    shared = {
        "DATABASE_URL": postgres,
        "REDIS_URL": redis_server,
        "MUSICGEN_MEDIA_URL": storage_server.new_bucket(),
        **STORAGE_ENVIRONMENT,
    }
    here = {**environment_for(tmp_path / "here"), **shared, "MUSICGEN_SHIPPED_ADAPTERS": "true"}
    there = {**environment_for(tmp_path / "there"), **shared}
    bring_kernels(kernels_folder, tmp_path / "there")
    with running_studio(here, options=["--no-engine"]) as web:

        def ask(path: str, body: dict[str, Any] | None = None) -> Any:
            content = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(
                f"{web.url}api/{path}", content, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)

        assert "musicgen-small" in {model["id"] for model in ask("models")["models"]}
        adapter = next(each for each in ask("adapters")["adapters"] if each["name"] == "Lullaby")
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
        if ended["status"] != "finished" or "Traceback" in log:
            pytest.fail(f"{json.dumps(ended, indent=1)}\n{log}")  # whole: an assertion would cut the middle
        (take,) = ended["takes"]
        request = urllib.request.Request(
            f"{web.url}{take['audio_url'].lstrip('/')}", headers={"Range": "bytes=0-43"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert (answer.status, answer.read()[:4]) == (206, b"RIFF")
    sound = [path.name for home in ("here", "there") for path in (tmp_path / home).rglob("*.wav")]
    assert sound == [], "no machine keeps it"
    copies = [path.parent for path in tmp_path.rglob("*.safetensors")]
    # An engine that rests proves the others.
    assert set(copies) == {tmp_path / "there" / "cache" / "adapters"}
    assert not any(tmp_path.rglob("studio.sqlite3"))


@pytest.mark.postgres
@pytest.mark.slow
def test_the_tests_of_services_pass_on_postgresql(postgres_server: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MUSICGEN_TEST_DATABASE_URL": f"{postgres_server}/postgres",
        "MUSICGEN_TEST_HOME": str(tmp_path),
    }
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-m",
            "not browser and not slow",
            "-p",
            "no:cacheprovider",
            *PORTABLE_TESTS,
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    assert " passed" in ended.stdout


@pytest.mark.redis
def test_groups_deliver_over_redis(redis_server: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [redis_server], "prefix": "musicgen"},
        }
    }

    async def scenario() -> list[Any]:
        layer: Any = get_channel_layer()
        channels = [await layer.new_channel() for _ in range(2)]
        for channel in channels:
            await layer.group_add("studio", channel)
        await layer.group_send("studio", {"type": "job.finished", "job_id": 7})
        received = [await asyncio.wait_for(layer.receive(channel), 5) for channel in channels]
        await layer.close_pools()
        return received

    assert async_to_sync(scenario)() == [{"type": "job.finished", "job_id": 7}] * 2


@pytest.mark.redis
def test_a_redis_url_chooses_the_layer(redis_server: str, studio_environment: dict[str, str]) -> None:
    script = (
        "import asyncio, django; django.setup()\n"
        "from channels.layers import get_channel_layer\n"
        "async def scenario():\n"
        "    layer = get_channel_layer()\n"
        "    await layer.send('generation', {'type': 'ping'})\n"
        "    print(type(layer).__name__, await layer.receive('generation'))\n"
        # Longer than redis-py 8 waits for any answer by itself: quiet is no failure.
        "    try: await asyncio.wait_for(layer.receive('generation'), 5.7)\n"
        "    except asyncio.TimeoutError: print('quiet')\n"
        "    await layer.close_pools()\n"
        "asyncio.run(scenario())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={
            **studio_environment,
            "REDIS_URL": redis_server,
            "DJANGO_SETTINGS_MODULE": "musicgen_site.settings",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n")[:2] == ["RedisChannelLayer {'type': 'ping'}", "quiet"]

"""The larger set-up: the same code over PostgreSQL and Redis, on private servers."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from tests.conftest import ROOT
from tests.site.test_studio_settings import manage

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
def test_every_migration_runs_on_postgresql(postgres: str, studio_environment: dict[str, str]) -> None:
    environment = {**studio_environment, "DATABASE_URL": postgres}
    ended = manage("migrate", "--verbosity", "0", environment=environment)
    assert ended.returncode == 0, ended.stderr
    listed = manage("list_models", environment=environment)
    assert listed.returncode == 0, listed.stderr
    assert "musicgen-small" in listed.stdout
    assert not Path(studio_environment["MUSICGEN_HOME"], "studio.sqlite3").exists()


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

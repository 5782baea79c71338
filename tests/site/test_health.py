"""`/healthz` and `/readyz`: what each asks, what each tells, and for how long."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers, get_channel_layer
from django.test import Client

from generation.models import EngineHost
from musicgen_site import health
from tests.conftest import free_port


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    health.forget()
    channel_layers.backends.clear()
    yield
    health.forget()
    channel_layers.backends.clear()


@pytest.fixture
def home(tmp_path: Path, settings: Any) -> Path:
    settings.STUDIO = settings.STUDIO.model_copy(update={"home": tmp_path})
    return tmp_path


@pytest.fixture
def alive(transactional_db: None) -> EngineHost:
    """An engine host of another machine, heard of just now."""
    return EngineHost.objects.create(name="gpu", hostname="elsewhere", pid=1)


def ask(client: Client) -> tuple[int, dict[str, Any]]:
    answer = client.get("/readyz")
    return answer.status_code, answer.json()


def put(part: str, look: Callable[[], Awaitable[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(health._PARTS, part, (look, health._PARTS[part][1]))


# The database is not to be had in these: any question to it fails the test.


def test_a_living_process_says_so_without_a_database(client: Client) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"alive": True})
    assert "no-store" in answer["Cache-Control"]
    assert client.head("/healthz").status_code == 200


def test_shared_mode_asks_no_login_of_a_probe(shared_mode: None, client: Client) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"alive": True})


def test_a_probe_names_a_host_of_ours(client: Client) -> None:
    assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/healthz", headers={"host": "127.0.0.1:8000"}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_a_probe_only_reads(path: str, method: str) -> None:
    answer = getattr(Client(enforce_csrf_checks=True), method)(path)
    assert answer.status_code == 405
    assert answer["Allow"] == "GET, HEAD"


# Readiness.


def test_all_that_is_needed_is_there(home: Path, alive: EngineHost, client: Client) -> None:
    everything = {name: {"ok": True} for name in ("database", "channel_layer", "home", "engine")}
    assert ask(client) == (200, {"ready": True, "checks": everything})
    assert list(home.iterdir()) == []
    assert client.head("/readyz").status_code == 200


@pytest.mark.usefixtures("transactional_db", "home")
def test_without_an_engine_pages_are_served_and_jobs_wait(shared_mode: None, client: Client) -> None:
    status, answer = ask(client)
    assert status == 200
    assert answer["ready"] is True
    assert answer["checks"]["engine"] == {
        "ok": False,
        "sentence": "No engine is running. Jobs wait until one does.",
    }


def test_a_database_of_another_release_is_not_ready(
    home: Path, alive: EngineHost, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = health._wanted_migrations() | {("generation", "9999_later")}
    monkeypatch.setattr(health, "_wanted_migrations", lambda: later)
    status, answer = ask(client)
    assert (status, answer["ready"], answer["error_code"]) == (503, False, "NOT_READY")
    assert answer["error"] == "The database is not reachable, or needs `manage.py migrate`."


def test_what_is_missing_is_logged_once_however_many_ask(
    home: Path, alive: EngineHost, settings: Any, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"home": home / "gone"})
    assert [ask(client)[0] for _ in range(3)] == [503, 503, 503]
    (line,) = caplog.records
    assert line.getMessage().startswith("not ready: home: ")


def test_a_home_that_cannot_be_written_to_is_not_ready(
    home: Path, alive: EngineHost, settings: Any, client: Client
) -> None:
    (home / "file").touch()
    settings.STUDIO = settings.STUDIO.model_copy(update={"home": home / "file"})
    status, answer = ask(client)
    assert status == 503
    assert answer["checks"]["home"]["ok"] is False
    # Anybody may ask: paths and messages of drivers are for the log.
    assert str(home) not in str(answer)


def test_a_redis_that_is_away_is_not_ready(
    home: Path, alive: EngineHost, settings: Any, client: Client
) -> None:
    hosts = [f"redis://127.0.0.1:{free_port()}/0"]
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": hosts}}
    settings.CHANNEL_LAYERS = {"default": layer}
    get_channel_layer()  # a server has imported it long ago; here that would take the checks' time
    status, answer = ask(client)
    assert status == 503
    assert answer["error"] == "The channel layer is not reachable. Check REDIS_URL."


@pytest.mark.redis
def test_a_redis_that_answers_is_ready(
    home: Path, alive: EngineHost, settings: Any, client: Client, redis_server: str
) -> None:
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [redis_server]}}
    settings.CHANNEL_LAYERS = {"default": layer}
    assert ask(client)[0] == 200


def test_a_part_that_hangs_is_not_waited_for_nor_asked_twice(
    home: Path, alive: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def hang() -> str:
        nonlocal asked
        asked += 1
        await asyncio.sleep(3600)
        return ""

    put("database", hang, monkeypatch)
    monkeypatch.setattr(health, "BOUND", 0.2)
    monkeypatch.setattr(health, "KEEP_SECONDS", 0.0)

    async def three_times() -> list[Any]:
        return [await health._kept_checks() for _ in range(3)]

    began = time.monotonic()
    answers = asyncio.run(three_times())
    assert time.monotonic() - began < 5
    assert [answer["database"]["ok"] for answer in answers] == [False] * 3
    assert asked == 1


def test_however_often_one_asks_the_parts_are_asked_once_a_second(
    home: Path, alive: EngineHost, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def count() -> str:
        nonlocal asked
        asked += 1
        return ""

    put("channel_layer", count, monkeypatch)
    monkeypatch.setattr(health, "KEEP_SECONDS", 60.0)
    assert [ask(client)[0] for _ in range(5)] == [200] * 5
    assert asked == 1

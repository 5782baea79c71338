"""`/healthz` and `/readyz`: whether this process lives, and whether what it needs is there.

Both answer without a login and tell nothing that belongs to somebody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from generation.services.hosts import running_host
from registry.media import MediaAway, takes_media

logger = logging.getLogger(__name__)

STOPPING: Final = "This process was asked to end."
#: Each part gets this long to answer, in seconds; they are asked side by side.
BOUND: Final = 2.0
#: An answer holds this long, in seconds, however often somebody asks.
KEEP_SECONDS: Final = 1.0


@csrf_exempt  # it changes nothing, and a wrong method is told so
@require_safe
@never_cache
@login_not_required
async def healthz(request: HttpRequest) -> HttpResponse:
    """This process answers. Asks nothing of database, channel layer or disk."""
    return JsonResponse({"alive": True})


@csrf_exempt
@require_safe
@never_cache
@login_not_required
async def readyz(request: HttpRequest) -> HttpResponse:
    """200 when this process can serve, 503 with what is missing. Without an engine it can: jobs wait."""
    checks = await _kept_checks()
    if _is_stopping:
        checks = {**checks, "process": {"ok": False, "sentence": STOPPING}}
    missing = [check["sentence"] for name, check in checks.items() if name != "engine" and not check["ok"]]
    if missing:
        refusal = {"error": " ".join(missing), "error_code": "NOT_READY"}
        answer = JsonResponse({"ready": False, **refusal, "checks": checks}, status=503)
        # The part that is missing has its line; Django's own would say less, for every probe.
        answer._has_been_logged = True  # type: ignore[attr-defined]
        return answer
    return JsonResponse({"ready": True, "checks": checks})


Checks = dict[str, dict[str, Any]]

_is_stopping = False


def say_stopping() -> None:
    """From now on this process is not ready: it was asked to end, and a proxy should send nobody here."""
    global _is_stopping
    _is_stopping = True


_kept: tuple[float, Checks] | None = None
# Checks that did not answer in time are still under way in their threads: no second one joins them.
_under_way: dict[str, asyncio.Future[Any]] = {}


def forget() -> None:
    """Look anew at the next question."""
    global _kept
    _kept = None
    _under_way.clear()


async def _kept_checks() -> Checks:
    global _kept
    if _kept is None or time.monotonic() - _kept[0] > KEEP_SECONDS:
        # A folder of the home is looked at with the home.
        parts = {name: ask for name, ask in _PARTS.items() if name != "media" or settings.STUDIO.media_url}
        found = await asyncio.gather(*(_check(name, *ask) for name, ask in parts.items()))
        _kept = (time.monotonic(), dict(zip(parts, found, strict=True)))
    return _kept[1]


async def _check(name: str, look: Callable[[], Awaitable[str]], sentence: str) -> dict[str, Any]:
    """Whether a part answers well and in time. What went wrong is for the log: anybody may ask."""
    pending = _under_way.get(name)
    if pending is None or pending.done() or pending.get_loop() is not asyncio.get_running_loop():
        pending = _under_way[name] = asyncio.ensure_future(look())
        # One that fails after its bound has nobody else to hear of it.
        pending.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        problem = await asyncio.wait_for(asyncio.shield(pending), BOUND)
    except TimeoutError:
        problem = f"{name} did not answer within {BOUND:g} s"
    except Exception as error:  # noqa: BLE001 - whatever a driver raises, the part is not there
        problem = f"{name}: {error}"
    if not problem:
        return {"ok": True}
    if name != "engine":
        logger.warning("not ready: %s", problem)
    return {"ok": False, "sentence": sentence}


@sync_to_async(thread_sensitive=False)
def _database() -> str:
    connection = connections[DEFAULT_DB_ALIAS]
    try:
        missing = _wanted_migrations() - MigrationRecorder(connection).applied_migrations().keys()
    finally:
        connection.close()  # of a thread that nobody else uses
    return f"migrations are missing: {', '.join('.'.join(key) for key in sorted(missing))}" if missing else ""


@lru_cache(maxsize=1)
def _wanted_migrations() -> frozenset[tuple[str, str]]:
    """The last migration of each app, as this release has them on disk."""
    return frozenset(MigrationLoader(None).graph.leaf_nodes())


async def _channel_layer() -> str:
    layer = get_channel_layer()
    if layer is None:
        return "no channel layer is configured"
    channel = await layer.new_channel("readyz")
    await layer.send(channel, {"type": "readyz"})
    await layer.receive(channel)
    return ""


@sync_to_async(thread_sensitive=False)
def _home() -> str:
    home = Path(settings.STUDIO.home)
    handle, name = tempfile.mkstemp(prefix=".readyz-", dir=home)
    try:
        os.write(handle, b"ready")
    finally:
        os.close(handle)
        os.unlink(name)  # noqa: PTH108 - the name came as text
    return ""


@sync_to_async(thread_sensitive=False)
def _engine() -> str:
    try:
        return "" if running_host() is not None else "no engine host lives"
    finally:
        connections[DEFAULT_DB_ALIAS].close()


@sync_to_async(thread_sensitive=False)
def _media() -> str:
    try:
        takes_media().ping()
    except MediaAway as problem:
        return problem.detail
    return ""


_PARTS: Final[dict[str, tuple[Callable[[], Awaitable[str]], str]]] = {
    "database": (_database, "The database is not reachable, or needs `manage.py migrate`."),
    "channel_layer": (_channel_layer, "The channel layer is not reachable. Check REDIS_URL."),
    "home": (_home, "The studio's folder cannot be written to. Check the disk and MUSICGEN_HOME."),
    "media": (
        _media,
        "The bucket of takes and adapters does not answer. Check MUSICGEN_MEDIA_URL and the storage.",
    ),
    "engine": (_engine, "No engine is running. Jobs wait until one does."),
}

"""The engine's state in words, from what its host last said."""

import platform
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from generation.engine_state import engine_state
from generation.models import EngineHost
from generation.services.hosts import running_host
from registry.media import AWAY_OPENING
from registry.models import ModelConfig
from tests.generation.music import make_job

pytestmark = pytest.mark.django_db

AWAY = f"{AWAY_OPENING}, the bucket studio, cannot be used now. It refuses the studio."


def announce(**fields: Any) -> EngineHost:
    """A host that was heard of just now."""
    values = {"name": "host", "hostname": platform.node(), "pid": 1, "state": "ready", "model_id": "musicgen-demo",
              "device": "cpu", "device_name": "CPU", "dtype": "float32", **fields}  # fmt: skip
    return EngineHost.objects.create(**values)


@pytest.mark.parametrize(
    ("fields", "state", "label", "words"),
    [
        (
            {"state": "ready"},
            "ready",
            "MusicGen Demo · CPU · ready",
            "MusicGen Demo is loaded on CPU in float32.",
        ),
        (
            {"state": "working"},
            "working",
            "MusicGen Demo · CPU · working",
            "is making music on CPU in float32",
        ),
        (
            {"state": "ready", "device": "cuda", "device_name": "H100"},
            "ready",
            "MusicGen Demo · GPU · ready",
            "H100",
        ),
        ({"state": "loading"}, "loading", "MusicGen Demo · starting", "is being loaded"),
        (
            {
                "state": "loading",
                "stage": "downloading",
                "stage_fraction": 0.315,
                "model_id": "musicgen-small",
            },
            "loading",
            "MusicGen Small · downloading 32%",
            "MusicGen Small is being loaded. Jobs can be queued meanwhile.",
        ),
        (
            {"state": "starting", "device": ""},
            "starting",
            "MusicGen Demo · starting",
            "The engine is starting.",
        ),
        (
            {"state": "ready", "last_error": AWAY},
            "waiting",
            "MusicGen Demo · waiting for storage",
            f"{AWAY} Jobs wait until it can be used.",
        ),
        ({"state": "none", "last_error": AWAY}, "waiting", "MusicGen Demo · waiting for storage", AWAY),
        (
            {"state": "working", "last_error": AWAY},
            "working",
            "MusicGen Demo · CPU · working",
            "is making music",
        ),
        ({"state": "ready", "last_error": "No disk."}, "ready", "MusicGen Demo · CPU · ready", "is loaded"),
        ({"state": "none", "last_error": "No disk."}, "none", "MusicGen Demo · not loaded", "No disk."),
        ({"state": "none"}, "starting", "MusicGen Demo · resting", "The next job loads the one it needs."),
    ],
)
def test_each_state_has_its_words(fields: dict[str, Any], state: str, label: str, words: str) -> None:
    announce(**fields)
    shown = engine_state()
    assert (shown.state, shown.label) == (state, label)
    assert words in shown.detail


def test_without_a_host_it_says_what_to_run() -> None:
    shown = engine_state()
    assert (shown.state, shown.label) == ("none", "no engine")
    assert "`manage.py serve`" in shown.detail


def test_a_host_that_fell_silent_is_not_running() -> None:
    announce(heartbeat_at=timezone.now() - timedelta(seconds=11))
    assert running_host() is None
    assert engine_state().state == "none"


def test_the_engine_of_a_command_serves_nobody_else() -> None:
    announce(serves_all_jobs=False)
    assert running_host() is None


def test_the_queue_counts_everybody(owner: User, bob: User) -> None:
    make_job(owner)
    make_job(bob)
    make_job(bob, status="failed")
    assert engine_state().queue_length == 2


@pytest.mark.parametrize("path", ["/", "/library/", "/settings/"])
def test_every_page_has_the_chip(path: str, client: Client) -> None:
    announce(
        runners=[
            {"model_id": "musicgen-demo", "memory_bytes": 812_000_000, "is_busy": False, "idle_seconds": 3}
        ]
    )
    html = client.get(path).content.decode()
    assert html.count('id="engine-chip"') == 1
    assert "MusicGen Demo · CPU · ready" in html


def test_pages_live_without_any_active_model(client: Client) -> None:
    ModelConfig.objects.update(is_active=False)
    for path in ("/", "/library/", "/settings/", "/api/models"):
        assert client.get(path).status_code == 200
    assert client.get("/api/models").json()["current_model"] is None
    assert "no model" in engine_state().model_name


def test_pages_that_tell_more_say_too_that_it_waits_for_storage(client: Client, home: Path) -> None:
    host = announce(last_error=AWAY)
    words = "The engine waits for storage."
    assert words in client.get("/settings/").content.decode()
    assert ">waiting for storage<" in client.get("/settings/inside/").content.decode()
    EngineHost.objects.filter(pk=host.pk).update(last_error="")
    assert words not in client.get("/settings/").content.decode()
    assert ">ready<" in client.get("/settings/inside/").content.decode()

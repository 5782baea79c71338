"""`/metrics`: who may read it, and that what it writes is Prometheus's own format."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from generation.inside import figures
from tests.conftest import ROOT
from tests.generation.music import make_job

TOKEN = "a-token-for-prometheus"


@pytest.fixture
def token(settings: Any) -> str:
    settings.STUDIO = settings.STUDIO.model_copy(update={"metrics_token": TOKEN})
    return TOKEN


def names(text: str) -> set[str]:
    families = text_string_to_metric_families(text)
    return {family.name for family in families}


@pytest.mark.django_db
def test_the_owner_reads_every_family(client: Client) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain; version=")
    assert "no-store" in answer["Cache-Control"]
    assert names(answer.content.decode()) >= {
        "musicgen_build_info",
        "musicgen_jobs_queued",
        "musicgen_jobs_running",
        "musicgen_queue_oldest_seconds",
        "musicgen_jobs_ended",
        "musicgen_frames",
        "musicgen_audio_seconds",
        "musicgen_steps_per_second",
        "musicgen_switches",
        "musicgen_switch_duration_seconds",
        "musicgen_hosts_alive",
        "musicgen_runner_memory_bytes",
        "musicgen_disk_free_bytes",
        "musicgen_open_sockets",
        "musicgen_takes_bytes",
        "musicgen_cleaned_up",
        "process_resident_memory_bytes",
    }


@pytest.mark.django_db
def test_openmetrics_is_spoken_to_who_asks_for_it(client: Client) -> None:
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    assert list(parse_openmetrics(answer.content.decode()))  # type: ignore[no-untyped-call]


def test_figures_are_of_this_moment(client: Client, alice: User) -> None:
    assert b"musicgen_jobs_queued 0.0" in client.get("/metrics").content
    make_job(alice)
    assert b"musicgen_jobs_queued 1.0" in client.get("/metrics").content


@pytest.mark.django_db
def test_every_metric_is_documented(client: Client) -> None:
    document = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    told = set(
        re.findall(r"^# HELP (musicgen_\w+)", client.get("/metrics").content.decode(), flags=re.MULTILINE)
    )
    assert told == set(re.findall(r"musicgen_\w+", document)) - {"musicgen_site"}


# Shared mode.


def test_a_stranger_is_asked_to_log_in(shared_mode: None, client: Client, db: None) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Bearer"
    assert answer.json()["error_code"] == "LOGIN_REQUIRED"


def test_only_staff_may_read_them(shared_mode: None, client: Client, mallory: User, staff: User) -> None:
    client.force_login(mallory)
    answer = client.get("/metrics")
    assert (answer.status_code, answer.json()["error_code"]) == (403, "STAFF_ONLY")
    client.force_login(staff)
    assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer ", 401),
        ("Bearer \u00e9\u00e9", 401),
        (TOKEN, 401),
        (f"Basic {TOKEN}", 401),
    ],
)
def test_the_token_opens_them_and_nothing_else(
    header: str, status: int, token: str, shared_mode: None, client: Client, db: None
) -> None:
    assert client.get("/metrics", headers={"Authorization": header}).status_code == status
    if status == 200:
        assert client.get("/settings/inside/", headers={"Authorization": header}).status_code == 302
        assert client.get("/api/models", headers={"Authorization": header}).status_code == 401


def test_without_a_token_set_no_token_opens_them(shared_mode: None, client: Client, db: None) -> None:
    for header in ("Bearer", "Bearer None", "Bearer "):
        assert client.get("/metrics", headers={"Authorization": header}).status_code == 401


def test_a_database_that_is_away_is_said_in_a_sentence(
    client: Client, db: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(figures, "queue", away)
    with caplog.at_level(logging.WARNING):
        answer = client.get("/metrics")
    assert (answer.status_code, answer.json()["error_code"]) == (503, "NOT_READY")
    assert "connection refused" in caplog.text


def test_the_token_is_shown_nowhere(token: str, settings: Any, tmp_path: Path) -> None:
    assert token not in repr(settings.STUDIO)

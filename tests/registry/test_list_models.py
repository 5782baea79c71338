"""`manage.py list_models`: a table for people, the API's facts for scripts."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from registry.models import ModelConfig
from registry.services import activate_model
from tests.site.test_studio_settings import manage


def listed(*options: str) -> str:
    """What the command prints."""
    out = StringIO()
    call_command("list_models", *options, stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_it_lists_every_model_with_its_limits_and_licence() -> None:
    lines = listed().splitlines()
    (small,) = [line for line in lines if "musicgen-small " in line]
    assert "30 s" in small
    assert "4 GB" in small
    assert "mono" in small
    assert "CC-BY-NC 4.0" in small
    assert "Fast generation, good for prototyping" in small
    assert all(any(model.pk in line for line in lines) for model in ModelConfig.objects.all())


@pytest.mark.django_db
def test_it_marks_the_active_model() -> None:
    activate_model("musicgen-small")
    marked = [line for line in listed().splitlines() if line.startswith("*") and "active:" not in line]
    assert [line.split()[1] for line in marked] == ["musicgen-small"]


@pytest.mark.django_db
def test_it_says_what_cannot_be_played_and_why(locked: str) -> None:
    lines = [line for line in listed().splitlines() if "Cannot be played yet. " in line]
    assert [line.split()[0] for line in lines] == [locked]
    assert "Its codec is not a mono EnCodec." in lines[0]


@pytest.mark.django_db
def test_json_is_what_the_api_answers(client: Client) -> None:
    assert json.loads(listed("--json")) == client.get("/api/models").json()


@pytest.mark.django_db
def test_it_shows_the_limits_in_force(settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_duration_seconds": {"musicgen-small": 61.5}})
    assert "30 s, in windows 120 s" in listed()
    assert "61.5 s  " in listed()
    (small,) = [m for m in json.loads(listed("--json"))["models"] if m["id"] == "musicgen-small"]
    assert small["max_duration_seconds"] == 61.5


def test_without_a_database_it_says_what_to_do(studio_environment: dict[str, str]) -> None:
    ended = manage("list_models", environment=studio_environment)
    assert ended.returncode == 1
    assert "There is no database yet" in ended.stderr
    assert "`manage.py migrate`" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not Path(studio_environment["MUSICGEN_HOME"], "takes").exists()

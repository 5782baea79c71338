"""The settings page: every model with the limits in force, and the machine."""

import re
from typing import Any

import pytest
from django.test import Client
from django.utils.html import strip_tags

from gated_configs.wording import THIN_SPACE
from registry.models import ModelConfig

pytestmark = pytest.mark.django_db


def rows_of(client: Client) -> dict[str, str]:
    """The words of each row of the table, by display name."""
    html = client.get("/settings/").content.decode().replace(THIN_SPACE, " ").replace("&#8239;", " ")
    table = html.split("<tbody>")[1].split("</tbody>")[0]
    rows = {}
    for row in re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL):
        name = re.search(r'class="model-name">(.*?)<', row)
        assert name
        rows[name[1]] = " ".join(strip_tags(row.replace("<", " <")).split())
    return rows


def test_it_shows_every_model_with_what_it_can_do(client: Client) -> None:
    rows = rows_of(client)
    assert list(rows) == list(ModelConfig.objects.values_list("display_name", flat=True))
    for words in (
        "facebook/musicgen-small",
        "up to 30 s",
        "2 min in windows",
        "10 s",
        "32 kHz mono",
        "computed",
        "CC-BY-NC 4.0",
    ):
        assert words in rows["MusicGen Small"]
    assert {
        name
        for name, row in rows.items()
        if "mono follows a melody" in row or "stereo follows a melody" in row
    } == {name for name in rows if "Melody" in name}


def test_it_marks_the_active_one_and_says_why_others_cannot_be_played(client: Client, locked: str) -> None:
    rows = rows_of(client)
    assert " active " in rows["MusicGen Demo"]
    assert " active " not in rows["MusicGen Small"]
    assert "Switch" in rows["MusicGen Small"]
    assert "Its codec is not a mono EnCodec." in rows["MusicGen Stereo Large"]


def test_it_shows_the_limits_in_force(client: Client, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_duration_seconds": {"musicgen-small": 7}})
    row = rows_of(client)["MusicGen Small"]
    assert "up to 7 s" in row
    assert "7 s recommended" in row


def test_it_is_read_only(client: Client) -> None:
    assert client.post("/settings/").status_code == 405

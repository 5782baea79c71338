"""Takes are renamed and marked by API, as the pages do it."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from generation.models import Take
from generation.services import takes
from tests.generation.music import make_take

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def patch(client: Client, take: Take, **wanted: Any) -> Any:
    return client.patch(f"/api/takes/{take.pk}", wanted, content_type="application/json")


def test_a_take_is_renamed_and_marked(owner: User, client: Client) -> None:
    take = make_take(owner, prompt="slow piano", seconds=0.1)
    answer = patch(client, take, title="  Late \n evening ", is_favourite=True)
    assert answer.status_code == 200
    assert (answer.json()["title"], answer.json()["is_favourite"]) == ("Late evening", True)
    assert client.get(f"/api/takes/{take.pk}").json() == answer.json()


def test_what_is_left_out_stays(owner: User, client: Client) -> None:
    take = make_take(owner, title="Evening", is_favourite=True, seconds=0.1)
    for wanted in ({}, {"title": None}, {"is_favourite": None}, {"is_favourite": True}, {"title": "Evening"}):
        answer = patch(client, take, **wanted).json()
        assert (answer["title"], answer["is_favourite"]) == ("Evening", True)
    assert patch(client, take, title="").json()["title"] == ""
    assert patch(client, take, is_favourite=False).json()["is_favourite"] is False


@pytest.mark.parametrize(
    ("wanted", "code", "field"),
    [
        ({"title": "x" * 201}, "TITLE_REFUSED", "title"),
        ({"title": "nul\0"}, "TITLE_REFUSED", "title"),
        ({"title": 7}, "INVALID_REQUEST", "title"),
        ({"is_favourite": "yes"}, "INVALID_REQUEST", "is_favourite"),
        ({"is_favourite": 1}, "INVALID_REQUEST", "is_favourite"),
        ({"seed": 1}, "INVALID_REQUEST", "seed"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    wanted: dict[str, Any], code: str, field: str, owner: User, client: Client
) -> None:
    take = make_take(owner, title="Evening", seconds=0.1)
    answer = patch(client, take, **{"is_favourite": True, **wanted})
    assert (answer.status_code, answer.json()["error_code"]) == (400, code)
    assert field in answer.json()["errors"]
    row = Take.objects.get()
    assert (row.title, row.is_favourite) == ("Evening", False)


def test_what_was_deleted_is_not_there(owner: User, client: Client) -> None:
    take = takes.delete_take(make_take(owner, seconds=0.1))
    assert patch(client, take, is_favourite=True).status_code == 404
    assert Take.objects.get().deleted_at is not None

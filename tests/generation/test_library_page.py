"""The library page: pages, search and filters, and what the buttons of a take do."""

import html as html_module
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from gated_configs.wording import THIN_SPACE
from generation.models import Take
from generation.services import takes
from generation.views import TAKES_PER_PAGE
from tests.generation.music import make_take

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]

HTMX = {"HX-Request": "true"}
RESULTS = {**HTMX, "HX-Target": "library-results"}


def text_of(answer: Any) -> str:
    """A page with plain spaces."""
    return str(answer.content.decode()).replace(THIN_SPACE, " ")


def shown(client: Client, query: str = "", **options: Any) -> list[int]:
    """Numbers of the takes on the page, in its order."""
    html = client.get(f"/library/{query}", **options).content.decode()
    return [int(number) for number in re.findall(r'<article id="take-(\d+)"', html)]


def test_takes_come_newest_first_in_pages(client: Client, owner: User) -> None:
    made = [make_take(owner, seconds=0.02).pk for _ in range(TAKES_PER_PAGE + 3)][::-1]
    assert shown(client) == made[:TAKES_PER_PAGE]
    assert shown(client, "?page=2") == made[TAKES_PER_PAGE:]
    assert client.get("/library/").context["total"] == TAKES_PER_PAGE + 3
    older = text_of(client.get("/library/?model=musicgen-demo"))
    assert '<a class="button" rel="next" href="?model=musicgen-demo&amp;page=2">Older</a>' in older
    assert 'hx-target="#library-results"' in older.split('class="pager"')[1].split(">")[0]
    Take.objects.update(deleted_at=timezone.now())
    newer = text_of(client.get("/library/deleted/?page=2"))
    assert '<a class="button" rel="prev" href="?page=1">Newer</a>' in newer
    assert "Page 2 of 2" in newer
    Take.objects.update(deleted_at=None)
    for odd in ("0", "-1", "999", "x", "9" * 40):
        assert shown(client, f"?page={odd}") in (made[:TAKES_PER_PAGE], made[TAKES_PER_PAGE:])


def test_search_and_filters(client: Client, owner: User) -> None:
    piano = make_take(owner, prompt="slow piano", seconds=0.02, is_favourite=True)
    drums = make_take(owner, prompt="fast drums", seconds=0.02, title="Evening", model_id="musicgen-small")
    assert shown(client, "?q=PIANO") == [piano.pk]
    assert shown(client, "?q=evening+fast") == [drums.pk]
    assert shown(client, "?model=musicgen-small") == [drums.pk]
    assert shown(client, "?favourites=1") == [piano.pk]
    assert shown(client, "?q=piano&model=musicgen-small") == []
    assert shown(client, "?q=%00%ff" + "a" * 5000) == []
    names = [name for name, _ in client.get("/library/").context["models"]]
    assert names == ["musicgen-demo", "musicgen-small"]


def test_a_search_by_htmx_answers_with_the_results_only(client: Client, owner: User) -> None:
    make_take(owner, seconds=0.02)
    html = client.get("/library/?q=piano", headers=RESULTS).content.decode()
    assert "<html" not in html
    assert html.count('id="library-results"') == 1
    boosted = client.get("/library/?q=piano", headers={**HTMX, "HX-Target": "main"}).content.decode()
    assert "<html" in boosted


def test_everybody_has_their_own_library(client: Client, alice: User, bob: User, shared_mode: None) -> None:
    hers, his = make_take(alice, seconds=0.02), make_take(bob, seconds=0.02, model_id="musicgen-small")
    client.force_login(alice)
    assert shown(client) == [hers.pk]
    assert [name for name, _ in client.get("/library/").context["models"]] == ["musicgen-demo"]
    client.force_login(bob)
    assert shown(client) == [his.pk]


def test_a_row_has_what_it_takes(client: Client, owner: User) -> None:
    take = make_take(owner, prompt="slow piano", title="Evening", is_partial=True)
    html = html_module.unescape(client.get("/library/").content.decode())
    assert take.waveform_path in html
    for name in ("wav", "flac", "ogg", "mp3"):
        assert f"/api/takes/{take.pk}/audio?format={name}&download=1" in html
    for words in (
        take.recipe_line,
        "Evening",
        "partial",
        f"/?take={take.pk}",
        f'data-audio-url="{take.audio_url}"',
    ):
        assert words in html


def test_favourite_rename_delete_and_undo(client: Client, owner: User) -> None:
    take = make_take(owner)
    row = f'id="take-{take.pk}"'
    answer = client.post(f"/takes/{take.pk}/favourite/", headers=HTMX)
    assert row in answer.content.decode()
    assert Take.objects.get().is_favourite
    answer = client.post(f"/takes/{take.pk}/rename/", {"title": " Evening  song "}, headers=HTMX)
    assert "Evening song" in answer.content.decode()
    assert Take.objects.get().title == "Evening song"
    answer = client.post(f"/takes/{take.pk}/delete/", headers=HTMX)
    html = answer.content.decode()
    assert row not in html
    assert "Deleted “Evening song”." in html
    assert f'action="/takes/{take.pk}/restore/"' in html
    assert shown(client) == []
    answer = client.post(f"/takes/{take.pk}/restore/", headers=HTMX)
    assert row in answer.content.decode()
    assert shown(client) == [take.pk]


def test_without_scripts_each_button_leads_back(client: Client, owner: User) -> None:
    take = make_take(owner)
    for action in ("favourite", "rename", "restore"):
        assert client.post(f"/takes/{take.pk}/{action}/", {"title": "a"})["Location"] == "/"
        assert (
            client.post(f"/takes/{take.pk}/{action}/", {"title": "a", "from": "library"})["Location"]
            == "/library/"
        )
        assert client.post(f"/takes/{take.pk}/{action}/", {"from": "https://evil.example"})["Location"] == "/"
    answer = client.post(f"/takes/{take.pk}/delete/", {"from": "library"}, follow=True)
    html = answer.content.decode()
    assert "Deleted" in html
    assert f"/takes/{take.pk}/restore/" in html, "the way back needs no scripts either"


def test_a_title_that_is_refused_says_why(client: Client, owner: User) -> None:
    take = make_take(owner)
    sentence = "The title has 201 characters and the limit is 200. Shorten it."
    answer = client.post(f"/takes/{take.pk}/rename/", {"title": "a" * 201}, headers=HTMX)
    assert (answer.status_code, answer["HX-Reswap"]) == (400, "none")
    assert sentence in answer.content.decode()
    answer = client.post(f"/takes/{take.pk}/rename/", {"title": "a" * 201}, follow=True)
    assert sentence in answer.content.decode()
    assert Take.objects.get().title == ""


@pytest.mark.parametrize("action", ["favourite", "rename", "delete", "restore"])
def test_a_take_is_its_owners(
    action: str, client: Client, alice: User, mallory: User, shared_mode: None
) -> None:
    take = make_take(alice, seconds=0.02)
    before = Take.objects.values().get()
    path = f"/takes/{take.pk}/{action}/"
    assert client.post(path, {"title": "mine"}).status_code == 302
    client.force_login(mallory)
    assert client.post(path, {"title": "mine"}).status_code == 404
    assert client.post(f"/takes/999/{action}/").status_code == 404
    assert Take.objects.values().get() == before
    client.force_login(alice)
    assert client.get(path).status_code == 405
    assert client.post(path, {"title": "mine"}, headers=HTMX).status_code == 200


def test_what_was_deleted_an_hour_ago_cannot_be_opened(client: Client, owner: User) -> None:
    take = make_take(owner, seconds=0.02)
    takes.delete_take(take)
    assert client.get(f"/api/takes/{take.pk}").status_code == 404
    assert shown(client) == []


# Recently deleted.


def deleted_on_page(client: Client, query: str = "") -> list[int]:
    """Numbers of the takes on the page of deleted ones, in its order."""
    html = client.get(f"/library/deleted/{query}").content.decode()
    return [int(number) for number in re.findall(r'<tr id="deleted-(\d+)"', html)]


def test_what_was_deleted_is_found_again_and_restored(client: Client, owner: User) -> None:
    first, second, kept = (make_take(owner, seconds=0.02, title=name) for name in ("One", "Two", "Kept"))
    assert "No take was deleted in the last 1 h." in text_of(client.get("/library/deleted/"))
    for take in (second, first):
        client.post(f"/takes/{take.pk}/delete/", headers=HTMX)
    assert shown(client) == [kept.pk]
    assert 'href="/library/deleted/"' in text_of(client.get("/library/"))
    assert deleted_on_page(client) == [first.pk, second.pk], "last deleted first"
    answer = client.post(f"/takes/{first.pk}/restore/", {"from": "deleted"}, follow=True)
    assert answer.redirect_chain == [("/library/deleted/", 302)]
    assert "Restored “One”." in text_of(answer)
    assert deleted_on_page(client) == [second.pk]
    assert shown(client) == [kept.pk, first.pk]


def test_what_can_no_longer_be_restored_is_not_offered(client: Client, owner: User, settings: Any) -> None:
    take = make_take(owner, seconds=0.02)
    Take.objects.update(deleted_at=timezone.now() - timedelta(minutes=50))
    assert re.search(r">(10 min|9 min)( \d+ s)?<", text_of(client.get("/library/deleted/")))
    assert deleted_on_page(client) == [take.pk]
    Take.objects.update(deleted_at=timezone.now() - timedelta(minutes=61))
    assert deleted_on_page(client) == []
    settings.STUDIO = settings.STUDIO.model_copy(update={"keep_deleted_hours": 48})
    assert deleted_on_page(client) == [take.pk]
    assert "for 48 h;" in text_of(client.get("/library/deleted/"))


def test_nobody_finds_what_another_deleted(alice: User, bob: User, shared_mode: None) -> None:
    take = make_take(alice, seconds=0.02, prompt="a secret tune")
    takes.delete_take(take)
    client = Client()
    client.force_login(bob)
    assert "a secret tune" not in text_of(client.get("/library/deleted/"))
    assert client.get("/api/takes?deleted=true").json()["total"] == 0
    assert client.post(f"/takes/{take.pk}/restore/", {"from": "deleted"}).status_code == 404


def test_the_api_deletes_lists_and_restores(client: Client, owner: User) -> None:
    take, kept = make_take(owner, seconds=0.02), make_take(owner, seconds=0.02)
    address = f"/api/takes/{take.pk}"
    assert client.get(address).json()["deleted_at"] is None
    gone = client.delete(address).json()
    assert gone["id"] == take.pk
    assert datetime.fromisoformat(gone["removed_after"]) - datetime.fromisoformat(
        gone["deleted_at"]
    ) == timedelta(hours=1)
    assert client.get(address).status_code == client.delete(address).status_code == 404
    assert client.get(f"{address}/audio").status_code == 404
    assert [row["id"] for row in client.get("/api/takes?deleted=true").json()["takes"]] == [take.pk]
    assert [row["id"] for row in client.get("/api/takes").json()["takes"]] == [kept.pk]
    back = client.post(f"{address}/restore").json()
    assert (back["deleted_at"], back["removed_after"]) == (None, None)
    assert client.get(f"{address}/audio").status_code == 200
    assert client.post(f"/api/takes/{kept.pk}/restore").status_code == 200, "one that is kept stays so"
    client.delete(address)
    Take.objects.filter(pk=take.pk).update(deleted_at=timezone.now() - timedelta(hours=2))
    assert client.post(f"{address}/restore").json()["error_code"] == "NOT_FOUND"
    assert client.post(f"/api/takes/{2**64}/restore").status_code == 404

"""The first administrator: a link that works once, for a while, and only while nobody can log in."""

import re
import threading
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from musicgen_site.access import get_owner
from musicgen_site.models import AuditEntry, SetupLink
from musicgen_site.services.setup import (
    create_first_administrator,
    is_open,
    make_setup_link,
    needs_administrator,
)
from tests.conftest import running_studio, wait_until

PASSWORD = "a long and good one 7"
SENT = {"username": "ada", "password1": PASSWORD, "password2": PASSWORD}


@pytest.mark.django_db
@pytest.mark.usefixtures("shared_mode")
class TestPage:
    """The page behind the link."""

    def test_it_makes_the_administrator_and_logs_in(self, client: Client) -> None:
        secret = make_setup_link()
        page = client.get(f"/setup/{secret}/")
        assert page.status_code == 200
        assert "no-store" in page["Cache-Control"]
        answer = client.post(f"/setup/{secret}/", SENT)
        assert (answer.status_code, answer["Location"]) == (302, "/")
        ada = User.objects.get()
        assert (ada.username, ada.is_staff, ada.is_superuser, ada.is_active) == ("ada", True, True, True)
        assert ada.check_password(PASSWORD)
        assert client.get("/admin/").status_code == 200
        assert AuditEntry.objects.filter(action="administrator.created", actor_name="ada").count() == 1

    def test_it_works_once(self, client: Client) -> None:
        first, second = make_setup_link(), make_setup_link()
        client.post(f"/setup/{first}/", SENT)
        for secret in (first, second):
            again = Client().post(f"/setup/{secret}/", {**SENT, "username": "mallory"})
            assert again.status_code == 410
        assert User.objects.count() == 1

    def test_it_is_over_after_a_day(self, client: Client) -> None:
        secret = make_setup_link()
        SetupLink.objects.update(expires_at=timezone.now())
        assert client.get(f"/setup/{secret}/").status_code == 410
        assert client.post(f"/setup/{secret}/", SENT).status_code == 410
        make_setup_link()
        assert SetupLink.objects.count() == 1, "what is over is removed"

    def test_it_is_over_once_somebody_can_log_in(self, client: Client) -> None:
        secret = make_setup_link()
        User.objects.create_superuser("console", password=PASSWORD)
        assert client.post(f"/setup/{secret}/", SENT).status_code == 410

    def test_a_guessed_link_is_none(self, client: Client) -> None:
        make_setup_link()
        assert client.post("/setup/guessed/", SENT).status_code == 410
        assert create_first_administrator(secret="guessed", username="mallory", password=PASSWORD) is None
        assert User.objects.count() == 0

    @pytest.mark.parametrize(
        ("sent", "words"),
        [
            ({"password2": "another long one 8"}, "The two passwords differ."),
            ({"password1": "short", "password2": "short"}, "too short"),
            ({"password1": "", "password2": ""}, "Choose a password."),
            ({"password1": "1234567890", "password2": "1234567890"}, "entirely numeric"),
            ({"username": ""}, "Type a user name."),
            ({"username": "a b/c"}, "A user name has letters, digits and the signs"),
            ({"username": "a" * 151}, "can have 150 characters, and this has 151. Shorten it."),
            ({"username": "al\0ice"}, "cannot be typed. Type it again."),
            ({"password1": f"{PASSWORD}\0", "password2": f"{PASSWORD}\0"}, "The password holds a character"),
        ],
    )
    def test_what_is_refused_keeps_the_link(self, sent: dict[str, str], words: str, client: Client) -> None:
        secret = make_setup_link()
        answer = client.post(f"/setup/{secret}/", {**SENT, **sent})
        assert answer.status_code == 400
        assert words in answer.content.decode()
        assert User.objects.count() == 0
        assert is_open(secret)

    def test_the_owner_of_local_mode_keeps_what_is_theirs(self, client: Client) -> None:
        owner = get_owner()
        assert needs_administrator()
        secret = make_setup_link()
        assert 'value="owner"' in client.get(f"/setup/{secret}/").content.decode()
        client.post(f"/setup/{secret}/", {**SENT, "username": "owner"})
        assert User.objects.get().pk == owner.pk
        assert User.objects.get().check_password(PASSWORD)

    def test_almost_the_name_of_somebody_is_not_taken(self, client: Client) -> None:
        get_owner()
        secret = make_setup_link()
        answer = client.post(f"/setup/{secret}/", {**SENT, "username": "Owner"})
        assert answer.status_code == 400
        assert "somebody of almost that name" in answer.content.decode()
        assert is_open(secret)

    def test_the_secret_is_not_in_the_database(self) -> None:
        secret = make_setup_link()
        assert secret not in str(list(SetupLink.objects.values()))


@pytest.mark.django_db(transaction=True)
def test_of_two_who_use_it_at_once_one_becomes_administrator() -> None:
    secret = make_setup_link()
    start = threading.Barrier(2)
    made: list[Any] = []

    def work(name: str) -> None:
        try:
            start.wait(timeout=30)
            made.append(create_first_administrator(secret=secret, username=name, password=PASSWORD))
        finally:
            connection.close()

    workers = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert len([user for user in made if user is not None]) == 1
    assert User.objects.count() == 1


@pytest.mark.django_db
def test_there_is_no_such_page_in_local_mode(client: Client) -> None:
    assert client.get(f"/setup/{make_setup_link()}/").status_code == 404


def test_serve_prints_a_link_that_works_and_then_no_more(prepared_environment: dict[str, str]) -> None:
    environment = {**prepared_environment, "MUSICGEN_ACCESS": "shared"}
    with running_studio(environment, options=["--no-engine"]) as studio:
        wait_until(lambda: len(studio.said) > 1, seconds=10, what="a second line")
        link = re.search(r"http://\S+/setup/\S+/", studio.said[1])
        assert link, studio.said
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        page = opener.open(link[0], timeout=30).read().decode()
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        assert token
        sent = urllib.parse.urlencode({**SENT, "csrfmiddlewaretoken": token[1]}).encode()
        answer = opener.open(link[0], sent, timeout=30)
        assert answer.status == 200
        assert "/account/" in answer.read().decode()
    assert link[0] not in "".join(studio.log)
    with running_studio(environment, options=["--no-engine"]) as studio:
        assert "setup" not in "".join(studio.said)

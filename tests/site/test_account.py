"""The account page, the password and its reset, ending logins, and how often one may submit and upload."""

import re
import time
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.test import Client

from gated_configs.wording import THIN_SPACE
from generation import routing
from generation.models import Job
from musicgen_site.access import socket_access
from musicgen_site.views import reset
from tests.generation.music import make_job
from tests.site.people import logged_in, script

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("shared_mode", "home")]

NEW = "a long and good one 7"


def text_of(answer: Any) -> str:
    return answer.content.decode().replace(THIN_SPACE, " ")  # type: ignore[no-any-return]


def change_password(client: Client, old: str = "alice-password", new: str = NEW) -> Any:
    sent = {"old_password": old, "new_password1": new, "new_password2": new}
    return client.post("/account/password/", sent)


# The page.


def test_it_shows_what_is_used_of_the_quotas(alice: User, bob: User, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_queued_jobs": 5, "max_daily_seconds": 600})
    make_job(alice, duration_seconds=20, variations=2)
    make_job(bob, duration_seconds=30)
    text = text_of(logged_in(alice).get("/account/"))
    assert "1 of 5" in text
    assert "40 s of 10 min" in text
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_daily_seconds": 0})
    assert "40 s, no limit" in text_of(logged_in(alice).get("/account/"))


def test_only_staff_are_offered_tokens_that_manage(alice: User, staff: User) -> None:
    assert "generate and manage" not in text_of(logged_in(alice).get("/account/"))
    assert "generate and manage" in text_of(logged_in(staff).get("/account/"))


def test_the_menu_leads_there_in_shared_mode_only(alice: User, settings: Any) -> None:
    assert 'href="/account/"' in text_of(logged_in(alice).get("/"))
    settings.STUDIO = settings.STUDIO.model_copy(update={"access": "local"})
    assert 'href="/account/"' not in text_of(logged_in(alice).get("/"))


def test_a_token_is_revoked_from_the_page(alice: User) -> None:
    client = logged_in(alice)
    page = text_of(client.post("/account/tokens/", {"name": "nightly", "scope": "read", "days": ""}))
    secret = re.search(r"mgs_[\w-]{40,}", page)
    assert secret
    with_token = Client(headers={"Authorization": f"Bearer {secret[0]}"})
    assert with_token.get("/api/takes").status_code == 200
    address = re.search(r"/account/tokens/\d+/revoke/", page)
    assert address
    answer = client.post(address[0], follow=True)
    assert "Revoked “nightly”" in text_of(answer)
    assert "/revoke/" not in text_of(answer)
    assert with_token.get("/api/takes").status_code == 401


# The password.


def test_another_password_ends_every_other_login(alice: User) -> None:
    here, elsewhere = logged_in(alice), logged_in(alice)
    before = here.session.session_key
    assert change_password(here)["Location"] == "/account/"
    assert here.get("/account/").status_code == 200
    assert here.session.session_key != before
    assert elsewhere.get("/account/").status_code == 302
    assert Client().post("/login/", {"username": "alice", "password": NEW}).status_code == 302


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("wrong", NEW, "not the password that you have now"),
        ("alice-password", "short", "too short"),
        ("alice-password", "1234567890", "entirely numeric"),
        ("", NEW, "Type the password that you have now."),
        ("alice-password", "", "Choose a password."),
    ],
)
def test_a_password_that_is_refused_changes_nothing(old: str, new: str, words: str, alice: User) -> None:
    answer = change_password(logged_in(alice), old, new)
    assert words in text_of(answer)
    assert User.objects.get().check_password("alice-password")


def test_the_old_password_cannot_be_guessed_with_a_stolen_session(alice: User) -> None:
    client = logged_in(alice)
    statuses = [change_password(client, f"wrong {number}").status_code for number in range(11)]
    assert statuses == [400] * 10 + [429]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", ["logout", "password", "deactivated"])
def test_sockets_end_with_the_login(end: str, alice: User) -> None:
    client = logged_in(alice)
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())

    def socket() -> WebsocketCommunicator:
        headers = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"cookie", cookies.encode())]
        return WebsocketCommunicator(socket_access(routing.websocket), "/ws/studio/?view=shell", headers)

    def ended() -> None:
        if end == "logout":
            client.post("/logout/")
        elif end == "password":
            change_password(logged_in(alice))
        else:
            alice.is_active = False
            alice.save()

    async def scenario() -> None:
        page = socket()
        assert (await page.connect(timeout=20))[0]
        await page.receive_from(20)
        await database_sync_to_async(ended)()
        # Not 1000: the page shall try again, and is refused if its login has ended.
        assert await page.receive_output(20) == {"type": "websocket.close", "code": 1012}
        again = socket()
        assert not (await again.connect(timeout=20))[0]

    async_to_sync(scenario)()


# Reset by mail.


@pytest.fixture
def with_mail(settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"email_url": "smtp://mail.example"})


def mail_to(address: str, mailbox: list[Any], *, client: Client | None = None) -> tuple[Any, list[Any]]:
    """Ask for a reset; the answer and the mails that came of it within a moment."""
    before = len(mailbox)
    answer = (client or Client()).post("/password/", {"email": address})
    deadline = time.monotonic() + (5 if User.objects.filter(email=address).exists() else 0.2)
    while len(mailbox) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return answer, mailbox[before:]


@pytest.mark.usefixtures("with_mail")
def test_a_forgotten_password_is_replaced_by_mail(alice: User, mailoutbox: list[Any]) -> None:
    User.objects.filter(pk=alice.pk).update(email="alice@example.org")
    session = logged_in(alice)
    assert "/password/" in text_of(Client().get("/login/"))
    answer, mails = mail_to("alice@example.org", mailoutbox)
    assert answer["Location"] == "/password/sent/"
    link = re.search(r"http://testserver(/password/\S+)", mails[0].body)
    assert link
    client = Client()
    form = client.get(link[1], follow=True)
    assert "Referrer-Policy" in form.headers
    path = form.redirect_chain[-1][0]
    assert "set-password" in path, "the secret is not in the address of a page"
    assert client.post(path, {"new_password1": NEW, "new_password2": NEW})["Location"] == "/password/changed/"
    assert Client().post("/login/", {"username": "alice", "password": NEW}).status_code == 302
    assert session.get("/account/").status_code == 302
    assert "This link is over" in text_of(Client().get(link[1], follow=True))


@pytest.mark.usefixtures("with_mail")
def test_the_answer_does_not_tell_who_has_an_account(alice: User, mailoutbox: list[Any]) -> None:
    User.objects.filter(pk=alice.pk).update(email="alice@example.org")
    known, mails = mail_to("alice@example.org", mailoutbox)
    unknown, none = mail_to("nobody@example.org", mailoutbox)
    assert (known.status_code, known["Location"]) == (unknown.status_code, unknown["Location"])
    assert (len(mails), len(none)) == (1, 0)


@pytest.mark.usefixtures("with_mail")
def test_nobody_chooses_where_the_link_of_a_mail_leads(
    alice: User, mailoutbox: list[Any], settings: Any
) -> None:
    """Neither by the Host header nor by what proxies add."""
    User.objects.filter(pk=alice.pk).update(email="alice@example.org")
    evil = Client(headers={"Host": "evil.example"})
    assert evil.post("/password/", {"email": "alice@example.org"}).status_code == 400
    forwarded = Client(headers={"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"})
    _, mails = mail_to("alice@example.org", mailoutbox, client=forwarded)
    assert len(mailoutbox) == 1
    assert "http://testserver/password/" in mails[0].body
    assert "evil.example" not in mails[0].body


@pytest.mark.usefixtures("with_mail")
@pytest.mark.parametrize(
    ("asked", "mailed"),
    [
        ("studio.example", "studio.example"),
        ("studio.example:8443", "studio.example:8443"),
        ("band.example", "band.example"),
        ("localhost", "studio.example"),
        ("127.0.0.1:8000", "studio.example:8000"),
    ],
)
def test_the_link_of_a_mail_leads_to_a_host_that_the_operator_named(
    asked: str, mailed: str, alice: User, mailoutbox: list[Any], settings: Any
) -> None:
    named = ("studio.example", "band.example")
    settings.STUDIO = settings.STUDIO.model_copy(update={"allowed_hosts": named})
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", *named]
    User.objects.filter(pk=alice.pk).update(email="alice@example.org")
    _, mails = mail_to("alice@example.org", mailoutbox, client=Client(headers={"Host": asked}))
    assert f"http://{mailed}/password/" in mails[0].body


@pytest.mark.usefixtures("with_mail")
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "Type the email address of your account."),
        ("alice", "One looks like name@example.org."),
        ("alice@example.org\nBcc: bob@example.org", "One looks like name@example.org."),
        (f"{'a' * 60}@{'b.' * 110}org", "An email address can have 254 characters, and this has 284."),
    ],
)
def test_what_is_no_address_is_refused_and_kept(address: str, words: str, mailoutbox: list[Any]) -> None:
    answer = Client().post("/password/", {"email": address})
    assert answer.status_code == 400
    assert words in text_of(answer)
    assert f'value="{address}"' in text_of(answer)
    assert mailoutbox == []


@pytest.mark.usefixtures("with_mail")
def test_nobody_is_flooded_with_mails(alice: User, mailoutbox: list[Any]) -> None:
    User.objects.filter(pk=alice.pk).update(email="alice@example.org")
    for _ in range(reset.TO_MAILBOX.count):
        assert len(mail_to("alice@example.org", mailoutbox)[1]) == 1
    Client().post("/password/", {"email": "alice@example.org"})
    time.sleep(0.1)
    assert len(mailoutbox) == reset.TO_MAILBOX.count
    statuses = {Client().post("/password/", {"email": f"{n}@example.org"}).status_code for n in range(10)}
    assert 429 in statuses


def test_without_a_mail_server_nothing_is_offered() -> None:
    assert "/password/" not in text_of(Client().get("/login/"))
    for path in ("/password/", "/password/sent/", "/password/changed/", "/password/MQ/x/"):
        assert Client().get(path).status_code == 404


# How often.


@pytest.fixture
def slow_down(settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(
        update={"max_submissions_per_minute": 3, "max_uploads_per_hour": 2}
    )


WANTED = {"prompt": "slow piano", "duration_seconds": 1}


@pytest.mark.usefixtures("slow_down")
def test_submissions_are_counted_over_pages_and_routes(alice: User, bob: User) -> None:
    page, program = logged_in(alice), script(alice, "generate")
    assert page.post("/", WANTED).status_code == 302
    assert program.post("/api/generations", WANTED, content_type="application/json").status_code == 202
    assert page.post("/", {"prompt": ""}).status_code == 400
    refused = program.post("/api/generations", WANTED, content_type="application/json")
    assert (refused.status_code, refused.json()["error_code"]) == (429, "TOO_MANY_REQUESTS")
    assert (
        refused.json()["error"]
        .replace(THIN_SPACE, " ")
        .startswith("You submitted jobs too often. Try again in ")
    )
    assert 0 < int(refused["Retry-After"]) <= 20
    by_page = page.post("/", WANTED)
    assert by_page.status_code == 429
    assert "You submitted jobs too often" in text_of(by_page)
    partial = page.post("/", WANTED, headers={"HX-Request": "true"})
    assert (partial.status_code, partial["Content-Type"]) == (429, "application/json")
    assert logged_in(bob).post("/", WANTED).status_code == 302
    assert page.get("/").status_code == 200
    assert Job.objects.count() == 3


@pytest.mark.usefixtures("slow_down")
def test_uploads_are_counted(staff: User) -> None:
    page, program = logged_in(staff), script(staff, "manage")
    assert page.post("/adapters/import/", {}).status_code == 400
    assert program.post("/api/adapters", {}, content_type="application/json").status_code == 400
    refused = program.post("/api/adapters", {}, content_type="application/json")
    assert refused.status_code == 429
    assert "imported adapters too often" in refused.json()["error"]
    assert page.post("/admin/adapters/adapter/add/", {}).status_code == 429
    assert program.get("/api/adapters").status_code == 200


@pytest.mark.usefixtures("slow_down")
def test_clips_are_counted_by_themselves(staff: User) -> None:
    page, program = logged_in(staff), script(staff, "manage")
    page.post("/adapters/import/", {})
    assert page.post("/clips/", {}).status_code == 302
    assert program.post("/api/clips", {}).status_code == 400
    refused = program.post("/api/clips", {})
    assert refused.status_code == 429
    assert "brought in clips too often" in refused.json()["error"]
    assert page.post("/clips/", {}).status_code == 429
    assert program.get("/api/clips").status_code == 200


@pytest.mark.usefixtures("slow_down")
def test_local_mode_counts_nothing(client: Client, settings: Any, owner: User) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"access": "local"})
    settings.MIDDLEWARE = [
        name.replace("access.LoginMiddleware", "access.OwnerMiddleware") for name in settings.MIDDLEWARE
    ]
    statuses = [
        client.post("/api/generations", WANTED, content_type="application/json").status_code for _ in range(5)
    ]
    assert statuses == [202] * 5

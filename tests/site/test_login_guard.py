"""A login cannot be guessed, and whoever guesses does not lock out the right person."""

from dataclasses import replace
from typing import Any

import pytest
from django.contrib.auth import hashers
from django.contrib.auth.models import User
from django.test import Client

from gated_configs.models import RateLimit
from gated_configs.services.rate_limits import Limit, forget, give_back, take
from musicgen_site.services import login_guard
from musicgen_site.services.login_guard import DEVICE, PERSON_HERE
from tests.site.people import logged_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("shared_mode")]

HERE, ELSEWHERE = "192.0.2.1", "198.51.100.9"


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now


#: Fewer at once than the product allows, and as many by and by: the rules are the same, and the tests quick.
ADDRESS = replace(login_guard.ADDRESS, count=16, seconds=480)
PERSON = replace(login_guard.PERSON, count=20, seconds=300)


@pytest.fixture(autouse=True)
def _fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_guard, "ADDRESS", ADDRESS)
    monkeypatch.setattr(login_guard, "PERSON", PERSON)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("gated_configs.services.rate_limits.time", made)
    return made


def log_in(
    username: str, password: str = "wrong", *, address: str = HERE, client: Client | None = None
) -> Any:
    """The answer to one try."""
    return (client or Client()).post(
        "/login/", {"username": username, "password": password}, REMOTE_ADDR=address
    )


def fail(username: str, times: int, *, address: str = HERE) -> list[int]:
    return [log_in(username, address=address).status_code for _ in range(times)]


# The limit itself.


def test_a_limit_gives_so_many_at_once_and_then_one_by_one(clock: Clock) -> None:
    limit = Limit("test", 3, 30)
    assert [take(limit, "a") for _ in range(3)] == [0, 0, 0]
    assert take(limit, "a") == pytest.approx(10)
    assert take(limit, "b") == 0
    clock.now += 9
    assert take(limit, "a") == pytest.approx(1)
    clock.now += 1
    assert take(limit, "a") == 0
    assert take(limit, "a") == pytest.approx(10)
    clock.now += 30
    assert [take(limit, "a") for _ in range(3)] == [0, 0, 0]


def test_what_is_given_back_can_be_taken_again(clock: Clock) -> None:
    limit = Limit("test", 2, 30)
    take(limit, "a")
    take(limit, "a")
    give_back(limit, "a")
    assert take(limit, "a") == 0
    assert take(limit, "a") > 0
    forget(limit, "a")
    assert [take(limit, "a") for _ in range(2)] == [0, 0]


def test_a_clock_that_was_ahead_locks_nobody_out(clock: Clock) -> None:
    limit = Limit("test", 2, 30)
    clock.now += 86_400
    take(limit, "a")
    clock.now -= 86_400
    assert take(limit, "a") <= 15
    clock.now += 30
    assert take(limit, "a") == 0


def test_rows_that_tell_nothing_go(clock: Clock) -> None:
    for who in range(5):
        take(Limit("test", 2, 30), who)
    clock.now += 60
    take(Limit("test", 2, 30), "new")
    assert RateLimit.objects.count() == 1


def test_rows_do_not_name_anybody(alice: User) -> None:
    log_in("my secret password")
    text = " ".join(RateLimit.objects.values_list("key", flat=True))
    assert "secret" not in text
    assert len(text.split()) == 3


# Guessing.


def test_guessing_is_stopped_with_when_to_try_again(alice: User, clock: Clock) -> None:
    assert fail("alice", PERSON_HERE.count) == [200] * PERSON_HERE.count
    refused = log_in("alice", "alice-password")
    assert refused.status_code == 429
    assert "There were too many tries with a wrong password. Try again in 3" in refused.content.decode()
    assert int(refused["Retry-After"]) == 180
    clock.now += 181
    assert log_in("alice", "alice-password").status_code == 302


def test_a_name_nobody_has_is_answered_alike(alice: User) -> None:
    known, unknown = log_in("alice"), log_in("nobody")
    assert known.status_code == unknown.status_code == 200
    assert known.content.decode().replace("alice", "").count("do not belong together") == 1
    assert unknown.content.decode().count("do not belong together") == 1
    assert fail("alice", 6) == fail("nobody", 6)


@pytest.mark.parametrize("kind", ["known", "unknown", "inactive", "without a password"])
def test_every_name_costs_one_hash(kind: str, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "inactive":
        User.objects.filter(pk=alice.pk).update(is_active=False)
    if kind == "without a password":
        alice.set_unusable_password()
        alice.save()
    hashed: list[str] = []
    encode = hashers.MD5PasswordHasher.encode

    def counted(self: Any, password: str, salt: str) -> str:
        hashed.append(password)
        return encode(self, password, salt)

    monkeypatch.setattr(hashers.MD5PasswordHasher, "encode", counted)
    answer = log_in("nobody" if kind == "unknown" else "alice")
    assert len(hashed) == 1
    assert "do not belong together" in answer.content.decode()


def test_spellings_of_a_name_are_one_name(alice: User) -> None:
    for name in ("alice", "Alice", "ALICE ", "ａｌｉｃｅ", "alice", "aLice"):
        log_in(name)
    assert log_in("alice").status_code == 429


def test_one_address_cannot_try_many_names(db: None) -> None:
    names = [f"person{number}" for number in range(ADDRESS.count + 1)]
    assert [log_in(name).status_code for name in names] == [200] * ADDRESS.count + [429]
    assert log_in("somebody", address=ELSEWHERE).status_code == 200


def test_addresses_of_one_ipv6_customer_are_one(db: None) -> None:
    for number in range(PERSON_HERE.count):
        log_in("alice", address=f"2001:db8:1:2::{number:x}")
    assert log_in("alice", address="2001:db8:1:2:ffff::9").status_code == 429
    assert log_in("alice", address="2001:db8:1:3::1").status_code == 200


def test_many_machines_together_are_stopped(alice: User, clock: Clock) -> None:
    statuses = [
        log_in("alice", address=f"203.0.113.{number}").status_code for number in range(PERSON.count + 1)
    ]
    assert statuses == [200] * PERSON.count + [429]
    assert int(log_in("alice", "alice-password", address=ELSEWHERE)["Retry-After"]) <= 15


def test_the_right_person_gets_in_from_elsewhere(alice: User) -> None:
    fail("alice", 9)
    assert log_in("alice", "alice-password", address=ELSEWHERE).status_code == 302


def test_the_right_person_gets_in_with_their_browser_whatever_others_do(alice: User) -> None:
    browser = Client()
    log_in("alice", "alice-password", client=browser)
    browser.post("/logout/")
    for number in range(PERSON.count + 5):
        log_in("alice", address=f"203.0.113.{number}")
    fail("alice", 9)
    assert log_in("alice", "alice-password", address=ELSEWHERE).status_code == 429
    assert log_in("alice", "alice-password", client=browser).status_code == 302


def test_a_known_browser_cannot_guess_either(alice: User, bob: User) -> None:
    browser = Client()
    log_in("alice", "alice-password", client=browser)
    browser.post("/logout/")
    tried = [log_in("alice", client=browser).status_code for _ in range(DEVICE.count + 1)]
    assert tried == [200] * DEVICE.count + [429]
    # It is alice's browser, not bob's.
    assert [log_in("bob", client=browser).status_code for _ in range(7)] == [200] * 6 + [429]


def test_a_forged_mark_is_none(alice: User) -> None:
    forged = Client()
    forged.cookies[login_guard.DEVICE_COOKIE] = "WyJ4IiwieSJd:1abcde:forged"
    statuses = [log_in("alice", client=forged).status_code for _ in range(PERSON_HERE.count + 1)]
    assert statuses[-1] == 429


def test_the_right_password_makes_good_what_was_mistyped(alice: User) -> None:
    fail("alice", PERSON_HERE.count - 1)
    assert log_in("alice", "alice-password").status_code == 302
    assert fail("alice", PERSON_HERE.count) == [200] * PERSON_HERE.count


def test_tries_that_come_at_once_are_counted_first(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try is counted before its password is looked at, so a hundred at once are no more than one after another."""
    looked: list[int] = []

    def slow(self: Any, raw: str) -> bool:
        looked.append(RateLimit.objects.count())
        return False

    monkeypatch.setattr(User, "check_password", slow)
    log_in("alice")
    assert looked == [3]


def test_the_admin_has_no_door_of_its_own(alice: User, staff: User) -> None:
    answer = Client().post("/admin/login/", {"username": "staff", "password": "staff-password"})
    assert (answer.status_code, answer["Location"]) == (302, "/login/?next=%2Fadmin%2F")
    assert logged_in(alice).get("/admin/login/").status_code == 403
    client = Client()
    sent = {"username": "staff", "password": "staff-password"}
    assert client.post("/login/?next=/admin/", sent)["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_a_stranger_does_not_choose_the_address_that_counts(alice: User, settings: Any) -> None:
    def tries(header: str) -> list[int]:
        return [
            Client()
            .post(
                "/login/",
                {"username": "alice", "password": "wrong"},
                headers={"X-Forwarded-For": header.format(number), "X-Forwarded-Proto": "https"},
            )
            .status_code
            for number in range(7)
        ]

    assert tries("203.0.113.{0}")[-1] == 429
    settings.STUDIO = settings.STUDIO.model_copy(update={"behind_https_proxy": True})
    assert tries("203.0.113.{0}, 198.51.100.7")[-1] == 429
    assert tries("198.51.100.7, 203.0.113.{0}")[-1] == 200


def test_behind_a_proxy_every_limit_counts_whom_it_speaks_for(settings: Any) -> None:
    """Also in apps that know nothing of proxies: they read the address of the request."""

    def address(forwarded: str) -> str:
        answer = Client(REMOTE_ADDR="10.0.0.9").get("/login/", headers={"X-Forwarded-For": forwarded})
        return str(answer.wsgi_request.META["REMOTE_ADDR"])

    assert address("203.0.113.5") == "10.0.0.9"
    settings.STUDIO = settings.STUDIO.model_copy(update={"behind_https_proxy": True})
    assert address("203.0.113.5") == "203.0.113.5"
    assert address("203.0.113.5, 198.51.100.7") == "198.51.100.7"
    assert address("nonsense") == "10.0.0.9"
    assert address("") == "10.0.0.9"


def test_a_login_begins_a_new_session(alice: User) -> None:
    client = Client()
    client.get("/login/")
    session = client.session
    session["planted"] = "by somebody else"
    session.save()
    planted = session.session_key
    log_in("alice", "alice-password", client=client)
    assert client.session.session_key != planted
    assert Client(headers={"Cookie": f"musicgen_session={planted}"}).get("/library/").status_code == 302

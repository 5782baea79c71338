"""Who a request belongs to, in local and in shared mode."""

from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.test import Client

from musicgen_site.access import get_owner

PAGES = ["/", "/library/", "/settings/"]


@pytest.mark.django_db
def test_the_owner_is_made_once_with_every_right_and_no_password() -> None:
    owner = get_owner()
    assert get_owner().pk == owner.pk
    assert owner.username == "owner"
    assert owner.is_active
    assert owner.is_staff
    assert owner.is_superuser
    assert not owner.has_usable_password()


@pytest.mark.django_db
def test_the_owner_gets_lost_rights_back() -> None:
    User.objects.create_user("owner", is_active=False)
    owner = get_owner()
    assert owner.is_active
    assert owner.is_superuser
    assert User.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("path", [*PAGES, "/admin/", "/api/models", "/api/docs"])
def test_local_mode_asks_for_no_login(path: str, client: Client) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.django_db
def test_a_login_of_shared_mode_does_not_outlive_it(client: Client, bob: User) -> None:
    client.force_login(bob)
    assert client.get("/").wsgi_request.user.get_username() == "owner"


@pytest.mark.parametrize("path", [*PAGES, "/api/docs"])
def test_shared_mode_sends_a_stranger_to_the_login(
    path: str, shared_mode: None, client: Client, db: None
) -> None:
    answer = client.get(path)
    assert answer.status_code == 302
    assert answer["Location"] == f"/login/?next={path}"
    assert client.get(answer["Location"]).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/api/models"),
        ("get", "/api/takes"),
        ("post", "/api/generations"),
        ("get", "/api/takes/1/audio"),
        ("get", "/api/openapi.json"),
    ],
)
def test_shared_mode_answers_401_to_a_stranger_of_the_api(
    method: str, path: str, shared_mode: None, client: Client, db: None
) -> None:
    answer = getattr(client, method)(path)
    assert answer.status_code == 401
    assert answer.json() == {"error": "Log in first.", "error_code": "LOGIN_REQUIRED"}


def test_a_partial_that_needs_a_login_sends_the_whole_page_there(
    shared_mode: None, client: Client, db: None
) -> None:
    current = "http://testserver/library/?q=piano&page=2"
    answer = client.post("/", headers={"HX-Request": "true", "HX-Current-URL": current})
    assert answer.status_code == 401
    assert answer["HX-Redirect"] == "/login/?next=%2Flibrary%2F%3Fq%3Dpiano%26page%3D2"


def test_logging_in_and_out(shared_mode: None, client: Client, alice: User) -> None:
    credentials = {"username": "alice", "password": "alice-password"}
    assert client.post("/login/?next=/library/", credentials).headers["Location"] == "/library/"
    assert client.get("/library/").wsgi_request.user == alice
    assert client.post("/logout/").status_code == 302
    assert client.get("/library/").status_code == 302


def test_a_wrong_password_does_not_log_in(shared_mode: None, client: Client, alice: User) -> None:
    answer = client.post("/login/", {"username": "alice", "password": "wrong"})
    assert answer.status_code == 200
    assert client.get("/").status_code == 302


ELSEWHERE = [
    "//evil.example/",
    "https://evil.example/",
    "https:evil.example",
    "/\\evil.example/",
    "\\\\evil.example/",
    "///evil.example",
    "http:///evil.example",
    "https://testserver@evil.example/",
    "javascript:alert(1)",
    "\x00//evil.example",
    "/\t/evil.example",
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_the_login_leads_to_no_other_site(
    target: str, shared_mode: None, client: Client, alice: User
) -> None:
    credentials = {"username": "alice", "password": "alice-password"}
    by_address = f"/login/?{urlencode({'next': target})}"
    assert Client().post(by_address, credentials).headers["Location"] == "/"
    assert client.post("/login/", {**credentials, "next": target}).headers["Location"] == "/"
    # Who is in already is led on at once; the admin's door hands over to this one.
    assert client.get(by_address).headers["Location"] == "/"
    admin = Client().get(f"/admin/login/?{urlencode({'next': target})}").headers["Location"]
    assert admin.startswith("/login/?next=")


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_partial_is_led_to_the_login_of_this_site(target: str, shared_mode: None, client: Client) -> None:
    answer = client.get("/library/", headers={"HX-Request": "true", "HX-Current-URL": target.strip("\x00\t")})
    assert answer.headers["HX-Redirect"].startswith("/login/?next=")


def test_an_address_with_two_slashes_stays_here(client: Client, db: None) -> None:
    """Django puts a missing slash to the end of an address; what it then says must not be another host."""
    for path in ("//evil.example", "//evil.example/library", "/%2Fevil.example"):
        location = client.get(path).headers.get("Location", "/")
        assert location.startswith("/")
        assert not location.startswith("//")


def test_the_admin_is_for_staff(shared_mode: None, client: Client, bob: User, staff: User) -> None:
    client.force_login(bob)
    assert client.get("/admin/").status_code == 302
    client.force_login(staff)
    assert client.get("/admin/").status_code == 200


def test_pages_need_the_token_of_their_form(client: Client, db: None) -> None:
    strict = Client(enforce_csrf_checks=True)
    assert strict.post("/", {"prompt": "slow piano"}).status_code == 403

"""Headers of pages, the API and static files."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import Client

from tests.generation.music import make_take
from tests.site.people import logged_in

EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def policy(answer: Any) -> dict[str, list[str]]:
    """The content security policy by directive."""
    directives = [part.split() for part in answer["Content-Security-Policy"].split(";") if part.strip()]
    return {name: sources for name, *sources in directives}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path", ["/", "/library/", "/settings/", "/admin/", "/api/docs", "/api/models", "/no/such"]
)
def test_every_answer_carries_the_headers(path: str, client: Client) -> None:
    answer = client.get(path, headers={"Origin": "https://other.example"})
    for name, value in EVERYWHERE.items():
        assert answer.headers[name] == value, name
    assert not [name for name in answer.headers if name.startswith("Access-Control-")], (
        "no other site may read"
    )
    assert answer["X-Frame-Options"] == "DENY"
    allowed = policy(answer)
    assert allowed["default-src"] == ["'self'"]
    assert allowed["script-src"] == ["'self'"]
    assert allowed["style-src"] == ["'self'"]
    assert allowed["object-src"] == ["'none'"]
    assert allowed["base-uri"] == ["'none'"]
    assert allowed["frame-ancestors"] == ["'none'"]
    assert not any("unsafe" in source or source == "*" for sources in allowed.values() for source in sources)


def test_static_files_are_served_with_their_headers(client: Client) -> None:
    assert finders.find("css/app.css") or finders.find("app.css"), "the style sheet is not where it was"
    path = "/static/admin/css/base.css"
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/css")
    assert int(answer["Content-Length"]) == len(answer.content) > 1000
    for name, value in EVERYWHERE.items():
        assert answer.headers[name] == value, name
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_an_unchanged_static_file_is_not_sent_again(client: Client) -> None:
    path = "/static/admin/css/base.css"
    modified = client.get(path)["Last-Modified"]
    again = client.get(path, headers={"If-Modified-Since": modified})
    assert again.status_code == 304
    assert again.content == b""


def test_a_range_of_a_static_file_is_served(client: Client) -> None:
    path = "/static/admin/css/base.css"
    whole = client.get(path).content
    part = client.get(path, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == whole[10:20]


def test_static_files_lead_nowhere_else(client: Client, db: None) -> None:
    for path in ("/static/../manage.py", "/static/..%2fmanage.py", "/static//etc/passwd", "/static/"):
        assert client.get(path).status_code == 404


@pytest.mark.django_db
def test_a_page_is_cached_apart_from_its_partials(client: Client) -> None:
    assert "HX-Request" in client.get("/")["Vary"]


@pytest.mark.django_db
@pytest.mark.usefixtures("shared_mode", "home")
def test_what_somebody_saw_is_kept_by_no_cache(alice: User) -> None:
    """Neither on the way nor in the browser, where the next person presses Back."""
    client = logged_in(alice)
    for path in ("/", "/library/", "/account/", "/webhooks/", "/api/takes", "/api/storage", "/no/such"):
        assert "no-store" in client.get(path)["Cache-Control"], path
    assert "no-store" not in client.get("/static/app.css").headers.get("Cache-Control", "")
    audio = client.get(f"/api/takes/{make_take(alice).pk}/audio")
    assert audio["Cache-Control"].startswith("private,")


@pytest.mark.django_db
def test_in_local_mode_back_is_quick(client: Client) -> None:
    assert "no-store" not in client.get("/library/").headers.get("Cache-Control", "")


@pytest.mark.django_db
def test_the_session_cookies_are_for_this_site_only(client: Client, settings: Any) -> None:
    assert settings.SESSION_COOKIE_HTTPONLY
    assert settings.SESSION_COOKIE_SAMESITE == "Lax"
    assert client.get("/").cookies[settings.CSRF_COOKIE_NAME]["samesite"] == "Lax"


def test_while_developing_a_changed_static_file_is_found(client: Client, settings: Any) -> None:
    settings.WHITENOISE_AUTOREFRESH = True
    assert client.get("/static/admin/css/base.css").status_code == 200
    assert client.get("/static/no-such-file.css").status_code == 404

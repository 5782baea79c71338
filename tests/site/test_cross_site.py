"""Requests and sockets from other sites are refused; programs and the studio's own pages are not."""

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client, RequestFactory

from musicgen_site.access import socket_access
from musicgen_site.security import CrossSiteMiddleware, is_same_origin

REFUSED = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8000"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost:9000"},
    {"Origin": "http://localhost"},
    {"Origin": "http://localhost:8000.evil.example"},
    {"Origin": "http://127.0.0.1:8000"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://[::1"},
    {"Origin": "file://localhost:8000"},
    {"Sec-Fetch-Site": "nonsense"},
]
PASSED = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8000"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://localhost:8000"},
    {"Origin": "http://LOCALHOST:8000"},
]


def pass_through(_request: Any) -> HttpResponse:
    return HttpResponse("passed")


def send(method: str, headers: dict[str, str], path: str = "/") -> Any:
    request = RequestFactory().generic(method, path, headers={"Host": "localhost:8000", **headers})
    return CrossSiteMiddleware(pass_through)(request)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_a_change_from_another_site_is_refused(method: str, headers: dict[str, str]) -> None:
    assert send(method, headers).status_code == 403


@pytest.mark.parametrize("headers", PASSED, ids=str)
def test_a_change_from_the_studio_or_a_program_passes(headers: dict[str, str]) -> None:
    assert send("POST", headers).content == b"passed"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_is_not_refused(method: str) -> None:
    assert send(method, {"Sec-Fetch-Site": "cross-site"}).content == b"passed"


def test_the_api_and_partials_are_refused_in_the_error_shape(client: Client, db: None) -> None:
    for path, headers in [("/api/generations", {}), ("/", {"HX-Request": "true"})]:
        refused = client.post(path, {}, headers={"Sec-Fetch-Site": "cross-site", **headers})
        assert refused.status_code == 403
        assert refused.json() == {
            "error": "This request came from another site, so it was refused. Open the studio and try again.",
            "error_code": "CROSS_SITE",
        }


def test_a_page_is_refused_in_words(client: Client) -> None:
    refused = client.post("/", {}, headers={"Origin": "http://evil.example"})
    assert refused.status_code == 403
    assert refused["Content-Type"] == "text/plain; charset=utf-8"
    assert b"another site" in refused.content


def test_a_host_name_that_is_not_ours_is_not_answered(client: Client) -> None:
    """DNS rebinding: the attacker's name points at 127.0.0.1, so Origin and Host agree."""
    headers = {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}
    assert client.get("/", headers={"Host": "evil.example:8000"}).status_code == 400
    assert client.post("/", {}, headers=headers).status_code == 400
    assert client.post("/api/generations", {}, headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("https://studio.example", "studio.example", True),
        ("https://studio.example", "studio.example:443", True),
        ("http://studio.example", "studio.example:80", True),
        ("https://studio.example:8443", "studio.example:8443", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://studio.example", "studio.example:8000", False),
        ("http://studio.example.evil", "studio.example", False),
        ("http://evil@studio.example", "evil", False),
        ("javascript:alert(1)", "studio.example", False),
        ("http://studio.example", "", False),
        ("http://studio.example:99999", "studio.example", False),
    ],
)
def test_an_origin_is_compared_by_host_and_port(origin: str, host: str, same: bool) -> None:
    assert is_same_origin(origin, host) is same


# --- Sockets ---


async def echo_user(scope: Any, receive: Any, send: Any) -> None:
    """Accept, say who the socket belongs to, and end."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": scope["user"].get_username()})
    await receive()


def connect(headers: dict[str, str]) -> str | None:
    """Name of the user that a socket got, or None when it was refused."""

    async def scenario() -> str | None:
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        communicator = WebsocketCommunicator(socket_access(echo_user), "/ws/studio/", headers=encoded)
        connected, _code = await communicator.connect()
        name = await communicator.receive_from() if connected else None
        await communicator.disconnect()
        return name

    return async_to_sync(scenario)()


HOST = {"Host": "localhost:8000"}


@pytest.mark.django_db
@pytest.mark.parametrize("origin", ["http://localhost:8000", None])
def test_a_socket_of_the_studio_belongs_to_the_owner(origin: str | None) -> None:
    assert connect({**HOST, **({"Origin": origin} if origin else {})}) == "owner"


@pytest.mark.parametrize(
    "headers",
    [
        {**HOST, "Origin": "http://evil.example"},
        {**HOST, "Origin": "http://localhost:9000"},
        {**HOST, "Origin": "null"},
        {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"},
        {"Host": "evil.example:8000"},
        {"Origin": "http://localhost:8000"},
        {},
    ],
    ids=str,
)
def test_a_socket_of_another_site_is_refused(headers: dict[str, str]) -> None:
    assert connect(headers) is None


@pytest.mark.django_db
def test_in_shared_mode_a_socket_needs_a_login(shared_mode: None, alice: User, client: Client) -> None:
    assert connect({**HOST, "Origin": "http://localhost:8000"}) is None
    client.force_login(alice)
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
    assert connect({**HOST, "Origin": "http://localhost:8000", "Cookie": cookies}) == "alice"
    assert connect({**HOST, "Origin": "http://evil.example", "Cookie": cookies}) is None

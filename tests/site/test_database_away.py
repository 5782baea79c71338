"""While the database is away: pages and API answer 503 with a sentence, sockets close, and the log has a line each."""

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.db import DatabaseError, OperationalError, connection, connections
from django.test import AsyncClient, Client

from generation import routing
from generation.api import api
from musicgen_site import settings as site_settings
from musicgen_site.access import socket_access
from musicgen_site.database_away import SENTENCE, is_away
from musicgen_site.studio_settings import StudioSettings
from tests.site.people import logged_in

pytestmark = pytest.mark.django_db(transaction=True)

MODES = ["local", "shared"]


@pytest.fixture
def person(request: pytest.FixtureRequest, alice: User) -> Client:
    """A browser of somebody who is in, in the mode that the test names."""
    if request.param == "shared":
        request.getfixturevalue("shared_mode")
    client = logged_in(alice) if request.param == "shared" else Client()
    assert client.get("/").status_code == 200
    client.raise_request_exception = False
    return client


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The database is where nobody can open it, for connections of every thread."""
    connection.close()
    with monkeypatch.context() as moved:
        moved.setitem(connections.settings["default"], "NAME", str(tmp_path))
        yield
    connection.close()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged; a traceback would be an error of its own."""
    assert [record.exc_info for record in caplog.records if record.exc_info] == []
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return told


@pytest.fixture
def _told(person: Client, request: pytest.FixtureRequest) -> None:
    # After the person has come in.
    request.getfixturevalue("caplog").clear()
    request.getfixturevalue("away")


@pytest.mark.parametrize("person", MODES, indirect=True)
@pytest.mark.usefixtures("_told")
def test_pages_api_and_partials_say_so(person: Client, caplog: pytest.LogCaptureFixture) -> None:
    page = person.get("/library/")
    assert (page.status_code, page["Retry-After"], page["Cache-Control"]) == (503, "5", "no-store")
    assert "The database does not answer" in page.content.decode()
    (line,) = lines(caplog)
    assert line.startswith("GET /library/: the database is away: ")
    for answer in (
        person.get("/api/takes"),
        person.post("/api/generations", {"prompt": "piano"}, content_type="application/json"),
        person.post("/", {"prompt": "piano"}, headers={"HX-Request": "true"}),
    ):
        assert (answer.status_code, answer["Retry-After"]) == (503, "5")
        assert answer.json() == {"error": SENTENCE, "error_code": "DATABASE_AWAY"}
    assert len(lines(caplog)) == 3


@pytest.mark.parametrize("person", ["shared"], indirect=True)
@pytest.mark.usefixtures("_told")
def test_a_token_or_a_login_cannot_be_looked_up_either(
    person: Client, caplog: pytest.LogCaptureFixture
) -> None:
    token = Client(raise_request_exception=False).get(
        "/api/takes", headers={"Authorization": "Bearer mgs_anything"}
    )
    assert token.json()["error_code"] == "DATABASE_AWAY"
    assert person.post("/login/", {"username": "alice", "password": "x"}).status_code == 503
    assert person.get("/password/MQ/a-secret-token/").status_code in (404, 503)
    assert "a-secret-token" not in caplog.text


@pytest.mark.usefixtures("away")
def test_so_do_the_answers_that_a_server_gives(caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> Any:
        return await AsyncClient(raise_request_exception=False).get("/library/")

    assert async_to_sync(ask)().status_code == 503
    assert len(lines(caplog)) == 1


@pytest.mark.usefixtures("away")
def test_a_socket_closes_so_that_its_page_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    async def connect() -> tuple[bool, Any]:
        headers = [(b"host", b"localhost"), (b"origin", b"http://localhost")]
        socket = WebsocketCommunicator(socket_access(routing.websocket), "/ws/studio/", headers)
        is_connected, code = await socket.connect(timeout=20)
        return is_connected, code

    assert async_to_sync(connect)() == (False, 1013)
    (line,) = lines(caplog)
    assert line.startswith("the socket /ws/studio/: the database is away: ")


def test_a_mistake_of_ours_is_still_one(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is not there comes from no outage: it is told as an error, with where it happened."""
    with pytest.raises(DatabaseError) as caught, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM no_such_table")
    assert not is_away(caught.value)
    assert not is_away(ValueError("x"))
    assert not is_away(None)
    monkeypatch.setattr("generation.views.storage_of", lambda user: 1 / 0)
    client.raise_request_exception = False
    assert client.get("/library/").status_code == 500


def test_a_locked_sqlite_counts_as_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["default"], "vendor", "sqlite")
    cause = sqlite3.OperationalError("database is locked")
    cause.sqlite_errorcode = sqlite3.SQLITE_BUSY_SNAPSHOT
    problem = OperationalError("database is locked")
    problem.__cause__ = cause
    assert is_away(problem)


def test_every_route_documents_it() -> None:
    for path, operations in api.get_openapi_schema()["paths"].items():
        for method, operation in operations.items():
            assert 503 in operation["responses"], (method, path)


def test_a_machine_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def options(address: str) -> Any:
        monkeypatch.setenv("DATABASE_URL", address)
        monkeypatch.setattr(site_settings, "STUDIO", StudioSettings())
        return site_settings._databases()["default"]["OPTIONS"]["connect_timeout"]

    assert options("postgres://someone:secret@db.example/studio") == 5
    assert str(options("postgres://someone:secret@db.example/studio?connect_timeout=20")) == "20"

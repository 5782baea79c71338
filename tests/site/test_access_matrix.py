"""Every page, route, socket, file and table, tried by a stranger, another person, the owner and staff in shared mode.

What is expected stands in `access_table.py`; a route without a row there fails here.
"""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from adapters.models import Adapter
from gated_configs.services.submission import save_config
from generation import routing
from generation.models import AdapterTrial, JobStatus
from generation.services.webhooks import create_webhook, send_test
from musicgen_site.access import socket_access
from musicgen_site.models import ApiToken
from musicgen_site.services.setup import make_setup_link
from musicgen_site.services.tokens import create_token
from registry.models import ModelConfig
from tests.gated_configs.conftest import TINY
from tests.generation.music import make_clip, make_job, make_take
from tests.site.access_table import ADMIN_TABLES, PAGES, ROUTES, SOCKETS, Row
from tests.site.people import logged_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home", "shared_mode")]

ROLES = ("stranger", "other", "owner", "staff")
PROMPT = "a prompt that only its owner may read"


@pytest.fixture
def clients(alice: User, bob: User, staff: User) -> dict[str, Client]:
    """A browser for each of the four; what is named in the addresses is alice's."""
    return {
        "stranger": Client(),
        "other": logged_in(bob),
        "owner": logged_in(alice),
        "staff": logged_in(staff),
    }


@pytest.fixture
def names(alice: User, settings: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the table's paths name in braces."""
    settings.STUDIO = settings.STUDIO.model_copy(update={"email_url": "console:"})
    adapter = Adapter.objects.create(
        name="Jazz", sha256="0" * 64, weights_sha256="0" * 64, file_bytes=1, config={},
        tensor_count=2, rank=4, alpha=8.0, source="folder",
    )  # fmt: skip
    trial = AdapterTrial.objects.create(
        owner=alice, adapter=adapter, model=ModelConfig.objects.get(pk="musicgen-demo"),
        prompt=PROMPT, seed=1, duration_seconds=1,
    )  # fmt: skip
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    saved = save_config(
        owner=alice, submitted_by=alice, model_id="studio/saved", config={**TINY, "note": PROMPT}
    )
    webhook = create_webhook(owner=alice, url=f"https://example.org/{quote(PROMPT)}")
    return {
        "webhook": webhook.pk,
        "delivery": send_test(webhook).pk,
        "config": saved.config.pk,
        "adapter": adapter.pk,
        "trial": trial.pk,
        "clip": make_clip(alice, title=PROMPT).pk,
        "take": make_take(alice, prompt=PROMPT).pk,
        "job": make_job(alice, prompt=PROMPT).pk,
        "failed": make_job(alice, prompt=PROMPT, status=JobStatus.FAILED).pk,
        "token": create_token(owner=alice, name=PROMPT, scope="read")[0].pk,
        "secret": make_setup_link(),
    }


def tried(method: str, row: Row, clients: dict[str, Client], names: dict[str, Any]) -> dict[str, Any]:
    """The answer to each of the four; what one of them changed is undone before the next."""
    answers = {}
    for role in ROLES:
        client = clients[role]
        options: dict[str, Any] = {"content_type": "application/json"} if row.is_json else {}
        body = {} if method in ("GET", "HEAD") else {"data": row.sent, **options}
        cookies = copy.deepcopy(client.cookies)
        with transaction.atomic():
            answers[role] = getattr(client, method.lower())(row.path.format(**names), **body)
            transaction.set_rollback(True)
        client.cookies = cookies
    return answers


def mistakes(method: str, row: Row, clients: dict[str, Client], names: dict[str, Any]) -> list[str]:
    """What is not as the row says."""
    answers = tried(method, row, clients, names)
    got = " ".join(str(answers[role].status_code) for role in ROLES)
    found = [] if got == row.statuses else [f"{got} instead of {row.statuses}"]
    stranger = answers["stranger"]
    if (
        row.statuses.startswith("302 ")
        and row.needs_login
        and not stranger.headers["Location"].startswith("/login/?next=")
    ):
        found.append(f"a stranger is led to {stranger['Location']}")
    for role, answer in answers.items():
        if role != "owner" and not answer.streaming and PROMPT in answer.content.decode(errors="replace"):
            found.append(f"{role} reads what is the owner's")
    return found


@pytest.mark.parametrize("table", [PAGES, ROUTES], ids=["pages", "routes"])
def test_everything_is_open_to_whom_it_should_be(
    table: dict[str, Row], clients: dict[str, Client], names: dict[str, Any]
) -> None:
    found = {name: mistakes(name.split()[0], row, clients, names) for name, row in table.items()}
    assert {name: what for name, what in found.items() if what} == {}


# Nothing is left out.


def patterns(resolver: URLResolver, space: str = "", path: str = "") -> Iterator[tuple[str, str]]:
    """Name and path of every address outside the admin's tables."""
    for pattern in resolver.url_patterns:
        here = path + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield space + (pattern.name or f"-{here}"), here
        elif pattern.namespace != "admin":
            yield from patterns(pattern, space + (f"{pattern.namespace}:" if pattern.namespace else ""), here)


def page_names() -> dict[str, str]:
    routes = {name: path for name, path in patterns(get_resolver()) if name != "api:api-root"}
    return {
        name: path
        for name, path in routes.items()
        if not name.startswith("api:") or name.startswith("api:openapi")
    }


def test_every_page_has_a_row() -> None:
    assert {name.split(" ", 1)[1] for name in PAGES} == set(page_names())


def test_a_method_without_a_row_is_refused(clients: dict[str, Client], names: dict[str, Any]) -> None:
    rows = {name.split(" ", 1)[1]: row for name, row in PAGES.items()}
    for name, row in rows.items():
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            if f"{method} {name}" in PAGES or name.startswith(("api:", "-admin/")):
                continue
            if name.startswith(("login", "account-password", "password_reset")) and method != "GET":
                continue  # Django's form views answer other methods as they do these
            with transaction.atomic():
                answer = getattr(clients["staff"], method.lower())(row.path.format(**names))
                transaction.set_rollback(True)
            assert answer.status_code == 405, f"{method} {name}"


def test_every_route_has_a_row() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    from generation.api import api

    paths = api.get_openapi_schema()["paths"]
    assert set(ROUTES) == {
        f"{method.upper()} {path}" for path, methods in paths.items() for method in methods
    }


def test_every_socket_has_a_row() -> None:
    assert {str(route.pattern) for route in routing.websocket.routes} == set(SOCKETS)


def test_every_table_of_the_admin_has_a_row() -> None:
    assert {model._meta.label_lower for model in admin.site._registry} == set(ADMIN_TABLES)


# Sockets.


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", SOCKETS)
def test_a_socket_is_open_to_whom_it_should_be(
    path: str, names: dict[str, Any], clients: dict[str, Client], alice: User, bob: User, staff: User
) -> None:
    async def connect(client: Client) -> tuple[str, str]:
        cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
        headers = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"cookie", cookies.encode())]
        socket = WebsocketCommunicator(socket_access(routing.websocket), f"/{path}?view=studio", headers)
        connected, _ = await socket.connect(timeout=20)
        snapshot = await socket.receive_from(20) if connected else ""
        await socket.disconnect()
        return ("connected" if connected else "refused"), snapshot

    outcomes = {role: async_to_sync(connect)(clients[role]) for role in ROLES}
    assert " ".join(outcomes[role][0] for role in ROLES) == SOCKETS[path]
    assert [role for role in ROLES if PROMPT in outcomes[role][1]] == ["owner"]


# The admin.


def admin_addresses() -> Iterator[str]:
    """Every address of the admin that needs nothing but a table."""
    for model in admin.site._registry:
        base = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        yield from (base, f"{base}add/", f"{base}1/change/", f"{base}1/delete/", f"{base}1/history/")
    yield from (
        "/admin/",
        "/admin/password_change/",
        "/admin/autocomplete/",
        "/admin/jsi18n/",
        "/admin/no/such/",
    )


def test_the_admin_is_closed_to_all_but_staff(clients: dict[str, Client], names: dict[str, Any]) -> None:
    for address in admin_addresses():
        for role in ("stranger", "other", "owner"):
            for send in (clients[role].get, clients[role].post):
                answer = send(address)
                assert answer.status_code == 302, (role, address)
                assert answer["Location"].startswith(("/login/", "/admin/login/")), (role, address)


def test_tables_of_own_rows_show_staff_nothing_of_others(names: dict[str, Any], bob: User) -> None:
    bob.is_staff = True
    bob.save(update_fields=["is_staff"])
    bob.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client = logged_in(bob)
    rows = {
        "generation.clip": "clip",
        "generation.job": "job",
        "generation.take": "take",
        "musicgen_site.apitoken": "token",
    }
    assert set(rows) == {table for table, whose in ADMIN_TABLES.items() if whose == "own rows"}
    for table, name in rows.items():
        base = f"/admin/{table.replace('.', '/')}/"
        listing = client.get(base)
        assert listing.status_code == 200
        assert PROMPT not in listing.content.decode()
        assert client.get(f"{base}{names[name]}/change/").status_code == 302


# Files.


def test_files_of_the_home_are_not_served(
    clients: dict[str, Client], names: dict[str, Any], home: Path
) -> None:
    files = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    assert files, "there is a take"
    for path in files:
        for place in ("/", "/static/", "/media/", "/takes/", "/static/../"):
            assert clients["staff"].get(f"{place}{path}").status_code == 404


def test_the_four_are_who_they_should_be(clients: dict[str, Client], alice: User, staff: User) -> None:
    assert isinstance(clients["stranger"].get("/login/").wsgi_request.user, AnonymousUser)
    assert clients["owner"].get("/").wsgi_request.user == alice
    assert clients["staff"].get("/").wsgi_request.user == staff
    assert not ApiToken.objects.exists()

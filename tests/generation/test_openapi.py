"""The OpenAPI document: the one checked in, the one served, and that the API keeps to it whatever is sent."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from django.test import Client
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gated_configs.services import lookup, submission
from generation.api import api
from generation.models import Job, Take
from tests.conftest import ROOT
from tests.gated_configs.conftest import TINY
from tests.generation.music import make_job, make_take
from tests.hub import FakeHub

DOCUMENT = ROOT / "docs" / "openapi.json"
#: How the checked-in document is written anew.
REMEDY = "Run `manage.py export_openapi_schema --indent 2 --sorted --output docs/openapi.json`."


def schema_of_now() -> dict[str, Any]:
    """The document as plain JSON."""
    document: dict[str, Any] = json.loads(json.dumps(api.get_openapi_schema(), default=str))
    return document


def test_the_document_in_the_repository_is_the_one_of_now() -> None:
    assert json.loads(DOCUMENT.read_text(encoding="utf-8")) == schema_of_now(), REMEDY


@pytest.mark.django_db
def test_the_document_is_served(client: Client) -> None:
    assert client.get("/api/openapi.json").json() == schema_of_now()


def test_duration_limits_are_documented() -> None:
    field = schema_of_now()["components"]["schemas"]["GenerationIn"]["properties"]["duration_seconds"]
    for words in ("max_duration_seconds", "30", "Duration 45s exceeds model limit of 30s"):
        assert words in field["description"]


@pytest.mark.django_db
def test_the_documentation_page_loads_only_our_own_files(client: Client) -> None:
    answer = client.get("/api/docs")
    html = answer.content.decode()
    assert answer.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert any(address.endswith(".js") for address in loaded)
    for address in loaded:
        assert address.startswith("/"), address
        assert not address.startswith("//")
        if address.startswith("/static/"):
            assert finders.find(address.removeprefix("/static/")), address
    policy = answer["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    inline = re.findall(r"<script(?![^>]*\bsrc=)([^>]*)>", html)
    assert all("application/json" in attributes for attributes in inline), "the policy forbids inline scripts"


#: Models to find: on the hub, gated there, built in, saved, and nothing at all.
MODEL_IDS = ("studio/tiny", "meta-llama/gated", "musicgen-small", "studio/saved", "studio/none")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub to look models up on, and no limit of rates: many more are sent than one person may."""
    for allowance in (lookup.HUB_LOOKUPS, submission.SUBMISSIONS):
        for name in ("per_person", "per_address"):
            monkeypatch.setitem(vars(allowance), name, 10_000)
    with FakeHub({name: {"config.json": json.dumps(TINY).encode()} for name in MODEL_IDS[:2]}) as running:
        running.gate("meta-llama/gated")
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield running


@cache
def live_document() -> Any:
    """The document as it is served, read once: its parsing takes longer than most tests of it."""
    return schemathesis.openapi.from_wsgi("/api/openapi.json", get_wsgi_application())


@pytest.fixture
def api_schema(db: None, home: Any, owner: User, hub: FakeHub) -> Iterator[Any]:
    """The live document over WSGI in this process, with a job, a take and models to find."""
    submission.save_config(owner=owner, model_id="studio/saved", config=dict(TINY), submitted_by=owner)
    make_job(owner)
    make_take(owner, seconds=0.05)
    # As Django's own test client: a request must not close the connection that holds the test's transaction.
    for sent in (request_started, request_finished):
        sent.disconnect(close_old_connections)
    yield live_document()
    for sent in (request_started, request_finished):
        sent.connect(close_old_connections)


def name_models(case: Any) -> None:
    """Let most requests name a model that there is, and every other submission hold a config."""
    chosen = len(str(case.path_parameters)) + len(str(case.body))
    if "model_id" in (case.path_parameters or {}) and chosen % 4:
        case.path_parameters["model_id"] = MODEL_IDS[chosen % len(MODEL_IDS)]
    if not isinstance(case.body, dict) or not chosen % 4:
        return
    for field in ("model_id", "model_url", "model_uri"):
        if isinstance(case.body.get(field), str):
            case.body[field] = MODEL_IDS[chosen % len(MODEL_IDS)]
    if isinstance(case.body.get("models"), list) and all(
        isinstance(name, str) for name in case.body["models"]
    ):
        case.body["models"] = [*MODEL_IDS[: chosen % 5], *case.body["models"]][:10]
    if "config" in case.body and chosen % 2:
        case.body["config"] = {**TINY, "num_hidden_layers": chosen % 3}


OPERATIONS = [
    (method.upper(), path)
    for path, methods in api.get_openapi_schema()["paths"].items()
    for method in methods
]


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")  # WSGI is only for this test
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_api_keeps_to_its_document(method: str, path: str, api_schema: Any) -> None:
    operation = api_schema[path][method]
    rows = {"take_id": Take.objects.get().pk, "job_id": Job.objects.order_by("id")[0].pk}

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy())
    def keeps_to_it(case: Any) -> None:
        for name, number in rows.items():
            if (case.path_parameters or {}).get(name, 0) % 2:  # every other one finds its row
                case.path_parameters[name] = number
        name_models(case)
        answer = case.call_and_validate(
            checks=[
                not_a_server_error,
                status_code_conformance,
                content_type_conformance,
                response_schema_conformance,
            ]
        )
        if answer.status_code >= 400 and case.method != "HEAD":
            refusal = answer.json()
            assert refusal["error_code"].isupper()
            assert refusal["error"]

    keeps_to_it()

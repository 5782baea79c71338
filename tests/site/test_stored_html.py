"""What people write is shown as text, wherever it is shown: every page with every field full of HTML."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client

from adapters.models import Adapter
from generation.models import EngineHost, JobStatus, Take, Webhook, WebhookDelivery
from generation.services.webhooks import create_webhook, send_test
from musicgen_site.models import ApiToken
from registry.models import ModelConfig
from tests.generation.music import make_job, make_take
from tests.site.access_table import PAGES
from tests.site.people import logged_in
from tests.site.test_access_matrix import names as names

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home", "shared_mode")]

#: Breaks out of text, of both kinds of quotes, of a script and of a comment.
HTML = "\"'></title></script>--><img src=x onerror=boom()>"
RAW = "<img src=x onerror=boom()>"


@pytest.fixture
def client(names: dict[str, Any], alice: User) -> Client:
    """Alice, superuser, with rows of every kind that say nothing but HTML."""
    User.objects.filter(pk=alice.pk).update(
        is_staff=True, is_superuser=True, first_name=HTML[:150], last_name=HTML[:150], email="a@example.org"
    )
    make_take(alice, title=HTML, prompt=HTML)
    make_job(alice, prompt=HTML)
    make_job(
        alice, prompt=HTML, status=JobStatus.FAILED, error_code="X", error_message=HTML, error_detail=HTML
    )
    Take.objects.update(prompt=HTML, title=HTML, host=HTML[:80])
    Adapter.objects.update(name=HTML, description=HTML, trigger_words=HTML)
    ModelConfig.objects.update(display_name=HTML[:80], description=HTML, licence=HTML[:80])
    ApiToken.objects.update(name=HTML[:60])
    webhook = create_webhook(owner=alice, url="https://example.org/?a=<img")
    WebhookDelivery.objects.filter(pk=send_test(webhook).pk).update(problem=HTML)
    Webhook.objects.filter(pk=webhook.pk).update(disabled_reason=HTML)
    EngineHost.objects.create(name="host", hostname=HTML[:80], pid=1, last_error=HTML, device_name=HTML[:80])
    return logged_in(alice)


def addresses(names: dict[str, Any]) -> list[str]:
    """Every page, and every table of the admin with the page of its first row."""
    found = [row.path.format(**names) for name, row in PAGES.items() if name.startswith("GET ")]
    for model, options in admin.site._registry.items():
        base = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        row = options.model._default_manager.first()
        found += [base, *([f"{base}{row.pk}/change/", f"{base}{row.pk}/delete/"] if row else [])]
    return [*found, "/library/?q=" + HTML, "/?take=1", "/memory/?model=" + HTML, "/no/such/" + HTML]


def test_no_page_shows_it_as_html(client: Client, names: dict[str, Any]) -> None:
    escaped = 0
    for address in addresses(names):
        answer = client.get(address)
        if not answer.headers.get("Content-Type", "").startswith("text/html"):
            continue
        page = answer.content.decode()
        assert RAW not in page, address
        assert "</script>-->" not in page, address
        escaped += "&lt;img src=x onerror=boom()&gt;" in page
    assert escaped > 15, "the pages do show it"


def test_no_partial_shows_it_as_html(client: Client, names: dict[str, Any]) -> None:
    take = Take.objects.first()
    assert take is not None
    for address in ("favourite", "rename", "delete", "restore"):
        answer = client.post(
            f"/takes/{take.pk}/{address}/", {"title": HTML}, headers={"HX-Request": "true", "HX-Target": "x"}
        )
        assert answer.status_code == 200
        assert RAW not in answer.content.decode()
    assert RAW not in client.post("/", {"prompt": ""}, headers={"HX-Request": "true"}).content.decode()

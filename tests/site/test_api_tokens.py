"""Personal API tokens: told once, kept as a hash, limited to what they are for, ended at once."""

import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core import serializers
from django.test import Client
from django.utils import timezone

from generation.models import Job
from musicgen_site.models import ApiToken, AuditEntry
from musicgen_site.services import tokens
from musicgen_site.services.tokens import TokenRefused, create_token, revoke_token
from musicgen_site.studio_settings import StudioSettings
from musicgen_site.token_access import BAD_TOKENS, needed_scope
from tests.generation.music import make_job, make_take
from tests.site.people import logged_in, script

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("shared_mode")]

WANTED = {"prompt": "slow piano", "duration_seconds": 1}


def bearer(secret: str) -> Client:
    return Client(headers={"Authorization": f"Bearer {secret}"})


def test_a_token_is_its_owner(alice: User, bob: User) -> None:
    job = make_job(alice)
    assert script(alice).get(f"/api/generations/{job.pk}").status_code == 200
    assert script(bob).get(f"/api/generations/{job.pk}").status_code == 404


def test_cookies_beside_a_token_do_not_count(alice: User, bob: User) -> None:
    job = make_job(alice)
    client = logged_in(alice)
    _, secret = create_token(owner=bob, name="his", scope="read")
    answer = client.get(f"/api/generations/{job.pk}", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 404
    wrong = client.get(f"/api/generations/{job.pk}", headers={"Authorization": "Bearer mgs_wrong"})
    assert wrong.status_code == 401


def test_a_token_needs_no_form_token_and_leaves_no_cookie(alice: User) -> None:
    _, secret = create_token(owner=alice, name="script", scope="generate")
    client = Client(enforce_csrf_checks=True, headers={"Authorization": f"bearer {secret}"})
    answer = client.post("/api/generations", WANTED, content_type="application/json")
    assert answer.status_code == 202
    assert answer.cookies == {}
    assert Session.objects.count() == 0


@pytest.mark.parametrize("path", ["/", "/library/", "/account/", "/admin/", "/api/docs"])
def test_pages_take_no_token(path: str, staff: User) -> None:
    answer = script(staff, "manage").get(path)
    assert answer.status_code == 302
    assert answer["Location"].startswith(("/login/", "/admin/login/"))


@pytest.mark.parametrize(
    ("scope", "statuses"),
    [("read", (200, 403, 403)), ("generate", (200, 202, 403)), ("manage", (200, 202, 409))],
)
def test_a_token_does_what_it_is_for_and_no_more(
    scope: str, statuses: tuple[int, int, int], staff: User
) -> None:
    client = script(staff, scope)
    answers = [
        client.get("/api/takes"),
        client.post("/api/generations", WANTED, content_type="application/json"),
        client.post("/api/models/switch/cancel"),
    ]
    assert tuple(answer.status_code for answer in answers) == statuses
    for answer in answers:
        if answer.status_code == 403:
            assert answer.json()["error_code"] == "TOKEN_SCOPE"
            assert "This token may not do that" in answer.json()["error"]


def test_what_changes_something_and_is_not_listed_needs_the_widest_scope() -> None:
    assert needed_scope("POST", "/api/something/new") == "manage"
    assert needed_scope("POST", "/api/generationsx") == "manage"
    assert needed_scope("DELETE", "/api/adapters/3") == "manage"
    assert needed_scope("POST", "/api/adapters/3/trials") == "generate"
    assert needed_scope("POST", "/api/models/calculate") == "read"
    assert needed_scope("POST", "/api/models/config/submit") == "generate"
    assert needed_scope("POST", "/api/models/switch") == "manage"
    assert needed_scope("HEAD", "/api/takes/3/audio") == "read"


def test_only_staff_make_tokens_that_manage(alice: User) -> None:
    with pytest.raises(TokenRefused, match="Choose what the token may do"):
        create_token(owner=alice, name="script", scope="manage")
    assert ApiToken.objects.count() == 0


def test_a_token_that_manages_ends_with_the_role(staff: User) -> None:
    client = script(staff, "manage")
    User.objects.filter(pk=staff.pk).update(is_staff=False)
    answer = client.post("/api/models/switch/cancel")
    assert (answer.status_code, answer.json()["error_code"]) == (403, "STAFF_ONLY")


def test_a_token_ends_when_it_is_revoked_expired_or_its_owner_leaves(alice: User) -> None:
    client = script(alice, expires_at=timezone.now() + timedelta(days=1))
    token = ApiToken.objects.get()
    assert client.get("/api/takes").status_code == 200
    ApiToken.objects.update(expires_at=timezone.now())
    refused = client.get("/api/takes")
    assert (refused.status_code, refused.json()["error_code"]) == (401, "TOKEN_INVALID")
    assert refused["WWW-Authenticate"].startswith("Bearer")
    ApiToken.objects.update(expires_at=None)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert client.get("/api/takes").status_code == 401
    User.objects.filter(pk=alice.pk).update(is_active=True)
    assert client.get("/api/takes").status_code == 200
    revoke_token(owner=alice, pk=token.pk)
    assert client.get("/api/takes").status_code == 401


def test_nobody_revokes_the_token_of_another(alice: User, mallory: User) -> None:
    script(alice)
    token = ApiToken.objects.get()
    assert revoke_token(owner=mallory, pk=token.pk) is None
    assert logged_in(mallory).post(f"/account/tokens/{token.pk}/revoke/").status_code == 404
    assert ApiToken.objects.valid().count() == 1


def test_the_last_use_is_kept_by_the_hour(alice: User) -> None:
    client = script(alice)
    client.get("/api/takes")
    used = ApiToken.objects.get().last_used_at
    assert used is not None
    assert (used.minute, used.second, used.microsecond) == (0, 0, 0)
    earlier = timezone.now() - timedelta(hours=3)
    ApiToken.objects.update(last_used_at=earlier)
    client.get("/api/takes")
    assert ApiToken.objects.get().last_used_at != earlier


def test_bad_tokens_are_counted_and_good_ones_pass(alice: User) -> None:
    bad = bearer("mgs_" + "x" * 43)
    answers = [bad.get("/api/takes").status_code for _ in range(BAD_TOKENS.count + 1)]
    assert answers == [401] * BAD_TOKENS.count + [429]
    refused = bad.get("/api/takes")
    assert refused.json()["error_code"] == "TOO_MANY_REQUESTS"
    assert int(refused["Retry-After"]) > 0
    assert script(alice).get("/api/takes").status_code == 200


@pytest.mark.parametrize("secret", ["", "mgs_", "mgs_" + "é" * 40, "x" * 5000, "hf_0123456789", "mgs_\x00"])
def test_what_is_no_token_is_refused(secret: str) -> None:
    assert bearer(secret).get("/api/takes").status_code == 401


def test_a_token_is_read_from_its_header_alone(alice: User) -> None:
    """Addresses are written down on the way; cookies are sent by browsers on behalf of others."""
    _, secret = create_token(owner=alice, name="script", scope="generate")
    for query in ("token", "access_token", "api_key", "Authorization"):
        assert Client().get(f"/api/takes?{query}={secret}").status_code == 401
        assert Client(headers={"Cookie": f"{query}={secret}"}).get("/api/takes").status_code == 401
    for header in ({"X-Api-Key": secret}, {"Authorization": secret}, {"Authorization": f"Basic {secret}"}):
        assert Client(headers=header).get("/api/takes").status_code == 401
    sent = {**WANTED, "token": secret}
    assert Client().post("/api/generations", sent, content_type="application/json").status_code == 401


def test_another_site_cannot_use_a_token(alice: User) -> None:
    client = script(alice, "generate")
    answer = client.post(
        "/api/generations",
        WANTED,
        content_type="application/json",
        headers={**client.defaults, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    )
    assert answer.status_code == 403
    preflight = client.options("/api/generations", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in preflight.headers


def test_the_token_is_shown_once_and_kept_nowhere(
    alice: User, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = logged_in(alice)
    page = client.post("/account/tokens/", {"name": "nightly", "scope": "generate", "days": "30"})
    assert page.status_code == 200
    assert "no-store" in page["Cache-Control"]
    secret = page.content.decode().split('id="new-token">')[1].split("<")[0]
    assert secret.startswith("mgs_")
    assert len(secret) > 40
    again = client.get("/account/").content.decode()
    assert "nightly" in again
    assert secret not in again
    with caplog.at_level(logging.DEBUG):
        assert bearer(secret).get("/api/takes").status_code == 200
        monkeypatch.setattr("generation.api.models.list_model_facts", lambda: 1 / 0)
        broken = Client(raise_request_exception=False, headers={"Authorization": f"Bearer {secret}"})
        assert broken.get("/api/models").status_code == 500
    assert secret not in caplog.text
    assert secret not in json.dumps([vars(record) for record in caplog.records], default=str)
    rows: list[Any] = [*ApiToken.objects.all(), *AuditEntry.objects.all(), *Session.objects.all()]
    assert secret not in serializers.serialize("json", rows)
    row = ApiToken.objects.get()
    assert row.expires_at is not None
    assert row.expires_at - timezone.now() < timedelta(days=30)
    assert len(row.hint) < 10


def test_a_debug_page_hides_the_token(alice: User, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DEBUG = True
    _, secret = create_token(owner=alice, name="script", scope="read")
    monkeypatch.setattr("generation.api.models.list_model_facts", lambda: 1 / 0)
    broken = Client(raise_request_exception=False, headers={"Authorization": f"Bearer {secret}"})
    answer = broken.get("/api/models")
    assert answer.status_code == 500
    assert secret not in answer.content.decode()


def test_a_debug_page_hides_the_secrets_of_the_studio(
    alice: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Words that this file does not hold: the page shows pieces of it, too.
    word = {name: f"{name[::-1]}{'w' * 32}" for name in ("secret", "database", "redis", "mail", "metrics")}
    secrets = {
        "secret_key": word["secret"],
        "database_url": f"postgres://studio:{word['database']}@db/studio",
        "redis_url": f"redis://:{word['redis']}@cache:6379/0",
        "email_url": f"smtp://studio:{word['mail']}@mail.example",
        "metrics_token": word["metrics"],
    }
    # As read at the start: whatever shows settings shows their values.
    settings.STUDIO = StudioSettings(**{**settings.STUDIO.model_dump(), **secrets})
    settings.CHANNEL_LAYERS = {"default": {"CONFIG": {"hosts": [{"address": secrets["redis_url"]}]}}}
    settings.DEBUG = True
    monkeypatch.setattr("generation.views.storage_of", lambda user: 1 / 0)
    answer = logged_in(alice, raise_request_exception=False).get("/library/")
    assert answer.status_code == 500
    page = answer.content.decode()
    assert "CHANNEL_LAYERS" in page
    assert [name for name, secret in word.items() if secret in page] == []


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"name": "", "scope": "read"}, "Give the token a name"),
        ({"name": "x" * 61, "scope": "read"}, "The name can have 60 characters"),
        ({"name": "a\u202eb", "scope": "read"}, "cannot be shown"),
        ({"name": "script", "scope": "manage"}, "Choose what the token may do"),
        ({"name": "script", "scope": ""}, "Choose what the token may do"),
    ],
)
def test_a_token_that_cannot_be_is_refused_with_a_sentence(
    sent: dict[str, str], sentence: str, alice: User
) -> None:
    answer = logged_in(alice).post("/account/tokens/", sent)
    assert answer.status_code == 400
    assert sentence in answer.content.decode()
    assert ApiToken.objects.count() == 0


def test_there_are_only_so_many_tokens(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_TOKENS", 2)
    script(alice)
    script(alice)
    with pytest.raises(TokenRefused, match="Revoke one first"):
        script(alice)


def test_a_name_is_shown_as_text(alice: User) -> None:
    create_token(owner=alice, name="<script>alert(1)</script>", scope="read")
    assert "<script>alert" not in logged_in(alice).get("/account/").content.decode()


@pytest.mark.usefixtures("home")
def test_audio_is_fetched_with_a_token(alice: User, bob: User) -> None:
    take = make_take(alice)
    assert script(alice).get(f"/api/takes/{take.pk}/audio").status_code == 200
    assert script(bob).get(f"/api/takes/{take.pk}/audio").status_code == 404
    assert Job.objects.count() == 1

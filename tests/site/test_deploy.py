"""Shared mode behind an HTTPS proxy: what `check --deploy` asks for, and what the settings then do."""

import json
import subprocess
import sys

import pytest

from musicgen_site.email_server import EmailServer, parse_email_url
from musicgen_site.studio_settings import StudioSettings
from tests.conftest import ROOT

BEHIND_PROXY = {
    "MUSICGEN_ACCESS": "shared",
    "MUSICGEN_ALLOWED_HOSTS": "studio.example",
    "MUSICGEN_BEHIND_HTTPS_PROXY": "true",
}

#: Asks the site as a proxy would, and prints what came back.
ASK = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "musicgen_site.settings"
import django
django.setup()
from django.contrib.auth.models import User
from django.test import Client
User.objects.create_user("alice", password="alice-password")
proxy = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7", "Host": "studio.example"}
host = {"SERVER_NAME": "studio.example"}
plain = Client(**host).get("/login/")
page = Client(headers=proxy, **host)
form = page.get("/login/")
login = page.post("/login/", {"username": "alice", "password": "alice-password"})
origin = Client(headers={**proxy, "Origin": "https://studio.example"}, **host).post("/login/", {})
print(json.dumps({
    "plain": [plain.status_code, plain.headers.get("Location", "")],
    "probe": Client(**host).get("/healthz").status_code,
    "hsts": form.headers.get("Strict-Transport-Security", ""),
    "cookies": {n: [bool(m["secure"]), bool(m["httponly"]), m["samesite"]] for n, m in login.cookies.items()},
    "origin": origin.status_code,
}))
"""


def run(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_check_deploy_has_nothing_to_say(studio_environment: dict[str, str]) -> None:
    ended = run(
        "manage.py", "check", "--deploy", "--fail-level", "WARNING",
        environment={**studio_environment, **BEHIND_PROXY},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "no issues" in ended.stdout


@pytest.mark.parametrize("behind_proxy", [True, False])
def test_https_is_asked_for_only_behind_a_proxy(
    behind_proxy: bool, prepared_environment: dict[str, str]
) -> None:
    environment = {**prepared_environment, **BEHIND_PROXY, "MUSICGEN_BEHIND_HTTPS_PROXY": str(behind_proxy)}
    ended = run("-c", ASK, environment=environment)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["origin"] != 403
    if behind_proxy:
        assert told["plain"] == [301, "https://studio.example/login/"]
        assert told["probe"] != 301
        assert told["hsts"] == "max-age=31536000"
    else:
        assert told["plain"] == [200, ""]
        assert told["hsts"] == ""
    # Browsers take a name that begins so over HTTPS and from this very host alone.
    host = "__Host-" if behind_proxy else ""
    assert set(told["cookies"]) == {f"{host}musicgen_session", f"{host}musicgen_csrf", "musicgen_device"}
    for name, (secure, http_only, same_site) in told["cookies"].items():
        assert secure is behind_proxy
        assert http_only is (name != f"{host}musicgen_csrf")
        assert same_site == "Lax"


def test_a_mail_server_that_makes_no_sense_stops_the_start(studio_environment: dict[str, str]) -> None:
    url = "http://user:hidden-password@mail.example"
    ended = run("manage.py", "check", environment={**studio_environment, "MUSICGEN_EMAIL_URL": url})
    assert ended.returncode == 2
    assert "MUSICGEN_EMAIL_URL: write it as smtp+tls://user:password@host:587" in ended.stderr
    assert "hidden-password" not in ended.stderr


def test_with_a_mail_server_the_hosts_must_be_named() -> None:
    with pytest.raises(ValueError, match="chooses where the link in the mail leads"):
        StudioSettings(allowed_hosts=("*",), email_url="console:")
    assert StudioSettings(allowed_hosts=("studio.example",), email_url="console:").email_url
    assert StudioSettings(allowed_hosts=("*",)).allowed_hosts == ("*",)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        (None, EmailServer("dummy")),
        ("console:", EmailServer("console")),
        ("smtp://mail.example", EmailServer("smtp", "mail.example")),
        (
            "smtp+tls://me%40x:p%3Aw@mail.example",
            EmailServer("smtp", "mail.example", 587, "me@x", "p:w", use_tls=True),
        ),
        ("smtp+ssl://mail.example:4650", EmailServer("smtp", "mail.example", 4650, use_ssl=True)),
    ],
)
def test_a_mail_server_is_read(url: str | None, server: EmailServer) -> None:
    assert parse_email_url(url) == server


@pytest.mark.parametrize("url", ["mail.example", "smtp://", "smtp://host:port", "ftp://host", "smtp://[::1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        parse_email_url(url)

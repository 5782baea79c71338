"""The log: ids that tie its lines together, nothing that can be forged, and no secret."""

import asyncio
import json
import logging
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from hypothesis import given
from hypothesis import strategies as st

from gated_configs.log_context import current_request_id, log_ids, logged_with
from generation.job_log import logged
from generation.models import JobStatus
from generation.services.submission import GenerationRequest, submit_job
from musicgen_site.log_format import HIDDEN, JsonFormatter, TextFormatter
from musicgen_site.request_log import RequestLog, shown_path
from tests.conftest import ROOT, running_studio, wait_until
from tests.generation.music import make_running_job


def record(message: str, *arguments: Any, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("generation.test", logging.INFO, __file__, 1, message, arguments, None)
    made.__dict__.update(extra)
    return made


def failure(message: str) -> logging.LogRecord:
    made = record("it failed")
    try:
        raise ValueError(message)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def parsed(line: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(line)
    return fields


def starts(text: str) -> list[str]:
    """The lines that begin a record."""
    return [line for line in text.split("\n") if not line.startswith("  | ")]


# --- The form of a line ---

FORGED = "fine\n2026-01-01 00:00:00,000 ERROR generation: forged\r\x1b[2J\u2028forged\u202e\x85\x00"


@given(st.text())
def test_a_message_is_one_record_whatever_it_holds(message: str) -> None:
    for made in (record("%s", message), failure(message)):
        line = JsonFormatter().format(made)
        assert line.isascii()
        assert line.isprintable()
        assert parsed(line)["level"] == "info"
        text = TextFormatter().format(made)
        assert len(starts(text)) == 1
        assert all(each.isprintable() or each in "\n" or ord(each) > 0x9F for each in text)


def test_json_keeps_the_message_and_the_ids_and_facts() -> None:
    with logged_with(request_id="r-1", job_id=12):
        fields = parsed(
            JsonFormatter().format(record("%s", FORGED, facts={"status": 200, "message": "other"}))
        )
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "info",
        "logger": "generation.test",
        "message": FORGED,
        "request_id": "r-1",
        "job_id": 12,
        "status": 200,
    }
    assert "ValueError: boom" in parsed(JsonFormatter().format(failure("boom")))["exception"]


def test_text_sets_further_lines_apart() -> None:
    with logged_with(job_id=12):
        text = TextFormatter().format(record("died:\n%s", "first\nsecond\x1b[2J"))
    head, *more = text.split("\n")
    assert head.endswith(" INFO generation.test: died: [job 12]")
    assert more == ["  | first", "  | second\\x1b[2J"]


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_secrets_of_the_studio_are_hidden(
    formatter: logging.Formatter, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "secret_key": "k" * 40,
        "metrics_token": "metrics-token-metrics",
        "database_url": "postgres://studio:data%21base@db/studio",
        "redis_url": "redis://:redis-password@cache:6379/0",
        "email_url": "smtp+tls://studio:mail%40word@mail.example:587",
    }
    settings.STUDIO = settings.STUDIO.model_copy(update=secrets)
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key-of-a-bucket")
    shown = ["k" * 40, "metrics-token-metrics", "data%21base", "data!base", "redis-password"]
    shown += ["hf_abcdefgh", "key-of-a-bucket"]
    shown += ["mail%40word", "mail@word"]
    for secret in shown:
        for made in (record("says %s.", secret), failure(f"says {secret}.")):
            line = formatter.format(made)
            assert secret not in line
            assert HIDDEN in line


@pytest.mark.parametrize(
    ("before", "secret"),
    [
        ("Internal Server Error: /setup/", "Zk3v-_9aQ1" * 4),
        ("Internal Server Error: /password/MQ/", "c8x1ab-0123456789abcdef0123456789abcdef"),
        ("sent with mgs_", "Zk3v-_9aQ1" * 4),
        ("signed with whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw+/=="),
    ],
)
@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_what_opens_something_is_hidden_wherever_a_library_writes_it(
    formatter: logging.Formatter, before: str, secret: str
) -> None:
    line = formatter.format(record("%s and more", before + secret))
    assert secret not in line
    assert f"{before}{HIDDEN} and more" in line


def test_what_opens_nothing_is_shown() -> None:
    line = "/setup/ /password/sent/ /password/changed/ /api/takes/1/audio mgs_abcd…"
    assert TextFormatter().format(record("%s", line)).endswith(line)


# --- Ids of requests ---

Message = dict[str, Any]


def request(
    headers: list[tuple[bytes, bytes]],
    *,
    target: str = "/library/",
    kind: str = "http",
    answers: Callable[[], None] = lambda: None,
) -> list[Message]:
    """What an application behind the log answers to one request."""
    sent: list[Message] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        answers()
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
            await send({"type": "http.response.body"})
        else:
            await send({"type": "websocket.accept"})

    async def keep(message: Message) -> None:
        sent.append(message)

    scope = {"type": kind, "path": target, "headers": headers, "query_string": b"token=hunter2"}
    if kind == "http":
        scope["method"] = "GET"
    asyncio.run(RequestLog(application)(scope, None, keep))
    return sent


def answered_id(sent: list[Message]) -> str:
    ids = [value for name, value in sent[0]["headers"] if name == b"x-request-id"]
    assert len(ids) == 1
    return str(ids[0].decode())


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_well_formed_id_is_taken_over_and_answered(kind: str) -> None:
    seen: list[str] = []
    sent = request(
        [(b"x-request-id", b"A-1_b.2")], kind=kind, answers=lambda: seen.append(current_request_id())
    )
    assert answered_id(sent) == "A-1_b.2"
    assert seen == ["A-1_b.2"]
    assert log_ids() == {}


@pytest.mark.parametrize(
    "given",
    [b"", b"a b", b"a\nb", b"a\r\nSet-Cookie: x=y", b"x" * 65, "\u00e9".encode(), b"<script>", b"a\n"],
)
def test_any_other_id_is_replaced(given: bytes) -> None:
    made = answered_id(request([(b"x-request-id", given)]))
    assert len(made) == 32
    assert made.isalnum()
    assert made != answered_id(request([(b"x-request-id", given)]))


def test_two_ids_are_none() -> None:
    assert answered_id(request([(b"x-request-id", b"one"), (b"x-request-id", b"two")])) not in ("one", "two")


def test_the_line_of_a_request_names_no_query(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="musicgen_site.access"):
        request([], target="/library/\nforged 100%d")
    (line,) = caplog.records
    facts = line.__dict__["facts"]
    assert facts.pop("duration_ms") >= 0
    assert facts == {"method": "GET", "path": "/library/\nforged 100%d", "status": 200}
    for formatter in (JsonFormatter(), TextFormatter()):
        text = formatter.format(line)
        assert len(starts(text)) == 1
        assert "hunter2" not in text
        assert "token" not in text


def reset(request: HttpRequest, uidb64: str, token: str) -> HttpResponse:
    return HttpResponse()


urlpatterns = [path("reset/<uidb64>/<token>/", reset)]


@override_settings(ROOT_URLCONF=__name__)
def test_an_address_that_opens_something_is_logged_as_its_pattern() -> None:
    assert shown_path("/reset/MQ/secret-token/") == "/reset/<uidb64>/<token>/"
    assert shown_path("/elsewhere/") == "/elsewhere/"
    assert len(shown_path("/" + "a" * 9000)) == 300


# --- Jobs ---


def test_a_job_remembers_the_request_that_asked_for_it(alice: User, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="generation.job_log"), logged_with(request_id="r-7"):
        job = submit_job(
            owner=alice, request=GenerationRequest(prompt="my secret song", model_id="musicgen-demo")
        )
    assert job.request_id == "r-7"
    assert "queued" in caplog.text
    assert "my secret song" not in caplog.text
    assert (
        submit_job(owner=alice, request=GenerationRequest(prompt="x", model_id="musicgen-demo")).request_id
        == ""
    )


def test_lines_of_a_job_carry_its_ids(alice: User) -> None:
    job = make_running_job(alice, request_id="r-8")
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, made: logging.LogRecord) -> None:
            lines.append(self.format(made))

    handler = Keep()
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger("generation.job_log"), logging.getLogger("generation.runners")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)

    async def work() -> None:
        logging.getLogger("generation.runners").info("something deep inside")
        job.status = JobStatus.FAILED
        job.error_code = "OUT_OF_MEMORY"

    try:
        asyncio.run(logged(job, work()))
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    told = [parsed(line) for line in lines]
    assert [(each["job_id"], each["request_id"]) for each in told] == [(job.pk, "r-8")] * 3
    assert told[1]["message"] == "something deep inside"
    assert (told[2]["outcome"], told[2]["error_code"]) == ("failed", "OUT_OF_MEMORY")
    assert log_ids() == {}


# --- What is logged where ---


@pytest.mark.parametrize(
    ("variables", "level"),
    [
        ({}, "WARNING"),
        ({"MUSICGEN_LOG_LEVEL": "info"}, "INFO"),
        ({"MUSICGEN_LOG_LEVEL": "error"}, "ERROR"),
        ({"MUSICGEN_LOG_FORMAT": "json"}, "INFO"),
        ({"MUSICGEN_LOG_FORMAT": "json", "MUSICGEN_LOG_LEVEL": "warning"}, "WARNING"),
    ],
)
def test_a_line_for_each_request_is_for_who_asked_for_it(
    variables: dict[str, str], level: str, studio_environment: dict[str, str]
) -> None:
    code = (
        "import json; from musicgen_site.settings import LOGGING;"
        "print(json.dumps([LOGGING['loggers'][n]['level'] for n in ('musicgen_site.access', 'generation.job_log')]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**studio_environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(ended.stdout) == [level, level]


def test_a_studio_ties_a_job_to_its_request(prepared_environment: dict[str, str]) -> None:
    environment = {**prepared_environment, "MUSICGEN_LOG_FORMAT": "json"}
    with running_studio(environment) as studio:
        asked = urllib.request.Request(
            f"{studio.url}api/generations?token=hunter2",
            data=b'{"prompt": "slow piano", "duration_seconds": 1}',
            headers={"Content-Type": "application/json", "X-Request-ID": "from-the-proxy-1"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert answer.headers["X-Request-ID"] == "from-the-proxy-1"
            job = json.load(answer)["id"]
        wait_until(lambda: any("begins" in line for line in studio.log), seconds=60, what="the job")
    lines = [parsed(line) for line in studio.log]
    begun = next(line for line in lines if "begins" in line["message"])
    assert (begun["job_id"], begun["request_id"]) == (job, "from-the-proxy-1")
    access = next(line for line in lines if line["logger"] == "musicgen_site.access")
    assert (access["request_id"], access["status"], access["path"]) == (
        "from-the-proxy-1",
        202,
        "/api/generations",
    )
    assert "hunter2" not in "".join(studio.log)

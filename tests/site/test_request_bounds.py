"""Bodies of requests: each bounded by what its address is for, and none whole in memory or left on disk."""

from __future__ import annotations

import http.client
import json
import resource
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from asgiref.sync import async_to_sync

from musicgen_site.request_bounds import CLIP_PATHS, MAX_BODY_BYTES, UPLOAD_PATHS, BoundedBodies, body_limit
from tests.conftest import Prepare, RunningStudio, running_studio, wait_until

MB = 10**6


@pytest.fixture(scope="module")
def studio(prepared: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    environment = prepared(tmp_path_factory.mktemp("bounds") / "home")
    with running_studio(
        {**environment, "MUSICGEN_MAX_ADAPTER_MB": "300", "MUSICGEN_MAX_CLIP_MB": "5"},
        options=["--no-engine"],
    ) as running:
        yield running


def connect(studio: RunningStudio) -> http.client.HTTPConnection:
    parts = urlsplit(studio.url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)


def answer_of(connection: http.client.HTTPConnection) -> tuple[int, dict[str, Any]]:
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def post(studio: RunningStudio, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = connect(studio)
    connection.request("POST", path, body=body, headers={"Content-Type": "application/json", **headers})
    return answer_of(connection)


def multipart(count: int) -> tuple[list[bytes], dict[str, str]]:
    """A form with a file of `count` bytes, in pieces."""
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
    tail = b"\r\n--edge--\r\n"
    pieces = [head, *([b"x" * MB] * (count // MB)), b"x" * (count % MB), tail]
    length = str(sum(map(len, pieces)))
    return pieces, {"Content-Type": "multipart/form-data; boundary=edge", "Content-Length": length}


def left_in_home(studio: RunningStudio) -> list[str]:
    return [path.name for path in (studio.home / "incoming").rglob("*") if path.is_file()]


def test_a_small_body_arrives_whole(studio: RunningStudio) -> None:
    status, answer = post(studio, "/api/generations", json.dumps({"prompt": "a" * 60_000}))
    assert (status, answer["error_code"]) == (400, "PROMPT_TOO_LONG")


def test_a_large_body_is_refused_where_no_upload_is_expected(studio: RunningStudio) -> None:
    status, answer = post(studio, "/api/generations", b"x" * (MAX_BODY_BYTES + 1))
    assert (status, answer["error_code"]) == (413, "REQUEST_TOO_LARGE")


def test_a_large_body_without_a_length_is_refused(studio: RunningStudio) -> None:
    pieces = iter([b"x" * 65_536] * 40)
    connection = connect(studio)
    connection.request("POST", "/api/generations", body=pieces, encode_chunked=True)
    assert answer_of(connection)[0] == 413


def test_an_upload_must_say_its_length(studio: RunningStudio) -> None:
    connection = connect(studio)
    connection.request("POST", "/api/adapters", body=iter([b"x" * 65_536] * 40), encode_chunked=True)
    status, answer = answer_of(connection)
    assert (status, answer["error_code"]) == (411, "LENGTH_REQUIRED")


@pytest.mark.parametrize("path", sorted(UPLOAD_PATHS))
def test_an_upload_over_the_limit_is_refused_with_the_setting_that_decides(
    path: str, studio: RunningStudio
) -> None:
    limit, setting = (5, "CLIP") if path in CLIP_PATHS else (300, "ADAPTER")
    size = limit + 5
    status, answer = post(studio, path, iter([b"x" * MB] * size), **{"Content-Length": str(size * MB)})
    assert (status, answer["error_code"]) == (413, "REQUEST_TOO_LARGE")
    assert f"{limit}\u202fMB" in answer["error"]
    assert f"MUSICGEN_MAX_{setting}_MB" in answer["error"]
    assert left_in_home(studio) == []


def test_an_upload_is_never_whole_in_memory(studio: RunningStudio) -> None:
    process = psutil.Process(studio.process.pid)
    post(studio, "/api/adapters", *[b"{}"])  # what is imported at the first request is not the upload's
    before = process.memory_info().rss
    pieces, headers = multipart(290 * MB)
    highest = before
    connection = connect(studio)
    connection.putrequest("POST", "/api/adapters")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    for piece in pieces:
        connection.send(piece)
        highest = max(highest, process.memory_info().rss)
    connection.sock.settimeout(0.02)
    while True:
        highest = max(highest, process.memory_info().rss)
        try:
            if connection.sock.recv(1, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
    connection.sock.settimeout(60)
    status, answer = answer_of(connection)
    assert (status, answer["error_code"]) == (400, "NOT_A_ZIP")
    assert highest - before < 60 * MB, f"{(highest - before) / MB:.0f} MB more"
    wait_until(lambda: left_in_home(studio) == [], seconds=5, what="an empty home")


def test_an_upload_that_breaks_off_leaves_nothing(studio: RunningStudio) -> None:
    pieces, headers = multipart(50 * MB)
    connection = connect(studio)
    connection.putrequest("POST", "/api/adapters")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    for piece in pieces[:20]:
        connection.send(piece)
    connection.close()
    wait_until(lambda: left_in_home(studio) == [], seconds=5, what="an empty home")
    assert post(studio, "/api/generations", b"{}")[0] == 400


@pytest.mark.parametrize("count", [30 * MB, 10 * MB + 1000], ids=["long before its end", "at its last bytes"])
def test_an_upload_that_the_disk_does_not_take_is_refused(count: int, studio: RunningStudio) -> None:
    """A limit on the size of files stands for a full disk: writing fails in the same way."""
    pieces, headers = multipart(count)
    unlimited = resource.prlimit(studio.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(studio.process.pid, resource.RLIMIT_FSIZE, (10 * MB, unlimited[1]))
    try:
        connection = connect(studio)
        connection.request("POST", "/api/adapters", body=iter(pieces), headers=headers)
        status, answer = answer_of(connection)
    finally:
        resource.prlimit(studio.process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert (status, answer["error_code"]) == (507, "DISK_FULL")
    assert "Free some space" in answer["error"]
    wait_until(lambda: left_in_home(studio) == [], seconds=5, what="an empty home")
    assert post(studio, "/api/generations", b"{}")[0] == 400


# --- the bound by itself, for servers that pass more on than was announced ---


def run(scope: dict[str, Any], messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """What is answered, and how many bytes the application was given."""
    sent: list[dict[str, Any]] = []
    given = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal given
        while (message := await receive())["type"] == "http.request":
            given += len(message["body"])
            if not message["more_body"]:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                return

    pending = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(pending)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async_to_sync(BoundedBodies(application))(scope, receive, send)
    return sent, given


def scope_of(path: str, length: int | None, method: str = "POST") -> dict[str, Any]:
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    return {"type": "http", "method": method, "path": path, "headers": headers}


def pieces_of(*sizes: int) -> list[dict[str, Any]]:
    last = len(sizes) - 1
    return [
        {"type": "http.request", "body": b"x" * size, "more_body": number < last}
        for number, size in enumerate(sizes)
    ]


def test_an_upload_goes_through(settings: Any) -> None:
    sent, given = run(scope_of("/api/adapters", 3 * MB), pieces_of(MB, MB, MB))
    assert (sent[0]["status"], given) == (200, 3 * MB)


def test_an_upload_without_room_on_the_disk_is_refused_before_it_is_copied(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=8 * MB))
    sent, given = run(scope_of("/api/adapters", 3 * MB), pieces_of(MB, MB, MB))
    assert (sent[0]["status"], given) == (507, 0)
    sent, given = run(scope_of("/api/adapters", 2 * MB), pieces_of(MB, MB))
    assert (sent[0]["status"], given) == (200, 2 * MB)


def test_an_upload_that_is_longer_than_it_says_is_cut_off(settings: Any) -> None:
    sent, given = run(scope_of("/api/adapters", 2 * MB), pieces_of(MB, MB, MB, MB))
    assert sent[0]["status"] == 413
    assert given == 2 * MB


def test_only_posts_to_an_upload_address_may_be_large(settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_adapter_mb": 7})
    assert body_limit("POST", "/api/adapters") == 7 * MB + MAX_BODY_BYTES
    for method, path in (
        ("PUT", "/api/adapters"),
        ("POST", "/api/adapters/1"),
        ("POST", "/"),
        ("POST", "/api"),
    ):
        assert body_limit(method, path) == MAX_BODY_BYTES

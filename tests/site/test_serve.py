"""`manage.py serve`: where it listens, what it refuses, and how it ends."""

import json
import os
import shutil
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import RunningStudio, running_studio, wait_until
from tests.site.test_studio_settings import manage


def fetch(url: str, **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body of a GET, refusals included."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers, refused.read()


def runners_of(studio: RunningStudio) -> list[psutil.Process]:
    """The engine processes that a studio has started."""
    children = psutil.Process(studio.process.pid).children(recursive=True)
    return [child for child in children if "generation.engine" in " ".join(child.cmdline())]


def test_an_empty_home_is_enough(studio_environment: dict[str, str]) -> None:
    with running_studio(studio_environment, options=["--no-engine"]) as studio:
        status, headers, body = fetch(studio.url)
        assert status == 200
        assert b"MusicGen" in body
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert json.loads(fetch(f"{studio.url}api/models")[2])["current_model"] == "musicgen-demo"
        assert (studio.home / "studio.sqlite3").exists()
        # The check of the host name holds on the real server too.
        assert fetch(f"{studio.url}api/models", Host="evil.example")[0] == 400


def test_a_compiler_that_fails_is_told_by_page_and_log(
    prepared_environment: dict[str, str], tmp_path: Path
) -> None:
    compiler = tmp_path / "bin" / "cc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho what the compiler says >&2\nexit 1\n")
    compiler.chmod(0o755)
    shutil.rmtree(Path(prepared_environment["MUSICGEN_HOME"]) / "engine")
    path = f"{compiler.parent}{os.pathsep}{os.environ['PATH']}"
    with running_studio({**prepared_environment, "PATH": path}) as studio:
        wait_until(
            lambda: b"cannot compile the engine" in fetch(f"{studio.url}settings/")[2],
            seconds=90,
            what="the reason on the page",
        )
        assert any("no compiled kernels" in line for line in studio.log)
        assert any("what the compiler says" in line for line in studio.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_runner_when_asked(
    number: signal.Signals, prepared_environment: dict[str, str]
) -> None:
    with running_studio(prepared_environment) as studio:
        wait_until(lambda: bool(runners_of(studio)), seconds=30, what="the start of a runner")
        runners = runners_of(studio)
        studio.process.send_signal(number)
        assert studio.process.wait(timeout=60) == 0
        wait_until(
            lambda: not any(runner.is_running() for runner in runners), seconds=10, what="the runner's end"
        )
    assert not [line for line in studio.log if "Traceback" in line]


def test_a_killed_studio_leaves_no_runner_behind(prepared_environment: dict[str, str]) -> None:
    with running_studio(prepared_environment) as studio:
        wait_until(lambda: bool(runners_of(studio)), seconds=30, what="the start of a runner")
        runners = runners_of(studio)
        studio.process.kill()
        studio.process.wait()
        wait_until(
            lambda: not any(runner.is_running() for runner in runners), seconds=30, what="the runner's end"
        )


def test_a_port_that_is_taken_is_explained(prepared_environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = manage("serve", "--port", str(port), environment=prepared_environment)
    assert ended.returncode != 0
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_local_mode_refuses_other_addresses(studio_environment: dict[str, str]) -> None:
    for ended in (
        manage("serve", "--host", "0.0.0.0", environment=studio_environment),
        manage("serve", environment={**studio_environment, "MUSICGEN_HOST": "::"}),
    ):
        assert ended.returncode != 0
        assert "Local mode has no login, so it only listens on this machine." in ended.stderr
        assert "MUSICGEN_ACCESS=shared" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not Path(studio_environment["MUSICGEN_HOME"]).exists()


def test_a_limit_for_an_unknown_model_stops_the_start(prepared_environment: dict[str, str]) -> None:
    environment = {**prepared_environment, "MUSICGEN_MAX_DURATION_SECONDS": "musicgen-tiny=60"}
    ended = manage("serve", "--port", "0", environment=environment)
    assert ended.returncode != 0
    assert "musicgen-tiny" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_shared_mode_serves_the_login_under_its_names(prepared_environment: dict[str, str]) -> None:
    environment = {
        **prepared_environment,
        "MUSICGEN_ACCESS": "shared",
        "MUSICGEN_HOST": "0.0.0.0",
        "MUSICGEN_ALLOWED_HOSTS": "studio.example",
    }
    with running_studio(environment, options=["--no-engine"]) as studio:
        port = studio.url.rstrip("/").rsplit(":", 1)[1]
        url = f"http://127.0.0.1:{port}/"
        status, _headers, body = fetch(url, Host="studio.example")
        assert status == 200
        assert b'name="password"' in body
        assert fetch(f"{url}api/takes", Host="studio.example")[0] == 401
        assert fetch(url, Host="other.example")[0] == 400
        assert (studio.home / "secret_key").stat().st_mode & 0o777 == 0o600


def test_a_write_protected_home_is_explained(studio_environment: dict[str, str], tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.touch()
    ended = manage("serve", environment={**studio_environment, "MUSICGEN_HOME": str(blocked)})
    assert ended.returncode != 0
    assert "MUSICGEN_HOME" in ended.stderr
    assert "Traceback" not in ended.stderr

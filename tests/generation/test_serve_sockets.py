"""`manage.py serve` and the sockets of its pages: one that is just opening must not spoil the end."""

import base64
import os
import signal
import socket
import subprocess
import sys
import urllib.parse

import pytest

from tests.conftest import ROOT, running_studio

pytestmark = pytest.mark.slow


def upgrade(url: str, origin: str = "") -> socket.socket:
    """Ask for a page's socket by hand; the answer is still to be read."""
    address = urllib.parse.urlsplit(url)
    assert address.hostname
    assert address.port
    opened = socket.create_connection((address.hostname, address.port), timeout=20)
    key = base64.b64encode(os.urandom(16)).decode()
    headers = {
        "Host": address.netloc,
        "Origin": origin or f"http://{address.netloc}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    lines = ["GET /ws/studio/?view=studio HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    request = "\r\n".join([*lines, "", ""])
    opened.sendall(request.encode())
    return opened


def run_script(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A process of its own, which may end itself."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**environment, "DJANGO_SETTINGS_MODULE": "musicgen_site.settings"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("moment", ["asked", "answered", "closed"])
def test_an_end_right_after_a_socket_opened_is_clean(
    moment: str, prepared_environment: dict[str, str]
) -> None:
    """daphne 4.2.3 raised KeyError here and could crash the interpreter."""
    with running_studio(prepared_environment, options=["--no-engine"]) as studio:
        sockets = [upgrade(studio.url) for _ in range(3)]
        try:
            if moment != "asked":
                assert all(one.recv(12) == b"HTTP/1.1 101" for one in sockets)
            if moment == "closed":
                sockets[0].close()
            studio.process.send_signal(signal.SIGTERM)
            assert studio.process.wait(timeout=30) == 0
        finally:
            for one in sockets:
                one.close()
    log = "".join(studio.log)
    assert "Traceback" not in log, log
    assert "KeyError" not in log, log


def test_an_end_right_after_the_address_was_told_is_clean(prepared_environment: dict[str, str]) -> None:
    script = """
import os, signal
from unittest.mock import patch
import django
django.setup()
from django.core.management import call_command
from musicgen_site.management.commands import serve
say = serve.Command._say_where
def say_and_end(self, host, port):
    say(self, host, port)
    os.kill(os.getpid(), signal.SIGTERM)
with patch.object(serve.Command, "_say_where", say_and_end):
    call_command("serve", port=0, no_engine=True)
print("ended")
"""
    ended = run_script(script, prepared_environment)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "ended"), ended.stderr


def test_a_socket_of_another_site_is_refused_by_the_server(prepared_environment: dict[str, str]) -> None:
    with (
        running_studio(prepared_environment, options=["--no-engine"]) as studio,
        upgrade(studio.url, origin="https://evil.example") as opened,
    ):
        assert opened.recv(12) == b"HTTP/1.1 403"


def test_a_connection_that_has_no_application_yet_does_not_spoil_the_end(
    prepared_environment: dict[str, str],
) -> None:
    """The window is too short to meet from outside, so the server is shown what daphne keeps in it."""
    script = """
import asyncio, django
django.setup()
from musicgen_site.server import StudioServer
async def scenario():
    server = StudioServer.__new__(StudioServer)
    server.connections = {object(): {"connected": 0.0}}
    await server.kill_all_applications().asFuture(asyncio.get_running_loop())
asyncio.run(scenario())
print("ended")
"""
    ended = run_script(script, prepared_environment)
    assert (ended.returncode, ended.stdout.strip()) == (0, "ended"), ended.stderr

"""In a real browser: every page works under its content security policy, and another site cannot reach in."""

import functools
import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Prepare, RunningStudio, running_studio

ATTACK = """
async (studio) => {
  const results = {};
  const socket = new WebSocket(studio.replace("http", "ws") + "ws/studio/?view=studio");
  results.socket = await new Promise((done) => {
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  });
  const body = JSON.stringify({prompt: "planted by another site"});
  await fetch(studio + "api/generations", {method: "POST", mode: "no-cors", body}).catch(() => "refused");
  const form = new URLSearchParams({prompt: "planted by another site", duration_seconds: "2"});
  await fetch(studio, {method: "POST", mode: "no-cors", body: form}).catch(() => "refused");
  results.read = await fetch(studio + "api/models").then((answer) => answer.text(), () => "unreadable");
  results.embed = await new Promise((done) => {
    const image = new Image();
    image.onload = () => done("embedded");
    image.onerror = () => done("refused");
    image.src = studio + "static/favicon.svg";
  });
  return results;
}
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a line for each request."""

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def other_site(tmp_path: Path) -> Iterator[str]:
    """Address of another site on the same machine, the nearest an attacker can be."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>Other site</title>")
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def quiet_studio(prepared: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio whose jobs stay in the queue."""
    environment = prepared(tmp_path_factory.mktemp("studio") / "home")
    with running_studio(environment, options=["--no-engine"]) as running:
        yield running


def test_every_page_works_under_its_policy(quiet_studio: RunningStudio, page: Any) -> None:
    complaints: list[str] = []
    outside: list[str] = []

    def hear(message: Any) -> None:
        # Browsers ask for this by themselves on pages that name no icon, such as the admin's.
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            complaints.append(f"{message.text} {message.location['url']}")

    def see(request: Any) -> None:
        if not request.url.startswith((quiet_studio.url, "data:")):
            outside.append(request.url)

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", see)
    for path in ("", "library/", "settings/", "admin/", "admin/registry/modelconfig/", "api/docs"):
        answer = page.goto(quiet_studio.url + path)
        assert answer.status == 200, path
        page.wait_for_load_state("load")
        if path == "api/docs":
            page.get_by_text("/api/generations", exact=True).first.wait_for()
        assert complaints == [], path
    assert outside == []


def test_another_site_cannot_reach_in(quiet_studio: RunningStudio, other_site: str, page: Any) -> None:
    page.goto(other_site)
    results = page.evaluate(ATTACK, quiet_studio.url)
    assert results["socket"] == "refused"
    assert results["read"] == "unreadable"
    assert results["embed"] == "refused"
    page.goto(quiet_studio.url)
    assert "planted by another site" not in page.content()
    with urllib.request.urlopen(f"{quiet_studio.url}api/takes", timeout=30) as answer:
        assert json.load(answer)["total"] == 0


def test_the_studio_itself_reaches_in(quiet_studio: RunningStudio, page: Any) -> None:
    """The same requests from the studio's own page pass, so that the test above proves something."""
    page.goto(quiet_studio.url)
    results = page.evaluate(ATTACK, quiet_studio.url)
    assert results["socket"] == "open"
    assert results["embed"] == "embedded"
    assert "musicgen-demo" in results["read"]
    page.reload()
    assert "planted by another site" in page.content()

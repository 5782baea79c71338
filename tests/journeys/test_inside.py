"""The activity page in Chromium: it keeps itself fresh while it is seen, and can be read in every look.

And pages that are too many for a socket each.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.conftest import Prepare, RunningStudio, running_studio
from tests.journeys.conftest import assert_accessible, complaints, watch

PAGE = "settings/inside/"


@pytest.fixture(scope="module")
def quiet_studio(prepared: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio without an engine: what is queued stays queued. Two pages may have a socket."""
    environment = prepared(tmp_path_factory.mktemp("inside") / "home")
    environment["MUSICGEN_MAX_SOCKETS_PER_PERSON"] = "2"
    with running_studio(environment, options=["--no-engine"]) as running:
        yield running


def queue_a_job(studio: RunningStudio) -> None:
    asked = urllib.request.Request(
        f"{studio.url}api/generations",
        data=json.dumps({"prompt": "slow piano", "duration_seconds": 1}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.status == 202


def test_it_keeps_itself_fresh_while_it_is_seen(page: Page, quiet_studio: RunningStudio) -> None:
    watch(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if PAGE in request.url else None)
    page.clock.install()
    page.goto(f"{quiet_studio.url}settings/")
    page.get_by_role("link", name="What the studio is doing").click()
    expect(page.get_by_role("heading", name="What the studio is doing")).to_be_visible()
    now = page.locator(".inside-now")
    expect(now).to_contain_text("0 jobs")
    queue_a_job(quiet_studio)
    page.clock.run_for(4500)
    expect(now).to_contain_text("1 job")

    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true, configurable: true })")
    before = len(asked)
    page.clock.run_for(20_000)
    assert len(asked) == before
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => false, configurable: true })")
    with page.expect_request(lambda request: PAGE in request.url):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert complaints(page) == []


def test_it_can_be_read_without_scripts(browser: Browser, quiet_studio: RunningStudio) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{quiet_studio.url}{PAGE}")
    expect(page.locator(".inside-none").first).to_contain_text("No engine is running. Jobs wait until")
    page.get_by_role("link", name="Read again").click()
    expect(page.get_by_role("heading", name="Engine hosts")).to_be_visible()
    context.close()


def test_it_is_accessible(page: Page, quiet_studio: RunningStudio) -> None:
    page.goto(f"{quiet_studio.url}{PAGE}")
    expect(page.get_by_role("heading", name="Engine hosts")).to_be_visible()
    assert_accessible(page)


def test_a_webhook_is_made_and_its_secret_seen(page: Page, quiet_studio: RunningStudio) -> None:
    page.goto(f"{quiet_studio.url}settings/")
    page.get_by_role("link", name="Webhooks").click()
    field = page.get_by_label("Address of a new webhook")
    field.fill("http://10.0.0.1/")
    page.get_by_role("button", name="Make a webhook").click()
    expect(page.get_by_text("Use https://: over plain HTTP")).to_be_visible()
    name = "hooks.example.org"
    field.fill(f"https://{name}/" + "a-long-path" * 20)
    page.get_by_role("button", name="Make a webhook").click()
    expect(page.locator("#new-secret")).to_be_in_viewport()
    expect(page.locator("#new-secret")).to_contain_text("whsec_")
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    assert_accessible(page)


def test_a_page_too_many_does_without_a_socket_until_another_is_closed(
    context: BrowserContext, quiet_studio: RunningStudio
) -> None:
    first, second, third = (context.new_page() for _ in range(3))
    for page in (first, second):
        with page.expect_websocket() as opened:
            page.goto(quiet_studio.url)
        opened.value.wait_for_event("framereceived")
    sockets: list[str] = []
    third.on("websocket", lambda socket: sockets.append(socket.url))
    watch(third)
    third.clock.install()
    third.goto(quiet_studio.url)
    banner = third.locator("[data-offline]")
    expect(banner).to_have_text("Many pages of yours are open. This one updates only when it is reloaded.")
    with third.expect_websocket() as again:
        third.clock.run_for(3_000)
    for _ in range(100):
        if again.value.is_closed():
            break
        third.wait_for_timeout(200)
    third.wait_for_timeout(300)
    third.clock.run_for(40_000)
    third.wait_for_timeout(300)
    assert len(sockets) == 2, "once soon, then not for a while"
    expect(banner).to_be_visible()
    expect(third.get_by_role("button", name="Generate")).to_be_visible()

    first.close()
    for _ in range(5):  # the server may hear of the end later than of the question
        third.clock.run_for(80_000)
        third.wait_for_timeout(500)
        if banner.is_hidden():
            break
    expect(banner).to_be_hidden()
    queue_a_job(quiet_studio)
    expect(third.locator(".job")).not_to_have_count(0)
    assert complaints(third) == []

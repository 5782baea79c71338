"""axe on every page in every state, light and dark, wide and narrow: no violation."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.conftest import RunningStudio
from tests.journeys.conftest import PATIENCE_MS, ask, card, wait_for_take

LOOKS = [
    pytest.param((scheme, width), id=f"{scheme}-{width}")
    for scheme in ("light", "dark")
    for width in (1280, 390)
]


@pytest.fixture(params=LOOKS)
def look(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    """A page in one scheme and width."""
    scheme, width = request.param
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce"
    )
    yield context.new_page()
    context.close()


def assert_accessible(page: Page) -> None:
    """Fail with axe's own report."""
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_an_empty_studio(look: Page, music_studio: RunningStudio) -> None:
    look.goto(f"{music_studio.url}library/?q=nothing+here")
    assert_accessible(look)
    look.goto(music_studio.url)
    assert_accessible(look)


def test_refused_and_filled(look: Page, music_studio: RunningStudio) -> None:
    look.goto(music_studio.url)
    ask(look, "a refused drone", seconds=45)
    expect(look.locator("#id_duration_seconds_error")).to_be_visible()
    look.get_by_text("Fine control").click()
    assert_accessible(look)


def test_busy_then_full(look: Page, music_studio: RunningStudio) -> None:
    look.goto(music_studio.url)
    prompt = f"busy {look.viewport_size['width'] if look.viewport_size else 0} {id(look)}"
    ask(look, prompt, seconds=20)
    running = card(look, prompt)
    expect(running).to_contain_text(re.compile(r"(0\.[1-9]|[1-9]\d*\.\d) of 20"), timeout=PATIENCE_MS)
    assert_accessible(look)
    running.get_by_role("button", name="Cancel").click()
    expect(running).to_contain_text("Cancelled", timeout=30_000)
    assert_accessible(look)
    running.get_by_role("button", name="Remove from the queue").click()
    wait_for_take(look, prompt).locator("[data-play]").click()
    expect(look.locator("[data-player]")).to_be_visible()
    assert_accessible(look)
    look.goto(f"{music_studio.url}library/")
    assert_accessible(look)
    look.goto(f"{music_studio.url}settings/")
    assert_accessible(look)

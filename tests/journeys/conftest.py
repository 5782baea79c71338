"""One running studio for each module of journeys, and what they all do with it in Chromium."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from tests.conftest import ROOT, Prepare, RunningStudio, running_studio, wait_until
from tests.slow_model import make_demo_slow
from tests.switching.servers import ask as api

#: A busy machine makes music slowly; nothing here is about speed.
PATIENCE_MS = 90_000

expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def music_studio(
    prepared: Prepare, tmp_path_factory: pytest.TempPathFactory, slow_checkpoint: Path
) -> Iterator[RunningStudio]:
    """A studio with nothing made yet and its engine. Its demo is slow enough to be watched on any machine."""
    environment = prepared(tmp_path_factory.mktemp("studio") / "home")
    make_demo_slow(environment, slow_checkpoint)
    with running_studio(environment) as running:
        yield running


@pytest.fixture
def open_page(page: Page, music_studio: RunningStudio) -> Page:
    """The studio page, with a record of every complaint the browser makes."""
    watch(page)
    page.goto(music_studio.url)
    return page


def watch(page: Page) -> list[str]:
    """Collect errors and warnings of the console; `complaints(page)` reads them."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.said = said  # type: ignore[attr-defined]
    return said


def complaints(page: Page) -> list[str]:
    """What the browser complained about, but for what is meant to be.

    It logs the status 400 of refused forms by itself, and htmx in two lines each question of a search that the next one
    replaced.
    """
    said: list[str] = []
    for line in page.said:  # type: ignore[attr-defined]
        if line.startswith("htmx:sendAbort") and said and said[-1].startswith("htmx:afterRequest"):
            said.pop()
        elif "status of 400" not in line and "Response Status Error Code 400" not in line:
            said.append(line)
    return said


def ask(page: Page, prompt: str, *, seconds: float, takes: int = 1, seed: int | None = None) -> None:
    """Fill the form and submit it."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Duration", exact=True).fill(str(seconds))
    page.get_by_label("Seed", exact=True).fill("" if seed is None else str(seed))
    page.get_by_role("spinbutton", name="Takes").fill(str(takes))
    page.locator("[data-generate]").click()


def card(page: Page, prompt: str) -> Locator:
    """The job card of that prompt."""
    return page.locator(".job").filter(has_text=prompt)


def take(page: Page, prompt: str) -> Locator:
    """The newest take of that prompt or title."""
    return page.locator(".take").filter(has_text=prompt).first


def wait_for_take(page: Page, prompt: str) -> Locator:
    """The take, once it is there."""
    row = take(page, prompt)
    expect(row).to_be_visible(timeout=PATIENCE_MS)
    return row


def percent(job_card: Locator) -> float:
    """Value of the card's bar, 0 while it has none."""
    bar = job_card.locator("progress")
    return float(bar.get_attribute("value") or 0) if bar.count() else 0.0


def wait_for(page: Page, expression: str, *, seconds: float = 20) -> None:
    """Poll a JavaScript expression. Playwright's own `wait_for_function` needs eval, which the policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"{expression} did not come true within {seconds} s"
        page.wait_for_timeout(50)


def manage(studio: RunningStudio, *arguments: str) -> Any:
    """Run a management command on the studio's home."""
    import subprocess

    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=studio.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def switch_to(studio: RunningStudio, model_id: str) -> None:
    """Make a model the active one, and wait until it is ready; by the API, which takes no process of its own."""
    if api(studio, "models")["current_model"] == model_id:
        return
    api(studio, "models/switch", {"model_id": model_id})
    wait_until(
        lambda: api(studio, "models/switch")["switch"]["stage"] in ("ready", "failed", "cancelled"),
        seconds=PATIENCE_MS / 1000,
        what=f"the switch to {model_id}",
    )
    switch = api(studio, "models/switch")["switch"]
    assert switch["stage"] == "ready", switch


def runner_of(studio: RunningStudio) -> int:
    """Process id of the studio's runner."""
    import psutil

    for child in psutil.Process(studio.process.pid).children(recursive=True):
        if "generation.engine" in " ".join(child.cmdline()):
            return int(child.pid)
    raise AssertionError("the studio has no runner")


#: Each scheme and each width once: colours depend on the one, what stands where on the other.
LOOKS: list[tuple[Literal["light", "dark"], int]] = [("dark", 390), ("light", 1280)]


def assert_accessible(page: Page) -> None:
    """Fail with axe's own report in any look; the page stays in the last one."""
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 900})
        # To describe all that it found in order takes axe as long again as to find what is not.
        results = Axe().run(page, options={"resultTypes": ["violations"]})
        assert results.violations_count == 0, f"{scheme}, {width} px: {results.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"wider than {width} px"


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Where downloads of a test go."""
    return tmp_path

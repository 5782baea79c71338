"""axe on every page in every state, light and dark, wide and narrow: no violation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.adapters import made
from tests.adapters.zips import adapter_files, zipped
from tests.conftest import ROOT, Prepare, RunningStudio, running_studio
from tests.journeys.conftest import PATIENCE_MS, ask, card, manage, wait_for_take

#: Each scheme and each width once: colours depend on the one, what stands where on the other.
LOOKS = [pytest.param(("light", 1280), id="light-1280"), pytest.param(("dark", 390), id="dark-390")]


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
    look.goto(f"{music_studio.url}adapters/")
    expect(look.get_by_text("None is here yet")).to_be_visible()
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


@pytest.fixture(scope="module")
def with_adapters(prepared: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio with an adapter for the demo model, and enough for another one that the list folds."""
    with running_studio(prepared(tmp_path_factory.mktemp("adapters") / "home")) as running:
        bring_adapters_in(running, tmp_path_factory)
        yield running


def bring_adapters_in(studio: RunningStudio, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By command, all in one process."""
    folder = tmp_path_factory.mktemp("adapters")
    demo = ROOT / "registry" / "checkpoints" / "musicgen-demo"
    recipe = replace(made.WAYS["whole"], base_name="musicgen-studio/musicgen-demo")
    paths = {"Night Trio": made.make_adapter(demo, folder / "night", recipe)}
    for number in range(2, 9):
        paths[f"Narrow {number}"] = folder / f"{number}.zip"
        paths[f"Narrow {number}"].write_bytes(zipped(adapter_files(seed=number)))
    named = {name: str(path) for name, path in paths.items()}
    code = (
        "from django.core.management import call_command\n"
        f"for name, path in {named!r}.items():\n"
        "    call_command('import_adapter', path, name=name, trigger_words='brushed drums')\n"
    )
    done = manage(studio, "shell", "-v0", "-c", code)
    assert done.returncode == 0, (done.stdout, done.stderr)


def test_adapters(look: Page, with_adapters: RunningStudio, tmp_path: Path) -> None:
    look.goto(f"{with_adapters.url}adapters/")
    assert_accessible(look)
    look.goto(f"{with_adapters.url}adapters/import/")
    assert_accessible(look)
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"no zip")
    look.set_input_files("#id_zip", bad)
    look.get_by_text("Name and details").click()
    look.get_by_role("button", name="Import").click()
    expect(look.locator("#import-error")).to_be_visible()
    assert_accessible(look)
    look.goto(f"{with_adapters.url}adapters/?q=narrow+2")
    look.locator(".adapter-link").click()
    expect(look.get_by_role("heading", name="Narrow 2 v1.0")).to_be_visible()
    assert_accessible(look)
    look.get_by_role("link", name="Edit").click()
    expect(look.get_by_role("heading", name="Edit")).to_be_visible()
    assert_accessible(look)


def test_the_form_with_adapters(look: Page, with_adapters: RunningStudio) -> None:
    look.goto(with_adapters.url)
    look.get_by_role("button", name=re.compile("Choose from")).click()
    look.get_by_label("Night Trio v1.0", exact=True).check()
    expect(look.get_by_text("Made for hidden size 16").first).to_be_visible()
    assert_accessible(look)
    locked = look.locator("[data-adapter][data-locked]").first.get_attribute("data-adapter")
    look.goto(f"{with_adapters.url}?adapter={locked}")
    expect(look.locator("[data-generate]")).to_have_attribute("aria-disabled", "true")
    assert_accessible(look)


def test_a_comparison(look: Page, with_adapters: RunningStudio) -> None:
    look.goto(f"{with_adapters.url}adapters/?q=night")
    look.locator(".adapter-link").click()
    expect(look.locator("#adapter-about")).to_contain_text("proven", timeout=PATIENCE_MS)
    look.get_by_label("Prompt", exact=True).fill("late trio")
    look.get_by_label("Duration", exact=True).fill("20")
    look.get_by_role("button", name="Make three takes").click()
    expect(look.locator(".lane progress")).to_have_count(1, timeout=PATIENCE_MS)
    assert_accessible(look)
    expect(look.locator(".take.lane")).to_have_count(3, timeout=PATIENCE_MS)
    look.get_by_role("button", name="Play Base").click()
    assert_accessible(look)
    look.get_by_role("link", name="Delete").click()
    expect(look.get_by_role("dialog", name="Delete Night Trio v1.0")).to_be_visible()
    assert_accessible(look)


def test_memory(look: Page, music_studio: RunningStudio) -> None:
    page = f"{music_studio.url}memory/"
    look.set_default_navigation_timeout(PATIENCE_MS)  # The first figures start the calculator.
    look.goto(page)
    assert_accessible(look)
    # Nobody answers for the hub here, so a model that is not built in opens the panel.
    look.get_by_label("Model", exact=True).fill("owner/unknown")
    look.get_by_role("button", name="Calculate", exact=True).click()
    expect(look.locator("[data-config-panel]")).to_be_visible(timeout=PATIENCE_MS)
    look.get_by_label("config.json", exact=True).fill('{"model_type": "llama"}')
    look.get_by_role("button", name="Save and calculate").click()
    expect(look.locator(".config-problems")).to_be_visible()
    assert_accessible(look)
    look.goto(f"{page}?action=calculate&model=musicgen-small&gpu=rtx-4090&batch_size=none")
    assert_accessible(look)
    look.goto(f"{page}?action=calculate&model=musicgen-small&gpu=rtx-3050-6gb&duration_seconds=60")
    for words in ("More options", "How this was computed", "The config", "Counted otherwise"):
        look.locator("summary").filter(has_text=words).click()
    assert_accessible(look)
    look.goto(f"{page}?action=analyse&model=musicgen-small&gpu=rtx-4060")
    assert_accessible(look)
    look.goto(f"{page}?action=compare&model=musicgen-small&model=owner/unknown&panel=off")
    assert_accessible(look)

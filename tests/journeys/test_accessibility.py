"""axe on every page in every state, light and dark, wide and narrow: no violation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.adapters import made
from tests.adapters.zips import adapter_files, zipped
from tests.conftest import ROOT, Prepare, RunningStudio, running_studio
from tests.journeys.conftest import PATIENCE_MS, ask, assert_accessible, card, manage, wait_for_take


def test_an_empty_studio(page: Page, music_studio: RunningStudio) -> None:
    page.goto(f"{music_studio.url}library/?q=nothing+here")
    assert_accessible(page)
    page.goto(f"{music_studio.url}adapters/")
    expect(page.get_by_text("None is here yet")).to_be_visible()
    assert_accessible(page)
    page.goto(music_studio.url)
    assert_accessible(page)


def test_refused_and_filled(page: Page, music_studio: RunningStudio) -> None:
    page.goto(music_studio.url)
    ask(page, "a refused drone", seconds=45)
    expect(page.locator("#id_duration_seconds_error")).to_be_visible()
    page.get_by_text("Fine control").click()
    assert_accessible(page)


def test_busy_then_full(page: Page, music_studio: RunningStudio) -> None:
    page.goto(music_studio.url)
    prompt = "busy, then full"
    ask(page, prompt, seconds=20)
    running = card(page, prompt)
    expect(running).to_contain_text(re.compile(r"(0\.[1-9]|[1-9]\d*\.\d) of 20"), timeout=PATIENCE_MS)
    assert_accessible(page)
    running.get_by_role("button", name="Cancel").click()
    expect(running).to_contain_text("Cancelled", timeout=30_000)
    assert_accessible(page)
    running.get_by_role("button", name="Remove from the queue").click()
    wait_for_take(page, prompt).locator("[data-play]").click()
    expect(page.locator("[data-player]")).to_be_visible()
    assert_accessible(page)
    page.goto(f"{music_studio.url}library/")
    assert_accessible(page)
    page.locator(".take").filter(has_text=prompt).get_by_role("link", name="Continue").click()
    expect(page.get_by_text(f"Goes on from “{prompt}” at")).to_be_visible()
    assert_accessible(page)
    page.goto(f"{music_studio.url}library/")
    page.locator(".take").filter(has_text=prompt).get_by_role("button", name="Delete").click()
    page.get_by_role("link", name="Recently deleted").click()
    restore = page.get_by_role("button", name=f"Restore {prompt}")
    expect(restore).to_be_visible()
    assert_accessible(page)
    restore.click()
    expect(page.get_by_text("Restored “")).to_be_visible()
    page.goto(f"{music_studio.url}settings/")
    assert_accessible(page)


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


def test_adapters(page: Page, with_adapters: RunningStudio, tmp_path: Path) -> None:
    page.goto(f"{with_adapters.url}adapters/")
    assert_accessible(page)
    page.goto(f"{with_adapters.url}adapters/import/")
    assert_accessible(page)
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"no zip")
    page.set_input_files("#id_zip", bad)
    page.get_by_text("Name and details").click()
    page.get_by_role("button", name="Import").click()
    expect(page.locator("#import-error")).to_be_visible()
    assert_accessible(page)
    page.goto(f"{with_adapters.url}adapters/?q=narrow+2")
    page.locator(".adapter-link").click()
    expect(page.get_by_role("heading", name="Narrow 2 v1.0")).to_be_visible()
    assert_accessible(page)
    page.get_by_role("link", name="Edit").click()
    expect(page.get_by_role("heading", name="Edit")).to_be_visible()
    assert_accessible(page)


def test_the_form_with_adapters(page: Page, with_adapters: RunningStudio) -> None:
    page.goto(with_adapters.url)
    page.get_by_role("button", name=re.compile("Choose from")).click()
    page.get_by_label("Night Trio v1.0", exact=True).check()
    expect(page.get_by_text("Made for hidden size 16").first).to_be_visible()
    assert_accessible(page)
    locked = page.locator("[data-adapter][data-locked]").first.get_attribute("data-adapter")
    page.goto(f"{with_adapters.url}?adapter={locked}")
    expect(page.locator("[data-generate]")).to_have_attribute("aria-disabled", "true")
    assert_accessible(page)


def test_a_comparison(page: Page, with_adapters: RunningStudio) -> None:
    page.goto(f"{with_adapters.url}adapters/?q=night")
    page.locator(".adapter-link").click()
    expect(page.locator("#adapter-about")).to_contain_text("proven", timeout=PATIENCE_MS)
    page.get_by_label("Prompt", exact=True).fill("late trio")
    page.get_by_label("Duration", exact=True).fill("6")
    page.get_by_role("button", name="Make three takes").click()
    expect(page.locator(".lane progress")).to_have_count(1, timeout=PATIENCE_MS)
    assert_accessible(page)
    expect(page.locator(".take.lane")).to_have_count(3, timeout=PATIENCE_MS)
    page.get_by_role("button", name="Play Base").click()
    assert_accessible(page)
    page.get_by_role("link", name="Delete").click()
    expect(page.get_by_role("dialog", name="Delete Night Trio v1.0")).to_be_visible()
    assert_accessible(page)


def test_memory(page: Page, music_studio: RunningStudio) -> None:
    address = f"{music_studio.url}memory/"
    page.set_default_navigation_timeout(PATIENCE_MS)  # The first figures start the calculator.
    page.goto(address)
    assert_accessible(page)
    # Nobody answers for the hub here, so a model that is not built in opens the panel.
    page.get_by_label("Model", exact=True).fill("owner/unknown")
    page.get_by_role("button", name="Calculate", exact=True).click()
    expect(page.locator("[data-config-panel]")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_label("config.json", exact=True).fill('{"model_type": "llama"}')
    page.get_by_role("button", name="Save and calculate").click()
    expect(page.locator(".config-problems")).to_be_visible()
    assert_accessible(page)
    page.goto(f"{address}?action=calculate&model=musicgen-small&gpu=rtx-4090&batch_size=none")
    assert_accessible(page)
    page.goto(f"{address}?action=calculate&model=musicgen-small&gpu=rtx-3050-6gb&duration_seconds=60")
    for words in ("More options", "How this was computed", "The config", "Counted otherwise"):
        page.locator("summary").filter(has_text=words).click()
    assert_accessible(page)
    page.goto(f"{address}?action=analyse&model=musicgen-small&gpu=rtx-4060")
    assert_accessible(page)
    page.goto(f"{address}?action=compare&model=musicgen-small&model=owner/unknown&panel=off")
    assert_accessible(page)

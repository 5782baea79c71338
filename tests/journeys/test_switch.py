"""Switching models while people work, in Chromium: plan, live dialog, other windows, failure, a form that follows."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.conftest import Prepare, RunningStudio, running_studio
from tests.engine.dwarf import build_dwarf, build_melody_dwarf
from tests.generation.music import tone
from tests.hub.fake_hub import FakeHub
from tests.journeys.conftest import (
    PATIENCE_MS,
    ask,
    assert_accessible,
    card,
    complaints,
    manage,
    runner_of,
    switch_to,
    wait_for,
    wait_for_take,
    watch,
)
from tests.slow_model import make_demo_slow, standing_still

DEMO = "musicgen-demo"
#: Downloads that come to their end, in seconds: long enough to look at, and to leave and come back.
DOWNLOAD_SECONDS = 6.0
#: Downloads that are only there to be cancelled. What was fetched is kept, so each test has one of its own.
ENDLESS_SECONDS = 90.0
HUB_MODELS = ["first", "second", "third", "endless", "endless-too"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dwarf checkpoint that plays."""
    return build_dwarf(tmp_path_factory.mktemp("checkpoint") / "dwarf", seed=3)


@pytest.fixture(scope="module")
def hub(checkpoint: Path) -> Iterator[FakeHub]:
    """A hub that sends a few dwarfs slowly."""
    with FakeHub({f"studio/{name}": checkpoint for name in HUB_MODELS}) as running:
        size = (checkpoint / "model.safetensors").stat().st_size
        running.slow(size / ENDLESS_SECONDS, path=r"endless.*\.safetensors")
        running.slow(size / DOWNLOAD_SECONDS, path=r"\.safetensors")
        yield running


@pytest.fixture(scope="module")
def studio(
    prepared: Prepare, tmp_path_factory: pytest.TempPathFactory, hub: FakeHub, checkpoint: Path
) -> Iterator[RunningStudio]:
    """A studio with the demo model active, and models to switch to."""
    folder = tmp_path_factory.mktemp("switching")
    environment = {**prepared(folder / "home"), **hub.environment(folder / "hub")}
    environment["MUSICGEN_MAX_EXTENDED_SECONDS"] = "musicgen-demo=0"
    with running_studio(environment) as running:
        broken = shutil.copytree(checkpoint, folder / "broken")
        weights = broken / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        melody = {"local_path": str(build_melody_dwarf(folder / "melody")), "family": "musicgen_melody"}
        add_models(
            running,
            *({"id": name} for name in HUB_MODELS),
            {"id": "local", **melody, "max_extended_seconds": 90},
            {"id": "broken", "local_path": str(broken)},
            {"id": "huge", "local_path": str(checkpoint), "vram_requirement_gb": 9000},
            {"id": "locked", "is_playable": False, "unplayable_reason": "Its codec is not a mono EnCodec."},
        )
        yield running


def add_models(studio: RunningStudio, *rows: Mapping[str, object]) -> None:
    """Add rows of models that people could have added in the admin."""
    values = [
        {
            "display_name": str(row["id"]).title(),
            "hf_model_id": f"studio/{row['id']}",
            "licence": "CC-BY-NC 4.0",
            "licence_url": "https://creativecommons.org/licenses/by-nc/4.0/",
            "max_duration_seconds": 30,
            "recommended_duration_seconds": 2,
            "vram_requirement_gb": 0.3,
            "sample_rate": 800,
            **row,
        }
        for row in rows
    ]
    code = (
        "import json; from registry.models import ModelConfig; "
        f"[ModelConfig.objects.create(**row) for row in json.loads({json.dumps(values)!r})]"
    )
    done = manage(studio, "shell", "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def demo_active(studio: RunningStudio) -> None:
    """The demo model, whatever the test before left behind."""
    switch_to(studio, DEMO)


def settings(page: Page, studio: RunningStudio) -> Page:
    """The settings page, with a record of every complaint the browser makes."""
    watch(page)
    page.goto(f"{studio.url}settings/")
    return page


@pytest.fixture
def settings_page(page: Page, studio: RunningStudio, demo_active: None) -> Page:
    """The settings page while the demo model is active."""
    return settings(page, studio)


@pytest.fixture
def other_window(browser: Browser, studio: RunningStudio, demo_active: None) -> Iterator[Page]:
    """The settings page in a window of another browser."""
    context = browser.new_context()
    yield settings(context.new_page(), studio)
    context.close()


def row(page: Page, model_id: str) -> Locator:
    """The model's row of the table."""
    return page.locator(f"#model-{model_id}")


def plan(page: Page, name: str) -> Locator:
    """Open the plan of a switch."""
    page.get_by_role("link", name=f"Switch to {name}", exact=True).click()
    dialog = page.get_by_role("dialog", name=f"Switch to {name}", exact=True)
    expect(dialog.get_by_role("heading")).to_be_visible()
    return dialog


def start(page: Page, name: str) -> Locator:
    """Open the plan, agree, and answer the status."""
    plan(page, name).get_by_role("button", name=f"Switch to {name}", exact=True).click()
    return status(page)


def status(page: Page) -> Locator:
    """How the switch is, in the dialog or on the page."""
    return page.locator("#switch-status")


def step(page: Page, label: str) -> Locator:
    """One stage of the list."""
    return page.locator("#switch-status .steps li").filter(has_text=label)


def progress(page: Page) -> float:
    """The value of the bar, 0 while it has none."""
    return float(page.evaluate("document.querySelector('#switch-status progress')?.value ?? 0"))


def has_progress(page: Page) -> None:
    """Wait until the bar has moved."""
    wait_for(page, "document.querySelector('#switch-status progress')?.value > 1", seconds=60)


def test_a_switch_shows_its_plan_then_goes_live_to_ready(settings_page: Page) -> None:
    page = settings_page
    expect(row(page, DEMO)).to_contain_text("active")
    dialog = plan(page, "First")
    expect(dialog).to_contain_text("to fetch")
    expect(dialog).to_contain_text("Both models fit")
    expect(dialog).to_contain_text("no record on this machine yet")
    expect(dialog).to_contain_text("for non-commercial use")
    expect(dialog).to_contain_text("goes on on the server if you close this page")

    dialog.get_by_role("button", name="Switch to First", exact=True).click()
    expect(page.get_by_role("dialog", name="Switching to First")).to_be_visible()
    has_progress(page)
    expect(step(page, "Download")).to_have_attribute("data-state", "now")
    expect(step(page, "Load and prove")).to_have_attribute("data-state", "to-come")
    expect(page.locator("#engine-chip")).to_contain_text("switching to First")
    before = progress(page)
    wait_for(page, f"document.querySelector('#switch-status progress')?.value > {before}")

    ready = page.get_by_role("dialog", name="First is ready")
    expect(ready).to_be_visible(timeout=PATIENCE_MS)
    expect(step(page, "Download")).to_have_attribute("data-state", "done")
    expect(step(page, "Load and prove")).to_have_attribute("data-state", "done")
    expect(page.locator("#engine-chip")).to_contain_text("First")
    ready.locator("[data-switch-dismiss]").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(status(page)).to_be_hidden()
    expect(row(page, "first")).to_contain_text("active")
    expect(row(page, DEMO).get_by_role("link", name="Switch to MusicGen Demo")).to_be_visible()
    wait_for(page, "document.activeElement !== document.body")
    page.reload()
    expect(row(page, "first")).to_contain_text("active")
    expect(status(page)).to_be_hidden()
    assert complaints(page) == []


def test_the_focus_stays_in_the_table_when_its_button_goes_away(
    settings_page: Page, studio: RunningStudio
) -> None:
    page = settings_page
    row(page, "local").get_by_role("link", name="Switch to Local", exact=True).focus()
    switch_to(studio, "local")
    expect(row(page, "local")).to_contain_text("active")
    wait_for(page, "document.activeElement.id === 'models-title'")
    assert complaints(page) == []


def test_closing_the_page_does_not_stop_the_switch(
    settings_page: Page, context: BrowserContext, studio: RunningStudio
) -> None:
    start(settings_page, "Second")
    has_progress(settings_page)
    before = progress(settings_page)
    settings_page.close()

    page = context.new_page()
    watch(page)
    page.goto(f"{studio.url}settings/")
    # On the page itself, as the server rendered it.
    panel = page.get_by_role("region", name="Switching to Second")
    expect(panel).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert progress(page) >= before > 0
    expect(page.get_by_role("region", name="Second is ready")).to_be_visible(timeout=PATIENCE_MS)
    expect(row(page, "second")).to_contain_text("active")
    page.locator("[data-switch-dismiss]").click()
    expect(status(page)).to_be_hidden()
    assert complaints(page) == []


def test_a_second_window_watches_and_may_cancel(settings_page: Page, other_window: Page) -> None:
    first, second = settings_page, other_window
    # A plan that was read before somebody else began.
    stale = plan(second, "Local")
    start(first, "Endless")
    has_progress(first)

    stale.get_by_role("button", name="Switch to Local", exact=True).click()
    expect(second.locator(".toast")).to_contain_text("A switch to Endless is under way")
    expect(second.get_by_role("dialog")).to_have_count(0)
    panel = second.get_by_role("region", name="Switching to Endless")
    expect(panel).to_be_visible()
    has_progress(second)
    newer = plan(second, "Local")
    expect(newer).to_contain_text("A switch to Endless is under way")
    expect(newer.get_by_role("button", name="Switch to Local", exact=True)).to_have_count(0)
    newer.locator("[data-dialog-close]").click()

    # The dialog may be closed without ending anything.
    first.keyboard.press("Escape")
    expect(first.get_by_role("dialog")).to_have_count(0)
    expect(first.get_by_role("region", name="Switching to Endless")).to_be_visible()
    panel.get_by_role("button", name="Cancel the switch").click()
    for page in (first, second):
        cancelled = page.get_by_role("region", name="Switch to Endless cancelled")
        expect(cancelled).to_be_visible(timeout=PATIENCE_MS)
        expect(cancelled).to_contain_text("MusicGen Demo stays active")
        expect(row(page, DEMO)).to_contain_text("active")
    assert complaints(first) == []
    assert [line for line in complaints(second) if "409" not in line] == []


def test_a_failure_says_why_and_the_old_model_still_plays(settings_page: Page, studio: RunningStudio) -> None:
    page = settings_page
    start(page, "Broken")
    failed = page.get_by_role("dialog", name="Broken was not made active")
    expect(failed).to_be_visible(timeout=PATIENCE_MS)
    expect(failed).to_contain_text("MusicGen Demo stays active.")
    expect(failed).to_contain_text("MusicGen Demo still plays")
    # Somebody who leaves the dialog finds it on the page, also later.
    page.keyboard.press("Escape")
    panel = page.get_by_role("region", name="Broken was not made active")
    expect(panel).to_be_visible()
    page.reload()
    expect(panel).to_be_visible()
    first_try = status(page).get_attribute("data-switch") or ""
    panel.get_by_role("button", name="Try again").click()
    expect(status(page)).not_to_have_attribute("data-switch", first_try)
    expect(panel).to_be_visible(timeout=PATIENCE_MS)
    panel.get_by_role("button", name="Close").click()
    expect(status(page)).to_be_hidden()
    page.reload()
    expect(row(page, DEMO)).to_contain_text("active")
    expect(status(page)).to_be_hidden()

    page.goto(studio.url)
    ask(page, "after a failed switch", seconds=1)
    expect(wait_for_take(page, "after a failed switch")).to_contain_text("MusicGen Demo")
    assert complaints(page) == []


def test_an_open_form_follows_the_model_and_keeps_what_was_typed(
    page: Page, studio: RunningStudio, tmp_path: Path
) -> None:
    switch_to(studio, "local")
    watch(page)
    page.goto(studio.url)
    duration = page.get_by_label("Duration", exact=True)
    slider = page.get_by_label("Duration, slider")
    hint = page.locator("#id_duration_seconds_hint")
    note = page.locator("[data-duration-note]")
    longer = page.locator("[data-extend-line]")
    expect(hint).to_contain_text("Local · up to 30")
    expect(longer).to_have_text("Longer than 30\u202fs, in overlapping windows: up to 1\u202fmin 30\u202fs")
    expect(slider).to_have_attribute("max", "30")
    page.get_by_label("Prompt", exact=True).fill("kept through a switch")
    page.get_by_label("Seed", exact=True).fill("77")
    duration.fill("27")
    duration.blur()
    # Of melody models alone.
    page.locator("#id_melody").set_input_files(tone(tmp_path / "hummed.wav"))
    melody = page.locator("#id_melody_chosen")
    expect(melody).to_have_text("Follows the melody of “hummed”")
    expect(page.get_by_role("button", name="Remove", exact=True)).to_be_focused()
    sent = "new FormData(document.getElementById('studio-form')).has('melody_clip')"
    assert page.evaluate(sent)
    page.evaluate("document.getElementById('studio-form').dataset.witness = 'same form'")

    switch_to(studio, DEMO)
    expect(hint).to_contain_text("MusicGen Demo · up to 20")
    expect(longer).to_be_hidden()
    expect(duration).to_have_value("20")
    expect(melody).to_be_hidden()
    assert not page.evaluate(sent)
    expect(note).to_have_text("Shortened to 20\u202fs, the limit of MusicGen Demo.")
    expect(page.get_by_text("Close to the limit")).to_be_hidden()
    expect(slider).to_have_attribute("max", "20")
    expect(slider).to_have_js_property("value", "20")
    expect(page.get_by_text("Music from this model: Apache-2.0")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("kept through a switch")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("77")
    assert page.evaluate("document.getElementById('studio-form').dataset.witness") == "same form"

    # Back where there is room, the wish counts again; what somebody typed since counts more.
    switch_to(studio, "local")
    expect(duration).to_have_value("27")
    expect(melody).to_be_visible()
    assert page.evaluate(sent)
    expect(note).to_be_hidden()
    expect(page.get_by_text("Music from this model: CC-BY-NC 4.0")).to_be_visible()
    duration.fill("25")
    # Under somebody's fingers nothing is changed until they leave the field.
    switch_to(studio, DEMO)
    expect(page.get_by_text("Over the limit of 20")).to_be_visible()
    expect(duration).to_have_value("25")
    duration.blur()
    expect(duration).to_have_value("20")
    duration.fill("3")
    expect(note).to_be_hidden()
    switch_to(studio, "local")
    expect(hint).to_contain_text("Local · up to 30")
    expect(duration).to_have_value("3")
    page.locator("[data-generate]").click()
    expect(wait_for_take(page, "kept through a switch")).to_contain_text("Local")
    assert complaints(page) == []


def test_a_model_too_large_is_shown_and_warned_of(settings_page: Page) -> None:
    page = settings_page
    expect(row(page, "huge")).to_contain_text("does not fit")
    expect(row(page, "local")).to_contain_text("fits")
    dialog = plan(page, "Huge")
    expect(dialog).to_contain_text("It needs more memory than is available here")
    expect(dialog).to_contain_text("about 9000 GB of".replace(" GB", "\u202fGB"))
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    # A locked model says why, and has nothing to press.
    locked = row(page, "locked")
    expect(locked).to_contain_text("Its codec is not a mono EnCodec.")
    expect(locked.get_by_role("link", name="Switch")).to_have_count(0)


def test_the_active_model_is_reloaded(settings_page: Page) -> None:
    page = settings_page
    page.get_by_role("link", name="Reload MusicGen Demo").click()
    dialog = page.get_by_role("dialog", name="Reload MusicGen Demo")
    dialog.get_by_role("button", name="Reload", exact=True).click()
    expect(page.get_by_role("dialog", name="MusicGen Demo is ready")).to_be_visible(timeout=PATIENCE_MS)
    assert complaints(page) == []


def test_memory_and_disk_are_given_back(settings_page: Page, studio: RunningStudio) -> None:
    page = settings_page
    start(page, "Third")
    expect(page.get_by_role("dialog", name="Third is ready")).to_be_visible(timeout=PATIENCE_MS)
    switch_to(studio, DEMO)
    page.goto(f"{studio.url}settings/")
    expect(page.locator("#runner-third")).to_contain_text("ends in")
    expect(page.locator("#runner-musicgen-demo")).to_contain_text("stays loaded")
    page.get_by_role("button", name="Free memory now").click()
    expect(page.locator(".toast")).to_be_visible()
    expect(page.locator("#runner-third")).to_have_count(0, timeout=30_000)

    page.get_by_label("Remove Third from disk").click()
    remove = row(page, "third").get_by_role("button", name=re.compile("Remove and free"))
    expect(row(page, "third")).to_contain_text("Frees")
    remove.click()
    expect(page.locator(".toast").filter(has_text="Removed Third")).to_be_visible()
    expect(row(page, "third")).to_contain_text("not installed")
    assert complaints(page) == []


def test_it_works_with_scripts_off(browser: Browser, studio: RunningStudio, demo_active: None) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{studio.url}settings/")
    page.get_by_role("link", name="Switch to Local", exact=True).click()
    expect(page.get_by_role("heading", name="Switch to Local")).to_be_visible()
    page.get_by_role("button", name="Switch to Local").click()
    assert page.url.endswith("/settings/")
    for _ in range(60):
        if "active" in row(page, "local").inner_text():
            break
        page.wait_for_timeout(500)
        page.reload()
    expect(row(page, "local")).to_contain_text("active")
    context.close()


def test_where_both_do_not_fit_the_switch_waits_for_the_running_job(
    page: Page,
    browser: Browser,
    prepared_environment: dict[str, str],
    checkpoint: Path,
    slow_checkpoint: Path,
) -> None:
    environment = {**prepared_environment, "MUSICGEN_MEMORY_GB": "1.2"}
    make_demo_slow(environment, slow_checkpoint)
    with running_studio(environment) as small:
        add_models(small, {"id": "local", "local_path": str(checkpoint), "vram_requirement_gb": 1})
        watch(page)
        page.goto(small.url)
        ask(page, "first the music", seconds=5)
        expect(card(page, "first the music")).to_contain_text(re.compile(r"\d\.\d of 5"), timeout=PATIENCE_MS)
        other = browser.new_context().new_page()
        with standing_still(runner_of(small)):
            settings(other, small)
            expect(other.get_by_text("simulated")).to_be_visible()
            dialog = plan(other, "Local")
            expect(dialog).to_contain_text("Both models do not fit at once")
            expect(dialog).to_contain_text("the one being made finishes first")
            dialog.get_by_role("button", name="Switch to Local", exact=True).click()
            expect(step(other, "Wait for jobs")).to_have_attribute("data-state", "now", timeout=30_000)
            expect(page.locator("#engine-chip")).to_contain_text("switching to Local")
            expect(page.locator("[data-reasons]")).to_contain_text("The model is being switched")
        row_of_take = wait_for_take(page, "first the music")
        expect(row_of_take).not_to_contain_text("partial")
        expect(other.get_by_role("dialog", name="Local is ready")).to_be_visible(timeout=PATIENCE_MS)
        expect(page.locator("#engine-chip")).to_contain_text("Local")
        assert complaints(page) == []
        assert complaints(other) == []
        other.context.close()


def test_every_state_is_accessible(settings_page: Page) -> None:
    page = settings_page
    name = "Endless-Too"
    assert_accessible(page)
    dialog = plan(page, name)
    assert_accessible(page)
    dialog.get_by_role("button", name=f"Switch to {name}", exact=True).click()
    has_progress(page)
    assert_accessible(page)
    page.keyboard.press("Escape")
    assert_accessible(page)
    status(page).get_by_role("button", name="Cancel the switch").click()
    expect(page.get_by_role("region", name=f"Switch to {name} cancelled")).to_be_visible(timeout=PATIENCE_MS)
    start(page, "Broken")
    expect(page.get_by_role("dialog", name="Broken was not made active")).to_be_visible(timeout=PATIENCE_MS)
    assert_accessible(page)

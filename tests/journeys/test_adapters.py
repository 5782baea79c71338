"""Adapters in Chromium: bring one in, see why another is locked, switch and use it, hear what it does."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.adapters import made
from tests.conftest import ROOT, Prepare, RunningStudio, running_studio
from tests.engine.dwarf import build_dwarf
from tests.journeys.conftest import (
    PATIENCE_MS,
    ask,
    complaints,
    manage,
    switch_to,
    wait_for,
    wait_for_take,
    watch,
)

DEMO = "musicgen-demo"


@pytest.fixture(scope="module")
def made_adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dwarf checkpoint, and real adapters for the demo model and for the dwarf, as folders and zips."""
    folder = tmp_path_factory.mktemp("adapters")
    dwarf = build_dwarf(folder / "dwarf", seed=3)
    demo = ROOT / "registry" / "checkpoints" / DEMO
    for name, checkpoint, base in (
        ("jazz", demo, "musicgen-studio/musicgen-demo"),
        ("brass", dwarf, "studio/local"),
    ):
        made.make_adapter(checkpoint, folder / name, replace(made.WAYS["whole"], base_name=base))
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for path in sorted((folder / name).iterdir()):
                archive.write(path, f"{name}/{path.name}")
    return folder


@pytest.fixture(scope="module")
def studio(
    prepared: Prepare, tmp_path_factory: pytest.TempPathFactory, made_adapters: Path
) -> Iterator[RunningStudio]:
    """A studio with the demo model active, a dwarf to switch to, and no adapter yet."""
    with running_studio(prepared(tmp_path_factory.mktemp("studio") / "home")) as running:
        model = {
            "id": "local",
            "display_name": "Local",
            "hf_model_id": "studio/local",
            "local_path": str(made_adapters / "dwarf"),
            "max_duration_seconds": 30,
            "recommended_duration_seconds": 2,
            "vram_requirement_gb": 0.3,
            "sample_rate": 800,
        }
        code = (
            "import json; from pathlib import Path; from registry.models import ModelConfig;"
            "from registry.services import note_architecture;"
            f"model = ModelConfig.objects.create(**json.loads({json.dumps(model)!r}));"
            "note_architecture(model, Path(model.local_path))"
        )
        done = manage(running, "shell", "-c", code)
        assert done.returncode == 0, done.stderr
        yield running


@pytest.fixture(scope="module")
def filled(studio: RunningStudio, made_adapters: Path) -> RunningStudio:
    """The studio with both adapters."""
    code = (
        "from django.core.management import call_command\n"
        "for name in ('jazz', 'brass'):\n"
        f"    call_command('import_adapter', f'{made_adapters}/{{name}}', name=f'{{name.title()}} Trio')\n"
    )
    done = manage(studio, "shell", "-v0", "-c", code)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return studio


@pytest.fixture
def demo_active(studio: RunningStudio) -> None:
    """The demo model, whatever the test before left behind."""
    switch_to(studio, DEMO)


def choice(page: Page, name: str) -> Locator:
    """The row of that adapter in the studio's form."""
    return page.locator(".adapter-row").filter(has_text=name)


def box(page: Page, name: str) -> Locator:
    """Its check box."""
    return choice(page, name).get_by_role("checkbox")


def open_adapter(page: Page, studio: RunningStudio, name: str) -> None:
    """The page of that adapter, from the list."""
    page.goto(f"{studio.url}adapters/")
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()


def test_an_adapter_is_imported_by_zip_and_proven(
    page: Page, studio: RunningStudio, made_adapters: Path, tmp_path: Path
) -> None:
    watch(page)
    page.goto(studio.url)
    expect(page.locator("#adapter-choices")).to_contain_text("Import an adapter")
    page.get_by_role("link", name="Adapters", exact=True).click()
    expect(page.get_by_text("None is here yet")).to_be_visible()
    page.get_by_role("link", name="Import an adapter").click()
    expect(page.get_by_role("heading", name="Import an adapter")).to_be_visible()

    # What is no adapter is refused in place, and nothing that was typed is lost.
    bad = tmp_path / "photos.zip"
    bad.write_bytes(b"this is no zip at all")
    page.set_input_files("#id_zip", bad)
    page.get_by_text("Name and details").click()
    page.get_by_label("Name", exact=True).fill("Night Trio")
    page.get_by_label("Words that bring it out").fill("brushed drums")
    page.get_by_role("button", name="Import").click()
    expect(page.locator("#import-error")).to_contain_text("not a zip")
    expect(page.locator("#import-error")).to_be_focused()
    expect(page.get_by_label("Name", exact=True)).to_have_value("Night Trio")
    expect(page.locator("[data-import-chosen]")).to_contain_text("photos.zip")

    # A slow upload tells how far it is.
    large = tmp_path / "jazz.zip"
    shutil.copy(made_adapters / "jazz.zip", large)
    with zipfile.ZipFile(large, "a") as archive:
        archive.writestr("jazz/notes.txt", os.urandom(3_000_000).hex()[:3_000_000])
    page.set_input_files("#id_zip", large)
    expect(page.locator("#import-error")).to_be_hidden()
    network = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 600_000}
    network.send("Network.emulateNetworkConditions", slow)
    page.get_by_role("button", name="Import").click()
    expect(page.locator("[data-import-line]")).to_contain_text(re.compile(r"Uploading · .* of .*MB · \d+%"))
    assert 0 < page.locator("[data-import-progress] progress").evaluate("bar => bar.position") < 1
    expect(page.get_by_role("heading", name="Night Trio v1.0", level=1)).to_be_visible(timeout=PATIENCE_MS)
    network.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    expect(page.get_by_text("Imported Night Trio v1.0.")).to_be_visible()

    # The proof comes in by itself.
    about = page.locator("#adapter-about")
    expect(about).to_contain_text("proven", timeout=PATIENCE_MS)
    expect(about).to_contain_text(re.compile(r"(\d+) of \1 tensors matched"))
    expect(about).to_contain_text("mean logit change at strength 1, none at 0")
    page.get_by_role("link", name="Use in the studio").click()
    expect(box(page, "Night Trio v1.0")).to_be_checked()
    expect(page.locator("#adapter-none")).not_to_be_checked()
    assert complaints(page) == []


def test_a_dropped_file_is_taken(page: Page, studio: RunningStudio, made_adapters: Path) -> None:
    watch(page)
    page.goto(f"{studio.url}adapters/import/")
    content = list((made_adapters / "jazz.zip").read_bytes())
    dropped = page.evaluate_handle(
        """(content) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(content)], "dropped.zip", { type: "application/zip" }));
            return files;
        }""",
        content,
    )
    # Beside the field: the whole page takes it.
    page.dispatch_event("h1", "dragover", {"dataTransfer": dropped})
    expect(page.locator("[data-import-drop]")).to_have_attribute("data-over", "")
    page.dispatch_event("h1", "drop", {"dataTransfer": dropped})
    expect(page.locator("[data-import-chosen]")).to_contain_text("dropped.zip")
    page.get_by_role("button", name="Import").click()
    # The same content is here already, and that is said.
    expect(page.get_by_text("This adapter was here already")).to_be_visible(timeout=PATIENCE_MS)
    assert complaints(page) == []


def test_a_locked_adapter_says_why_and_a_chosen_one_is_kept(
    page: Page, filled: RunningStudio, demo_active: None
) -> None:
    watch(page)
    page.goto(filled.url)
    expect(box(page, "Brass Trio v1.0")).to_be_disabled()
    expect(choice(page, "Brass Trio v1.0")).to_contain_text("Requires Local")
    expect(page.get_by_text("Some adapters need another model.")).to_be_visible()
    expect(page.locator("#adapter-none")).to_be_checked()
    rows = page.locator("#adapter-list .adapter-row").all_inner_texts()
    assert rows[0].strip() == "None"
    assert "Brass" in rows[-1], "the locked ones come last"

    # By keyboard: choose, change the strength, make a take.
    box(page, "Jazz Trio v1.0").focus()
    page.keyboard.press("Space")
    expect(page.locator("#adapter-none")).not_to_be_checked()
    strength = page.get_by_role("spinbutton", name="Strength of Jazz Trio v1.0")
    slider = page.get_by_label("Strength of Jazz Trio v1.0, slider")
    expect(slider).to_have_value("1")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(strength).to_have_value("0.95")
    strength.fill("0.4")
    expect(slider).to_have_value("0.4")
    ask(page, "a trio at night", seconds=1)
    expect(wait_for_take(page, "a trio at night")).to_contain_text("Jazz Trio v1.0 0.4")
    expect(strength).to_have_value("0.4")

    # Another model becomes active: what no longer fits is kept, counted, and the button says why it cannot start.
    switch_to(filled, "local")
    expect(choice(page, "Jazz Trio v1.0")).to_contain_text("Requires MusicGen Demo")
    expect(box(page, "Jazz Trio v1.0")).to_be_checked()
    expect(box(page, "Brass Trio v1.0")).to_be_enabled()
    reasons = page.locator("[data-reasons]")
    expect(reasons).to_contain_text("Jazz Trio v1.0 requires MusicGen Demo.")
    expect(page.locator("[data-generate]")).to_have_attribute("aria-disabled", "true")
    before = page.locator(".take, .job").count()
    page.locator("[data-generate]").click(force=True)
    expect(box(page, "Jazz Trio v1.0")).to_be_focused()
    assert page.locator(".take, .job").count() == before
    box(page, "Brass Trio v1.0").check()
    expect(reasons).to_contain_text("1 of 2 chosen adapters does not work with Local")
    # Back, it is as it was.
    switch_to(filled, DEMO)
    expect(choice(page, "Brass Trio v1.0")).to_contain_text("Requires Local")
    expect(strength).to_have_value("0.4")
    box(page, "Brass Trio v1.0").uncheck()
    expect(box(page, "Brass Trio v1.0")).to_be_disabled()
    expect(page.locator("[data-generate]")).not_to_have_attribute("aria-disabled", "true")
    page.locator("#adapter-none").check()
    expect(box(page, "Jazz Trio v1.0")).not_to_be_checked()
    assert complaints(page) == []


def test_switch_and_use_goes_on_with_the_form(page: Page, filled: RunningStudio, demo_active: None) -> None:
    watch(page)
    page.goto(filled.url)
    page.get_by_label("Prompt", exact=True).fill("kept through the switch")
    page.get_by_label("Duration", exact=True).fill("1.5")
    page.get_by_label("Seed", exact=True).fill("77")
    page.evaluate("document.getElementById('studio-form').dataset.witness = 'same form'")
    choice(page, "Brass Trio v1.0").get_by_role("link", name="Switch to Local and use").click()
    dialog = page.get_by_role("dialog", name="Switch to Local and use Brass Trio v1.0")
    expect(dialog).to_contain_text("Then the form goes on as it is")
    # Leaving the plan chooses nothing.
    dialog.get_by_role("button", name="Cancel").click()
    expect(box(page, "Brass Trio v1.0")).to_be_disabled()

    choice(page, "Brass Trio v1.0").get_by_role("link", name="Switch to Local and use").click()
    dialog.get_by_role("button", name="Switch and use").click()
    expect(box(page, "Brass Trio v1.0")).to_be_checked()
    expect(page.locator("#engine-chip")).to_contain_text("Local", timeout=PATIENCE_MS)
    expect(choice(page, "Brass Trio v1.0")).not_to_have_attribute("data-locked", "", timeout=PATIENCE_MS)
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(box(page, "Brass Trio v1.0")).to_be_checked()
    expect(box(page, "Brass Trio v1.0")).to_be_focused()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("kept through the switch")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("77")
    expect(page.get_by_label("Duration", exact=True)).to_have_value("1.5")
    assert page.evaluate("document.getElementById('studio-form').dataset.witness") == "same form"
    page.locator("[data-generate]").click()
    row = wait_for_take(page, "kept through the switch")
    expect(row).to_contain_text("Local")
    expect(row).to_contain_text("Brass Trio v1.0 1")
    assert complaints(page) == []


def test_an_adapter_is_compared_by_ear(page: Page, filled: RunningStudio, demo_active: None) -> None:
    watch(page)
    open_adapter(page, filled, "Jazz Trio v1.0")
    page.get_by_label("Prompt", exact=True).fill("late trio, slow")
    page.get_by_label("Duration", exact=True).fill("5")
    page.get_by_label("Seed", exact=True).fill("5")
    page.get_by_role("button", name="Make three takes").click()
    lanes = page.locator(".lane")
    expect(lanes).to_have_count(3)
    expect(page.locator(".lane progress")).to_have_count(1, timeout=PATIENCE_MS)
    expect(page).to_have_url(re.compile(r"/adapters/\d+/try/\d+/$"))

    # Its address survives a reload in the middle.
    page.reload()
    expect(page.get_by_role("heading", name="late trio, slow")).to_be_visible()
    takes = page.locator(".take.lane")
    expect(takes).to_have_count(3, timeout=PATIENCE_MS)
    expect(page.locator(".lane-name")).to_have_text(["1Base", "2Strength 0.5", "3Strength 1.0"])
    shapes = takes.locator("svg path").evaluate_all("paths => paths.map((path) => path.getAttribute('d'))")
    assert len(set(shapes)) == 3, "the adapter changes the music, more at 1.0 than at 0.5"
    gains = [float(lane.get_attribute("data-gain-db") or "nan") for lane in takes.all()]
    assert max(gains) == 0, gains
    assert all(gain <= 0 for gain in gains), gains

    takes.nth(0).get_by_role("button", name="Play Base").click()
    wait_for(page, "document.querySelector('audio').currentTime > 1")
    takes.nth(2).get_by_role("button", name="Play Strength 1.0").click()
    # The music goes on where it was, in one player, at the level of this take.
    assert page.evaluate("document.querySelector('audio').currentTime") > 0.9
    assert page.locator(".take[data-playing]").count() == 1
    expect(takes.nth(2)).to_have_attribute("data-playing", "")
    volume = page.evaluate("document.querySelector('audio').volume")
    assert abs(volume - 10 ** (gains[2] / 20)) < 0.001
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("k")
    before = page.evaluate("document.querySelector('audio').currentTime")
    page.keyboard.press("2")
    expect(takes.nth(1)).to_have_attribute("data-current", "")
    assert abs(page.evaluate("document.querySelector('audio').currentTime") - before) < 0.5
    assert page.evaluate("document.querySelector('audio').error") is None
    assert complaints(page) == []


def test_sixty_adapters_stay_calm(page: Page, filled: RunningStudio, demo_active: None) -> None:
    code = (
        "from adapters.models import Adapter; import hashlib\n"
        "first = Adapter.objects.get(name='Brass Trio')\n"
        "for number in range(60):\n"
        "    first.pk, first.name = None, f'Style {number:02}'\n"
        "    first.sha256 = hashlib.sha256(first.name.encode()).hexdigest()\n"
        "    first.save(force_insert=True)\n"
    )
    done = manage(filled, "shell", "-c", code)
    assert done.returncode == 0, done.stderr
    try:
        watch(page)
        page.goto(filled.url)
        shown = page.locator(".adapter-row:visible")
        expect(shown).to_have_count(1)
        expect(shown).to_have_text(re.compile("None"))
        page.get_by_role("button", name=re.compile(r"Choose from \d+")).click()
        expect(page.get_by_label("Find an adapter")).to_be_focused()
        page.keyboard.type("style 4")
        expect(shown).to_have_count(10)
        page.get_by_label("Find an adapter").fill("jazz")
        # Enter goes to what was found and does not start a take.
        page.keyboard.press("Enter")
        expect(box(page, "Jazz Trio v1.0")).to_be_focused()
        page.keyboard.press("Space")
        page.get_by_role("button", name="Done").click()
        expect(shown).to_have_count(1)
        expect(shown).to_contain_text("Jazz Trio v1.0")

        page.goto(f"{filled.url}adapters/")
        page.get_by_label("Search names, words and descriptions").fill("style 07")
        expect(page.locator(".adapters-table tbody tr")).to_have_count(1)
        page.get_by_label("Search names, words and descriptions").fill("")
        page.get_by_label("Which adapters").select_option("Work with MusicGen Demo")
        expect(page.get_by_role("link", name="Jazz Trio v1.0")).to_be_visible()
        expect(page.get_by_role("link", name="Style 07 v1.0")).to_have_count(0)
        assert complaints(page) == []
    finally:
        with closing(sqlite3.connect(filled.home / "studio.sqlite3", timeout=30)) as database, database:
            database.execute("DELETE FROM adapters_adapter WHERE name LIKE 'Style %'")


def test_an_adapter_is_edited_and_deleted(
    page: Page, filled: RunningStudio, made_adapters: Path, demo_active: None
) -> None:
    done = manage(filled, "import_adapter", str(made_adapters / "jazz"), "--name", "Short Lived")
    assert done.returncode == 0, done.stderr
    watch(page)
    open_adapter(page, filled, "Short Lived v1.0")
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Name", exact=True).fill("Brass Trio")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("There is another adapter called 'Brass Trio v1.0'.")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("Renamed")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="Renamed v1.0", level=1)).to_be_visible()

    page.get_by_role("link", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete Renamed v1.0")
    expect(dialog).to_contain_text("Its weights stay on disk, because")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("link", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Deleted Renamed v1.0.")).to_be_visible()
    expect(page.get_by_role("heading", name="Adapters", level=1)).to_be_visible()
    expect(page.get_by_role("link", name="Renamed v1.0")).to_have_count(0)
    assert complaints(page) == []


def test_it_works_with_scripts_off(browser: Browser, filled: RunningStudio, demo_active: None) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(filled.url)
    page.get_by_label("Prompt", exact=True).fill("without scripts")
    page.get_by_label("Duration", exact=True).fill("1")
    choice(page, "Brass Trio v1.0").get_by_role("button", name="Switch to Local and use").click()
    expect(page.get_by_role("heading", name="Switch to Local and use Brass Trio v1.0")).to_be_visible()
    page.get_by_role("button", name="Switch and use").click()
    for _ in range(60):
        if choice(page, "Brass Trio v1.0").get_attribute("data-locked") is None:
            break
        page.wait_for_timeout(500)
        page.reload()
    expect(box(page, "Brass Trio v1.0")).to_be_checked()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("without scripts")
    page.get_by_role("spinbutton", name="Strength of Brass Trio v1.0").fill("0.5")
    page.get_by_role("button", name="Generate").click()
    for _ in range(PATIENCE_MS // 500):
        if page.locator(".take").filter(has_text="without scripts").count():
            break
        page.wait_for_timeout(500)
        page.goto(filled.url)
    expect(page.locator(".take").filter(has_text="without scripts")).to_contain_text("Brass Trio v1.0 0.5")
    context.close()

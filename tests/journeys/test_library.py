"""Takes found again: search, marks, names, deletion with undo, downloads, settings used again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from playwright.sync_api import Page, expect

from generation.audio_files import read_recipe
from tests.conftest import Prepare, RunningStudio, running_studio
from tests.journeys.conftest import complaints, take, watch
from tests.switching.servers import ask, until_finished

PROMPTS = ["slow piano at night", "fast drums and bass", "warm strings, slow and wide"]


@pytest.fixture(scope="module")
def filled_studio(prepared: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio with three takes in its library. Nothing is watched while it is made, so its model is a quick one."""
    with running_studio(prepared(tmp_path_factory.mktemp("library") / "home")) as studio:
        wanted = {"duration_seconds": 1, "temperature": 0.9, "top_k": 100}
        for number, prompt in enumerate(PROMPTS):
            job = ask(studio, "generations", {"prompt": prompt, "seed": 70 + number, **wanted})
            until_finished(studio, job["id"], "musicgen-demo")
        yield studio


@pytest.fixture
def library(page: Page, filled_studio: RunningStudio) -> Page:
    """The library page."""
    watch(page)
    page.goto(f"{filled_studio.url}library/")
    return page


def test_search_finds_words_in_any_order(library: Page) -> None:
    page = library
    expect(page.locator(".take")).to_have_count(3)
    page.get_by_label("Search prompts and titles").fill("wide SLOW")
    expect(page.locator(".take")).to_have_count(1)
    expect(take(page, "warm strings")).to_be_visible()
    assert "q=wide" in page.url
    page.reload()
    expect(page.locator(".take")).to_have_count(1)
    page.get_by_label("Search prompts and titles").fill("nothing like it")
    expect(page.get_by_text("No take matches")).to_be_visible()
    assert complaints(page) == []


def test_favourites_stay_and_filter(library: Page) -> None:
    page = library
    row = take(page, "fast drums")
    row.hover()
    row.get_by_role("button", name="Favourite").click()
    expect(row.get_by_role("button", name="Favourite")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Favourites only").check()
    expect(page.locator(".take")).to_have_count(1)
    page.reload()
    row = take(page, "fast drums")
    row.hover()
    row.get_by_role("button", name="Favourite").click()
    expect(row.get_by_role("button", name="Favourite")).to_have_attribute("aria-pressed", "false")
    assert complaints(page) == []


def test_rename_is_kept_and_searchable(library: Page) -> None:
    page = library
    row = take(page, "slow piano at night")
    row.hover()
    row.get_by_label("Rename").click()
    row.get_by_label("Title").fill('Nocturne <b>"one"</b>')
    row.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name='Nocturne <b>"one"</b>')).to_be_visible()
    page.reload()
    page.get_by_label("Search prompts and titles").fill("nocturne")
    expect(page.locator(".take")).to_have_count(1)
    assert complaints(page) == []


def test_delete_can_be_undone(library: Page) -> None:
    page = library
    row = take(page, "warm strings")
    row.hover()
    row.get_by_role("button", name="Delete").click()
    expect(page.locator(".take").filter(has_text="warm strings")).to_have_count(0)
    expect(page.locator(".toast")).to_contain_text("Deleted")
    page.locator(".toast").get_by_role("button", name="Undo").click()
    expect(page.locator(".take").filter(has_text="warm strings")).to_have_count(1)
    page.reload()
    expect(page.locator(".take").filter(has_text="warm strings")).to_have_count(1)
    assert complaints(page) == []


@pytest.mark.parametrize(
    ("label", "kind"), [("WAV", "WAV"), ("FLAC", "FLAC"), ("OGG", "OGG"), ("MP3", "MP3")]
)
def test_download_carries_the_recipe(library: Page, downloads: Path, label: str, kind: str) -> None:
    page = library
    row = take(page, "fast drums")
    row.hover()
    row.get_by_label("Download").first.click()
    with page.expect_download() as started:
        row.get_by_role("link", name=re.compile(f"^{label}")).click()
    name = started.value.suggested_filename
    assert re.fullmatch(rf"fast-drums-and-bass-\d+\.{label.lower()}", name)
    started.value.save_as(downloads / name)
    assert soundfile.info(downloads / name).format == kind
    recipe = read_recipe(downloads / name)
    assert (recipe["prompt"], recipe["seed"], recipe["top_k"]) == ("fast drums and bass", 71, 100)


def test_settings_are_used_again(library: Page) -> None:
    page = library
    row = take(page, "fast drums")
    row.hover()
    row.get_by_label("Use these settings again").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("fast drums and bass")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("71")
    expect(page.get_by_label("Duration", exact=True)).to_have_value("1")
    page.get_by_text("Fine control").click()
    expect(page.get_by_label("Temperature", exact=True)).to_have_value("0.9")
    expect(page.get_by_label("Top-k", exact=True)).to_have_value("100")
    assert complaints(page) == []

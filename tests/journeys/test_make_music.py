"""From an empty studio to music: generate, watch, hear, cancel, come back, with a real engine in real Chromium."""

from __future__ import annotations

import base64
import os
import re
import signal
import time
from pathlib import Path

import soundfile
from playwright.sync_api import Browser, Page, Route, expect

from generation.audio_files import read_recipe
from tests.conftest import RunningStudio
from tests.generation.music import tone
from tests.journeys.conftest import (
    PATIENCE_MS,
    ask,
    assert_accessible,
    card,
    complaints,
    manage,
    percent,
    runner_of,
    take,
    wait_for,
    wait_for_take,
    watch,
)
from tests.slow_model import standing_still


def test_first_take_is_made_and_plays(open_page: Page) -> None:
    page = open_page
    expect(page.get_by_text("Nothing made yet")).to_be_visible()
    ask(page, "slow piano in the rain", seconds=5, seed=11)
    running = card(page, "slow piano in the rain")
    expect(running).to_be_visible()
    expect(running).to_contain_text(re.compile(r"\d\.\d of 5\s*s"), timeout=PATIENCE_MS)
    row = wait_for_take(page, "slow piano in the rain")
    expect(running).to_have_count(0)
    # The form is as it was, for the next variation of the idea.
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("slow piano in the rain")
    assert row.locator("svg path").first.get_attribute("d")

    row.get_by_role("button", name="Play").click()
    wait_for(page, "document.querySelector('audio').currentTime > 0.4")
    assert page.evaluate("document.querySelector('audio').error") is None
    assert abs(page.evaluate("document.querySelector('audio').duration") - 5.0) < 0.001
    # Seeking needs ranges.
    page.evaluate("document.querySelector('audio').currentTime = 4")
    wait_for(page, "document.querySelector('audio').currentTime >= 4")
    assert complaints(page) == []


def test_music_goes_on_across_pages(open_page: Page) -> None:
    page = open_page
    ask(page, "slow piano across pages", seconds=1)
    row = wait_for_take(page, "slow piano across pages")
    row.get_by_role("button", name="Play").click()
    page.locator("[data-player-loop]").click()
    wait_for(page, "!document.querySelector('audio').paused")
    page.evaluate("document.querySelector('audio').dataset.witness = 'same element'")
    page.get_by_role("link", name="Library", exact=True).click()
    expect(page.get_by_role("heading", name="Library", level=1)).to_be_visible()
    assert page.url.endswith("/library/")
    assert page.evaluate("document.querySelector('audio').dataset.witness") == "same element"
    assert page.evaluate("document.querySelector('audio').paused") is False
    page.go_back()
    expect(page.get_by_label("Prompt", exact=True)).to_be_visible()
    assert page.evaluate("document.querySelector('audio').dataset.witness") == "same element"
    assert page.evaluate("document.querySelector('audio').paused") is False
    page.locator("[data-player-toggle]").click()
    wait_for(page, "document.querySelector('audio').paused")
    # After going back the page is alive: a job shows its progress.
    ask(page, "after going back", seconds=1)
    wait_for_take(page, "after going back")
    assert complaints(page) == []


#: How loud the live sound is right now, and everything that the page ever sent to the sound card.
TAP_THE_SOUND = """
(() => {
  window.taps = [];
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target === this.context.destination) {
      const tap = new AnalyserNode(this.context);
      connect.call(this, tap);
      window.taps.push(tap);
    }
    return connect.call(this, target, ...rest);
  };
  window.loudness = () => Math.max(0, ...window.taps.map((tap) => {
    const samples = new Float32Array(tap.fftSize);
    tap.getFloatTimeDomainData(samples);
    return Math.max(...samples.map(Math.abs));
  }));
})()
"""


def test_a_take_is_heard_while_it_is_made_and_after_a_reload(
    open_page: Page, music_studio: RunningStudio
) -> None:
    page = open_page
    page.context.add_init_script(TAP_THE_SOUND)
    page.reload()
    ask(page, "heard before it is there", seconds=12, seed=3)
    running = card(page, "heard before it is there")
    listen = running.locator("[data-listen]")
    expect(listen).to_have_text("Listen", timeout=PATIENCE_MS)
    page.reload()
    listen.click()
    wait_for(page, "loudness() > 0.001", seconds=60)
    expect(listen).to_have_text("Pause")  # it stays so while the card is pushed again and again
    expect(page.locator("[data-player-facts]")).to_have_text(re.compile("being made|Waiting for more"))
    assert not page.locator(".take").filter(has_text="heard before it is there").count()
    listen.focus()
    page.keyboard.press("Enter")
    expect(listen).to_have_text("Listen")
    wait_for(page, "taps.every((tap) => tap.context.state === 'suspended')")
    expect(listen).to_be_focused()
    page.keyboard.press("Enter")
    wait_for(page, "taps.some((tap) => tap.context.state === 'running')")
    assert_accessible(page)
    # It stays in the player when the take is there, is heard to its end, and then the take is in the player.
    toggle = page.locator("[data-player-toggle]")
    toggle.click()
    wait_for(page, "taps.every((tap) => tap.context.state === 'suspended')")
    wait_for_take(page, "heard before it is there")
    expect(listen).to_have_count(0)
    expect(page.locator("#player")).to_have_attribute("data-live", "")
    toggle.click()
    expect(page.locator("#player")).not_to_have_attribute("data-live", "", timeout=PATIENCE_MS)
    assert page.evaluate("document.querySelector('audio').src").endswith("/audio")
    assert complaints(page) == []


def test_cancel_keeps_the_partial_take(open_page: Page) -> None:
    page = open_page
    ask(page, "long strings to stop", seconds=20)
    running = card(page, "long strings to stop")
    expect(running).to_contain_text(re.compile(r"[1-9]\d*\.\d of 20"), timeout=PATIENCE_MS)
    running.get_by_role("button", name="Cancel").click()
    expect(running).to_contain_text(re.compile(r"kept \d"), timeout=30_000)
    row = wait_for_take(page, "long strings to stop")
    expect(row).to_contain_text("partial")
    running.get_by_role("button", name="Remove from the queue").click()
    expect(running).to_have_count(0)
    page.reload()
    expect(card(page, "long strings to stop")).to_have_count(0)
    expect(take(page, "long strings to stop")).to_contain_text("partial")
    assert complaints(page) == []


def test_too_long_is_refused_and_loses_nothing(open_page: Page) -> None:
    page = open_page
    before = page.locator(".job").count()
    ask(page, "a very long drone", seconds=45, seed=5)
    error = page.locator("#id_duration_seconds_error")
    expect(error).to_have_text("Duration 45s exceeds model limit of 20s")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a very long drone")
    expect(page.get_by_label("Duration", exact=True)).to_have_value("45")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("5")
    assert page.locator(".job").count() == before
    # Unless it is asked for.
    longer, slider = page.get_by_label("Longer than 20"), page.get_by_label("Duration, slider")
    expect(slider).to_have_attribute("max", "20")
    longer.check()
    expect(slider).to_have_attribute("max", "120")
    expect(page.get_by_label("Duration", exact=True)).to_have_value("45")
    page.get_by_label("Duration", exact=True).fill("116")
    expect(page.get_by_text("Close to the limit of 120")).to_be_visible()
    longer.uncheck()
    expect(page.locator("[data-duration-note]")).to_contain_text("Shortened to 20")
    # Near the limit it only warns.
    page.get_by_label("Duration", exact=True).fill("19")
    expect(page.get_by_text("Close to the limit of 20")).to_be_visible()
    assert complaints(page) == []


def test_a_reload_in_the_middle_shows_true_progress_at_once(open_page: Page) -> None:
    page = open_page
    ask(page, "reload in the middle", seconds=20)
    running = card(page, "reload in the middle")
    expect(running).to_contain_text(re.compile(r"[1-9]\d*\.\d of 20"), timeout=PATIENCE_MS)
    before = percent(running)
    page.reload(wait_until="commit")
    # As the server rendered it: the socket may not even be open yet.
    running = card(page, "reload in the middle")
    expect(running).to_be_visible()
    assert percent(running) >= before > 0
    running.get_by_role("button", name="Cancel").click()
    expect(running).to_contain_text("kept", timeout=30_000)
    running.get_by_role("button", name="Remove from the queue").click()


def test_an_answer_that_the_socket_has_overtaken_puts_nothing_back(
    open_page: Page, music_studio: RunningStudio
) -> None:
    page = open_page
    ask(page, "overtaken by the socket", seconds=20)
    running = card(page, "overtaken by the socket")
    expect(running).to_contain_text(re.compile(r"[1-9]\d*\.\d of 20"), timeout=PATIENCE_MS)

    held: list[Route] = []
    page.route("**/jobs/*/cancel/", lambda route: held.append(route), times=1)
    with page.expect_request("**/jobs/*/cancel/"):
        running.get_by_role("button", name="Cancel").click()
    while not held:
        page.wait_for_timeout(50)
    with standing_still(runner_of(music_studio)):
        answer = held[0].fetch()
    assert "Cancelling" in answer.text()
    expect(running).to_contain_text("Cancelled", timeout=30_000)

    # Its form is gone by now, and with it whatever depends on where the form stands.
    page.evaluate(
        "() => document.addEventListener('htmx:beforeSwap', () => { window.isAnswered = true }, {once: true})"
    )
    held[0].fulfill(response=answer)
    wait_for(page, "window.isAnswered")
    expect(running).to_contain_text("Cancelled")
    # The socket is believed in any case: a server's clock may be set back.
    page.evaluate("() => { document.getElementById('queue').dataset.readAt = String(2 ** 52) }")
    running.get_by_role("button", name="Remove from the queue").click()
    expect(running).to_have_count(0)
    assert complaints(page) == []


def test_two_windows_show_the_same(open_page: Page, browser: Browser, music_studio: RunningStudio) -> None:
    first = open_page
    second = browser.new_context().new_page()
    watch(second)
    second.goto(music_studio.url)
    expect(second.get_by_label("Prompt", exact=True)).to_be_visible()
    ask(first, "seen in both windows", seconds=20)
    theirs = card(second, "seen in both windows")
    expect(theirs).to_contain_text(re.compile(r"\d\.\d of 20"), timeout=PATIENCE_MS)
    theirs.get_by_role("button", name="Cancel").click()
    expect(card(first, "seen in both windows")).to_contain_text("Cancelled", timeout=30_000)
    card(first, "seen in both windows").get_by_role("button", name="Remove from the queue").click()
    expect(theirs).to_have_count(0)
    assert complaints(first) == []
    assert complaints(second) == []
    second.context.close()


def test_a_killed_runner_leaves_the_page_alive_and_the_take_is_finished(
    open_page: Page, music_studio: RunningStudio
) -> None:
    page = open_page
    ask(page, "survives a killed runner", seconds=5)
    running = card(page, "survives a killed runner")
    expect(running).to_contain_text(re.compile(r"\d\.\d of 5"), timeout=PATIENCE_MS)
    os.kill(runner_of(music_studio), signal.SIGKILL)
    row = wait_for_take(page, "survives a killed runner")
    expect(row).not_to_contain_text("partial")
    expect(running).to_have_count(0)
    assert complaints(page) == []


def test_variations_are_rendered_with_consecutive_seeds(open_page: Page) -> None:
    page = open_page
    ask(page, "three of a kind", seconds=1, takes=3, seed=40)
    rows = page.locator(".take").filter(has_text="three of a kind")
    expect(rows).to_have_count(3, timeout=PATIENCE_MS)
    assert sorted(rows.locator(".seed-chip").all_inner_texts()) == ["seed 40", "seed 41", "seed 42"]


def test_keyboard_submits_plays_and_explains(open_page: Page) -> None:
    page = open_page
    page.get_by_label("Prompt", exact=True).fill("typed and sent")
    page.get_by_label("Duration", exact=True).fill("1")
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    row = wait_for_take(page, "typed and sent")
    row.get_by_role("button", name="Play").focus()
    page.keyboard.press("Enter")
    wait_for(page, "document.querySelector('audio').currentTime > 0")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_take_starts_from_a_clip(open_page: Page, tmp_path: Path) -> None:
    page = open_page
    page.get_by_label("Prompt", exact=True).fill("what I began")
    song = tone(tmp_path / "my song.wav", seconds=2.5, sample_rate=44100, channels=2)
    chooser = page.locator("#id_clip")
    (tmp_path / "letter.mp3").write_text("Dear studio")
    chooser.set_input_files(tmp_path / "letter.mp3")
    expect(page.get_by_text("This is no sound file that can be read.")).to_be_visible()
    chooser.set_input_files(song)
    moment = page.get_by_label("Goes on from the clip “my song” at")
    expect(moment).to_have_value("2.5")
    expect(moment).to_be_focused()
    expect(page.get_by_text("It has 2.5\u202fs.")).to_be_visible()
    page.locator("[data-clip-audio]").evaluate("async (sound) => { await sound.play(); }")
    wait_for(page, "document.querySelector('[data-clip-audio]').currentTime > 0.2")
    assert_accessible(page)
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(chooser).to_be_focused()
    # Dropped anywhere on the page.
    content = base64.b64encode(song.read_bytes()).decode()
    page.evaluate(
        """(content) => {
          const files = new DataTransfer();
          const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
          files.items.add(new File([bytes], "my song.wav", { type: "audio/wav" }));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
        }""",
        content,
    )
    moment.fill("1.5")
    ask(page, "what I began", seconds=1)
    row = wait_for_take(page, "what I began")
    expect(row.locator(".take-length")).to_have_text("2.5\u202fs")
    # The form is as it was, for another go.
    expect(moment).to_have_value("1.5")
    row.get_by_role("link", name="Use these settings again").click()
    expect(moment).to_have_value("1.5")
    assert complaints(page) == []


def test_it_works_with_scripts_off(browser: Browser, music_studio: RunningStudio, tmp_path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(music_studio.url)
    page.locator("#id_clip").set_input_files(tone(tmp_path / "sung.wav", seconds=2.0))
    page.get_by_role("button", name="Bring it in").click()
    expect(page.get_by_label("Goes on from the clip “sung” at")).to_have_value("2")
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.get_by_role("button", name="Bring it in")).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill("made without scripts")
    page.get_by_label("Duration", exact=True).fill("45")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("Duration 45s exceeds model limit of 20s")).to_be_visible()
    page.get_by_label("Duration", exact=True).fill("1")
    page.get_by_role("button", name="Generate").click()
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while page.locator(".take").filter(has_text="made without scripts").count() == 0:
        assert time.monotonic() < deadline, "the take did not appear"
        page.wait_for_timeout(500)
        page.goto(music_studio.url)
    context.close()


def test_a_take_from_the_command_line_uses_the_running_engine_and_appears(
    open_page: Page, music_studio: RunningStudio, tmp_path: Path
) -> None:
    page = open_page
    made = manage(
        music_studio,
        "generate",
        "from the command line",
        "--duration",
        "1",
        "--seed",
        "3",
        "--out",
        str(tmp_path / "a.flac"),
    )
    assert made.returncode == 0, made.stderr
    assert "generation.dispatcher" not in made.stderr  # no second model was loaded for it
    wait_for_take(page, "from the command line")
    assert soundfile.info(tmp_path / "a.flac").duration == 1.0
    assert read_recipe(tmp_path / "a.flac")["seed"] == 3

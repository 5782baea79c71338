"""Journeys through the memory page in Chromium: nothing is entered twice, nothing that was pasted is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Prepare, RunningStudio, running_studio
from tests.hub import FakeHub
from tests.journeys.conftest import PATIENCE_MS, watch

TINY: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
TEXT = json.dumps(TINY, indent=2)
#: One for each journey: what one saves must not spare another its panel.
GATED = ("calculate", "analyse", "compare-a", "compare-b", "drop", "cancel", "plain", "login")


@dataclass
class Memory:
    """A running studio and its hub."""

    studio: RunningStudio
    hub: FakeHub

    @property
    def url(self) -> str:
        """The memory page."""
        return f"{self.studio.url}memory/"


def publish(hub: FakeHub) -> None:
    """An open model, and gated ones."""
    hub.publish("studio/open", {"config.json": TEXT.encode()})
    for name in GATED:
        hub.publish(f"gated/{name}", {"config.json": TEXT.encode()})
        hub.gate(f"gated/{name}")


@pytest.fixture(scope="module")
def memory(prepared: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    """A studio that looks configs up at a fake hub."""
    folder = tmp_path_factory.mktemp("memory")
    with FakeHub() as hub:
        publish(hub)
        environment = {**prepared(folder / "home"), **hub.environment(folder / "hf")}
        with running_studio(environment) as running:
            yield Memory(running, hub)


def begin(page: Page, memory: Memory, model: str, action: str) -> None:
    """Open the page, name a model and press."""
    watch(page)
    page.goto(memory.url)
    page.get_by_label("Model", exact=True).fill(model)
    page.get_by_role("button", name=action, exact=True).click()


def focused(page: Page) -> str:
    """Id of what has the focus."""
    return str(page.evaluate("document.activeElement.id"))


def assert_no_mistake(page: Page) -> None:
    """Nothing in the console but the statuses of refusals, which browsers log by themselves."""
    said: list[str] = page.said  # type: ignore[attr-defined]
    assert [line for line in said if "the server responded with a status of 4" not in line] == []


def test_a_gated_calculation_goes_on_by_itself(page: Page, memory: Memory) -> None:
    begin(page, memory, "gated/calculate", "Calculate")
    expect(page.get_by_role("heading", name="calculate needs its config.json")).to_be_focused()
    link = page.get_by_role("link", name="the model’s page")
    expect(link).to_have_attribute("href", f"{memory.hub.endpoint}/gated/calculate")
    expect(link).to_have_attribute("target", "_blank")

    # A text that cannot be used stays, with its reasons.
    page.get_by_label("config.json", exact=True).fill('{"model_type": "llama", "hidden_size": 64}')
    page.get_by_role("button", name="Save and calculate").click()
    expect(page.get_by_role("alert")).to_contain_text("num_hidden_layers")
    expect(page.get_by_label("config.json", exact=True)).to_have_value(re.compile('"hidden_size": 64'))
    assert focused(page) == "id_config"

    page.get_by_label("config.json", exact=True).fill(TEXT)
    page.get_by_role("button", name="Save and calculate").click()
    expect(page.locator("#memory-headline")).to_contain_text("calculate needs", timeout=PATIENCE_MS)
    expect(page.locator("#memory-headline")).to_be_focused()
    assert page.url == f"{memory.url}?action=calculate&model=gated/calculate"

    # The second visit uses what was saved, and asks the hub nothing.
    memory.hub.forget_requests()
    page.reload()
    expect(page.get_by_text("Your saved config, version 1")).to_be_visible()
    assert memory.hub.requests == []
    assert_no_mistake(page)


def test_options_answer_at_once_and_keep_the_focus(page: Page, memory: Memory) -> None:
    begin(page, memory, "studio/open", "Calculate")
    expect(page.locator("#memory-headline")).to_contain_text("4,096 tokens")
    page.get_by_label("Context", exact=True).fill("1k")
    expect(page.locator("#memory-headline")).to_contain_text("1,024 tokens")
    assert focused(page) == "id_seq_length"
    page.get_by_label("Precision of the weights").select_option("int4")
    expect(page.locator("#memory-headline")).to_contain_text("at int4")
    assert page.url == f"{memory.url}?action=calculate&model=studio/open&precision=int4&seq_length=1k"
    headline = page.locator("#memory-headline").inner_text()
    page.get_by_label("Batch", exact=True).fill("none")
    expect(page.locator("#id_batch_size_error")).to_contain_text("whole number")
    expect(page.get_by_text("from before the mistake")).to_be_visible()
    page.get_by_label("Batch", exact=True).fill("")
    expect(page.locator("#id_batch_size_error")).to_have_count(0)
    expect(page.locator("#memory-headline")).to_have_text(headline)
    assert_no_mistake(page)


def test_a_gated_grid_keeps_its_options_and_the_arrows_walk_it(page: Page, memory: Memory) -> None:
    watch(page)
    page.goto(f"{memory.url}?action=analyse&model=gated/analyse&gpu=rtx-4090&precision=fp32")
    page.get_by_label("config.json", exact=True).fill(TEXT)
    page.get_by_role("button", name="Save and analyse").click()
    expect(page.get_by_role("table")).to_contain_text(
        "at fp32, by batch and tokens, against a GeForce RTX 4090"
    )
    assert page.url.endswith("?action=analyse&model=gated/analyse&precision=fp32&gpu=rtx-4090")
    page.locator("[data-heat-cell][tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#memory-headline")).to_contain_text("at fp32 and 2 sequences of 4,096 tokens")
    assert_no_mistake(page)


def test_a_comparison_asks_for_each_config_in_turn(page: Page, memory: Memory, tmp_path: Path) -> None:
    begin(page, memory, "gated/compare-a studio/open gated/compare-b", "Compare")
    for name in ("compare a", "compare b"):
        expect(page.get_by_role("heading", name=f"{name} needs its config.json")).to_be_focused()
        page.get_by_label("config.json", exact=True).fill(TEXT)
        page.get_by_role("button", name="Save and compare").click()
    expect(page.locator("[data-config-panel]")).to_have_count(0)
    expect(page.get_by_role("table").locator("tbody tr")).to_have_count(3)
    expect(page.locator("#memory-headline")).to_be_focused()
    assert page.url.endswith("?action=compare&model=gated/compare-a&model=studio/open&model=gated/compare-b")
    page.get_by_role("link", name="Remove gated/compare-a").click()
    expect(page.get_by_role("table").locator("tbody tr")).to_have_count(2)
    assert_no_mistake(page)


def test_a_file_dropped_anywhere_fills_the_field(page: Page, memory: Memory) -> None:
    begin(page, memory, "gated/drop", "Calculate")
    expect(page.locator("[data-config-panel]")).to_be_visible()
    drop = """([text, size]) => {
        const files = new DataTransfer();
        files.items.add(new File([text, new Uint8Array(size)], "config.json"));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, [TEXT, 5_000_000])
    expect(page.locator("#config-errors")).to_contain_text("has 5 MB")
    page.evaluate(drop, [TEXT, 0])
    expect(page.get_by_label("config.json", exact=True)).to_have_value(TEXT)
    page.keyboard.press("Enter")  # The button has the focus.
    expect(page.locator("#memory-headline")).to_contain_text("drop needs")


def test_cancel_leads_back_to_where_the_person_was(page: Page, memory: Memory) -> None:
    watch(page)
    page.goto(f"{memory.url}?action=calculate&model=studio/open")
    page.get_by_label("Model", exact=True).fill("gated/cancel")
    page.keyboard.press("Enter")
    expect(page.locator("[data-config-panel]")).to_be_visible()
    page.get_by_role("link", name="Cancel", exact=True).click()
    expect(page.locator("[data-config-panel]")).to_have_count(0)
    assert focused(page) == "id_model"
    expect(page.locator("#id_model")).to_have_value("gated/cancel")
    expect(page.locator("#memory-headline")).to_contain_text("open needs")
    assert page.url.endswith("model=studio/open")
    assert_no_mistake(page)


def test_a_page_that_is_too_old_loses_no_text(page: Page, memory: Memory) -> None:
    begin(page, memory, "gated/login", "Calculate")
    page.get_by_label("config.json", exact=True).fill(TEXT)
    page.context.clear_cookies()
    page.get_by_role("button", name="Save and calculate").click()
    expect(page.locator("#config-errors")).to_contain_text("your text is kept")
    page.goto(f"{memory.url}?action=calculate&model=gated/login")
    expect(page.get_by_label("config.json", exact=True)).to_have_value(TEXT)
    page.get_by_role("button", name="Save and calculate").click()
    expect(page.locator("#memory-headline")).to_contain_text("login needs")
    assert page.evaluate("sessionStorage.getItem('musicgen.config-draft')") is None


def test_a_second_press_asks_nothing_twice(page: Page, memory: Memory) -> None:
    memory.hub.slow(200, path="slow/er", times=1)
    memory.hub.publish("slow/er", {"config.json": TEXT.encode()})
    memory.hub.forget_requests()
    begin(page, memory, "slow/er", "Calculate")
    expect(page.locator("#memory-form [data-memory-busy]")).to_contain_text("Looking the config up")
    page.get_by_role("button", name="Calculate", exact=True).click()
    page.get_by_role("button", name="Calculate", exact=True).click()
    expect(page.locator("#memory-headline")).to_contain_text("er needs")
    expect(page.locator("#memory-form [data-memory-busy]")).to_be_hidden()
    assert len(memory.hub.requests) == 1


def test_everything_works_without_scripts(browser: Browser, memory: Memory) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    begin(page, memory, "gated/plain", "Compare")
    page.get_by_label("config.json", exact=True).fill("{}")
    page.get_by_role("button", name="Save and compare").click()
    expect(page.get_by_label("config.json", exact=True)).to_have_value("{}")
    page.get_by_label("config.json", exact=True).fill(TEXT)
    page.get_by_role("button", name="Save and compare").click()
    expect(page.get_by_role("heading", name="plain needs")).to_be_visible()
    page.get_by_role("link", name="plain", exact=True).click()
    page.get_by_role("button", name="Delete it").click()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("Your saved config, version 1")).to_be_visible()
    page.get_by_label("Batch", exact=True).fill("2")
    page.get_by_role("button", name="Analyse", exact=True).click()
    expect(page.locator("td[data-chosen]")).to_have_count(1)
    context.close()

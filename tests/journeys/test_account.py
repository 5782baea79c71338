"""The pages of accounts in Chromium, shared mode: from the one-time link to a token, in every state that has a look."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Prepare, RunningStudio, running_studio, wait_until
from tests.journeys.conftest import assert_accessible, complaints, watch

PASSWORD = "a long and good one 7"


@pytest.fixture(scope="module")
def shared_studio(prepared: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio where nobody can log in yet, and that can send mails."""
    environment = prepared(tmp_path_factory.mktemp("account") / "home")
    shared = {"MUSICGEN_ACCESS": "shared", "MUSICGEN_EMAIL_URL": "console:"}
    with running_studio({**environment, **shared}, options=["--no-engine"]) as running:
        yield running


def send(page: Page, name: str, **fields: str) -> None:
    """Fill fields by their labels and press the button."""
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(value)
    page.get_by_role("button", name=name).click()


def test_from_the_link_to_a_token_and_back_in(
    page: Page, browser: Browser, shared_studio: RunningStudio
) -> None:
    watch(page)
    wait_until(lambda: len(shared_studio.said) > 1, seconds=10, what="the link")
    link = re.search(r"http://\S+/setup/\S+/", shared_studio.said[1])
    assert link
    page.goto(link[0])
    page.get_by_label("Password, again").fill("another")
    send(page, "Create and log in", User_name="ada", Password="short")
    expect(page.get_by_text("The two passwords differ.")).to_be_visible()
    assert_accessible(page)
    page.get_by_label("Password, again").fill(PASSWORD)
    send(page, "Create and log in", Password=PASSWORD)
    expect(page.get_by_role("link", name="Library")).to_be_visible()

    page.goto(f"{shared_studio.url}account/")
    send(page, "Make a token", Name_of_a_new_token="nightly script")
    expect(page.locator("#new-token")).to_contain_text("mgs_")
    assert_accessible(page)
    page.get_by_role("button", name="Revoke nightly script").click()
    expect(page.get_by_text("Revoked “nightly script”")).to_be_visible()
    page.get_by_role("link", name="Change the password").click()
    send(page, "Change the password", Password_until_now="wrong", New_password="short")
    expect(page.get_by_text("not the password that you have now")).to_be_visible()
    assert_accessible(page)
    assert complaints(page) == []

    stranger = browser.new_context().new_page()
    stranger.goto(f"{shared_studio.url}library/")
    send(stranger, "Log in", User_name="ada", Password="wrong")
    expect(stranger.get_by_role("alert")).to_contain_text("do not belong together")
    assert_accessible(stranger)
    stranger.get_by_role("link", name="Forgot your password?").click()
    send(stranger, "Send a link", Email_address_of_your_account="nobody@example.org")
    expect(stranger.get_by_role("heading", name="Look into your mail")).to_be_visible()
    assert_accessible(stranger)
    stranger.goto(f"{shared_studio.url}login/?next=/library/")
    send(stranger, "Log in", User_name="ada", Password=PASSWORD)
    expect(stranger.get_by_role("heading", name="Library")).to_be_visible()
    stranger.context.close()

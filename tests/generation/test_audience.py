"""Pages of one person that show the same are told together, and the less often the more pages are open."""

import logging
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError

from generation import audience
from generation.audience import Hall
from generation.events import BoardChanged, TakesChanged
from generation.page_content import Changes, Shared, render
from registry.events import EngineChanged, send
from tests.generation.music import make_job
from tests.generation.open_pages import Page, rows, scenario_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("home")]


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[Changes]:
    """What was rendered after the snapshots, in order."""
    seen: list[Changes] = []

    def noted(changes: Changes, view: str, user: Any, shared: Shared) -> str:
        seen.append(changes)
        return render(changes, view, user, shared)

    monkeypatch.setattr(audience, "render", noted)
    return seen


def test_with_many_pages_open_changes_are_told_together_and_no_sentence_is_lost(
    owner: User, rendered: list[Changes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audience, "open_sockets", lambda: 200)

    async def scenario(page: Page) -> None:
        await page.open()
        await send(EngineChanged())
        assert 'id="queue"' not in await page.next(within=0.7)  # the first change is told at once
        for number in range(30):
            await send(
                BoardChanged(owner_id=owner.pk, announcement=f"Take {number} is ready."), EngineChanged()
            )
        job = await rows(make_job)(owner)
        await send(BoardChanged(owner_id=owner.pk), TakesChanged(owner_id=owner.pk))
        html = await page.next(within=5)
        for number in range(30):
            assert f"Take {number} is ready." in html
        for part in ("engine-chip", "queue", "takes", "announcer"):
            assert html.count(f'id="{part}"') == 1
        # Read when it was told, not when the first of the hints came.
        assert f'id="job-{job.pk}"' in html
        assert await page.is_silent()
        assert len(rendered) == 2

    scenario_of(owner)(scenario)


def test_pages_that_show_the_same_are_read_for_once(alice: User, bob: User, rendered: list[Changes]) -> None:
    async def scenario(first: Page, second: Page, his: Page) -> None:
        for page in (first, second, his):
            await page.open()
        await rows(make_job)(alice)
        await send(BoardChanged(owner_id=alice.pk))
        assert await first.next() == await second.next()
        assert await his.is_silent()
        assert len(rendered) == 1

    scenario_of(alice, alice, bob)(scenario)


def test_pages_that_cannot_be_told_are_closed_and_come_back(
    owner: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*arguments: object) -> str:
        raise OperationalError("the server closed the connection unexpectedly\nThis probably means")

    async def scenario(first: Page, second: Page) -> None:
        for page in (first, second):
            await page.open()
        with monkeypatch.context() as patch:
            patch.setattr(audience, "render", away)
            await send(EngineChanged())
            for page in (first, second):
                assert await page.socket.receive_output(5) == {"type": "websocket.close", "code": 1011}
        await first.close()
        await second.close()

    with caplog.at_level(logging.WARNING, "generation.audience"):
        scenario_of(owner, owner)(scenario)
    lines = [record.message for record in caplog.records if record.name == "generation.audience"]
    assert len(lines) == 1
    assert "the database is away: the server closed the connection unexpectedly" in lines[0]


def test_nobody_is_kept_who_has_left(owner: User) -> None:
    async def scenario(first: Page, second: Page) -> None:
        await first.open()
        await second.open()
        assert len(Hall.here()._audiences) == 1
        await first.close()
        await send(EngineChanged())
        assert await second.next()

    scenario_of(owner, owner)(scenario)
    assert Hall._current is not None
    assert Hall._current._audiences == {}

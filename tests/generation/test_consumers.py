"""The socket of the pages, and the engine's ear on the channel `generation`."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.test import Client

from generation import events, routing
from generation.consumers import EngineConsumer
from generation.engine_worker import EngineWorker
from generation.models import Job, JobStatus, Take
from generation.services import jobs, takes
from generation.services.submission import GenerationRequest, submit_job
from musicgen_site.access import socket_access
from registry.events import ENGINE_CHANNEL, EngineChanged, send
from registry.models import ModelConfig
from tests.conftest import bring_kernels
from tests.generation.music import HOST, make_job, make_running_job, make_take, save
from tests.generation.open_pages import Page, rows, scenario_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("home")]

OURS = [(b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000")]


# The snapshot.


def test_a_page_that_opens_shows_everything_as_it_is(owner: User) -> None:
    take = make_take(owner, title="Evening")
    running = make_running_job(owner, duration_seconds=10)
    Job.objects.filter(pk=running.pk).update(
        stage="generating", frames_total=500, frames_done=160, seconds_per_frame=0.5
    )
    waiting = make_job(owner)

    async def scenario(page: Page) -> None:
        html = await page.open()
        for root in ("engine-chip", "switch-status", "model-limits", "adapter-choices", "queue", "takes"):
            assert html.count(f'id="{root}"') == 1
        assert html.count('hx-swap-oob="morph"') == 6
        assert "3.2 of 10 s" in html
        assert 'value="32.0"' in html
        assert f'id="job-{waiting.pk}"' in html
        assert "Next in line" in html
        assert f'id="take-{take.pk}"' in html
        assert "Evening" in html
        assert await page.is_silent()

    scenario_of(owner)(scenario)


def test_a_page_that_was_closed_loses_nothing(owner: User) -> None:
    async def scenario(first: Page, second: Page) -> None:
        await first.open()
        await first.close()
        job = await rows(make_running_job)(owner)
        take = await rows(save)(job)
        await rows(jobs.end_job)(job, JobStatus.FINISHED, host=HOST)
        html = await second.open()
        assert f'id="take-{take.pk}"' in html
        assert f'id="job-{job.pk}"' not in html

    scenario_of(owner, owner)(scenario)


@pytest.mark.parametrize("view", ["library", "shell", "nonsense"])
def test_other_pages_get_the_chip_only(view: str, owner: User) -> None:
    make_job(owner)
    make_take(owner)

    async def scenario(page: Page) -> None:
        html = await page.open()
        assert 'id="engine-chip"' in html
        assert 'id="queue"' not in html
        assert 'id="takes"' not in html

    scenario_of(owner, view=view)(scenario)


def test_text_is_escaped_in_a_push(owner: User) -> None:
    make_job(owner, prompt='<script>alert(1)</script> & "quotes"')

    async def scenario(page: Page) -> None:
        html = await page.open()
        assert "<script>" not in html
        assert "&lt;script&gt;" in html

    scenario_of(owner)(scenario)


# Deltas.


def test_two_pages_see_the_same_life_of_a_job(owner: User) -> None:
    async def scenario(one: Page, two: Page) -> None:
        for page in (one, two):
            await page.open()
        job = await rows(submit_job)(
            owner=owner, request=GenerationRequest(prompt="slow piano", duration_seconds=10)
        )
        card = f'id="job-{job.pk}"'
        for page in (one, two):
            assert card in await page.until('id="queue"')
        job = await rows(jobs.claim_next_job)(HOST)
        await rows(Job.objects.filter(pk=job.pk).update)(
            stage="generating", frames_total=500, frames_done=250
        )
        await send(events.JobProgressed(owner_id=owner.pk, job_id=job.pk))
        for page in (one, two):
            html = await page.until("5.0 of 10 s")
            assert html.lstrip().startswith("<article")
            assert 'hx-swap-oob="morph"' in html
        take = await rows(save)(job)
        await rows(jobs.end_job)(job, JobStatus.FINISHED, host=HOST, announcement="Take ready: slow piano")
        for page in (one, two):
            await page.until(f'id="take-{take.pk}"')
            html = await page.until("Take ready: slow piano")
            assert card not in html
            assert 'id="announcer"' in html
        assert one.received[-1] == two.received[-1]

    scenario_of(owner, owner)(scenario)


def test_each_change_of_a_take_reaches_the_page(owner: User) -> None:
    take = make_take(owner)

    async def scenario(page: Page) -> None:
        await page.open()
        await rows(takes.rename_take)(take, "New name")
        assert "New name" in await page.until('id="takes"')
        await rows(takes.toggle_favourite)(take)
        assert "data-favourite " in await page.until('id="takes"')
        await rows(takes.delete_take)(take)
        assert f'id="take-{take.pk}"' not in await page.until('id="takes"')
        await rows(takes.restore_take)(take)
        assert f'id="take-{take.pk}"' in await page.until('id="takes"')

    scenario_of(owner)(scenario)


def test_each_verb_of_a_job_reaches_the_page(owner: User) -> None:
    async def scenario(page: Page) -> None:
        await page.open()
        job = await rows(submit_job)(owner=owner, request=GenerationRequest(prompt="slow piano"))
        await page.until("Next in line")
        await rows(jobs.request_cancel)(job)
        assert "Cancelled" in await page.until('id="queue"')
        await rows(job.refresh_from_db)()
        again = await rows(jobs.retry_job)(job)
        assert f'id="job-{again.pk}"' in await page.until("Next in line")
        claimed = await rows(jobs.claim_next_job)(HOST)
        await rows(jobs.request_cancel)(claimed)
        await page.until("Cancelling, keeping what was made")
        await rows(jobs.end_job)(claimed, JobStatus.FAILED, host=HOST, error_message="Too big.")
        await page.until("Too big.")
        await rows(jobs.dismiss_job)(claimed)
        assert "Too big." not in await page.until('id="queue"')

    scenario_of(owner)(scenario)


def test_nobody_hears_of_the_jobs_and_takes_of_others(alice: User, bob: User) -> None:
    async def scenario(hers: Page, his: Page) -> None:
        await hers.open()
        html = await his.open()
        job = await rows(make_running_job)(alice, prompt="secret strings")
        await rows(submit_job)(owner=alice, request=GenerationRequest(prompt="secret drums"))
        await send(events.JobProgressed(owner_id=alice.pk, job_id=job.pk))
        await hers.until(f'id="job-{job.pk}"')
        await send(events.JobProgressed(owner_id=bob.pk, job_id=job.pk))
        await rows(save)(job)
        await rows(jobs.end_job)(
            job, JobStatus.FINISHED, host=HOST, announcement="Take ready: secret strings"
        )
        await hers.until("Take ready: secret strings")
        assert await his.is_silent()
        # Even a hint that was sent to the wrong page shows nothing: the rows are asked.
        await send(events.BoardChanged(owner_id=bob.pk))
        html += await his.until('id="queue"')
        assert "secret" not in html

    scenario_of(alice, bob)(scenario)


def test_the_state_of_the_engine_reaches_everybody(alice: User, bob: User) -> None:
    async def scenario(hers: Page, his: Page) -> None:
        for page in (hers, his):
            await page.open()
        await send(EngineChanged())
        for page in (hers, his):
            assert 'id="engine-chip"' in await page.next()

    scenario_of(alice, bob)(scenario)


@pytest.mark.parametrize("what", ["text", "bytes"])
def test_what_a_page_says_changes_nothing(what: str, owner: User) -> None:
    async def scenario(page: Page) -> None:
        await page.open()
        if what == "text":
            await page.socket.send_to(text_data='{"type": "board.changed", "HEADERS": {}} \0')
        else:
            await page.socket.send_to(bytes_data=b"\xff\x00")
        assert await page.is_silent()
        await send(EngineChanged())
        await page.until('id="engine-chip"')

    scenario_of(owner)(scenario)


# Access.


def connects(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the real application accepts a socket with these headers."""

    async def scenario() -> bool:
        socket = WebsocketCommunicator(
            socket_access(routing.websocket), "/ws/studio/?view=studio", headers=headers
        )
        connected, _ = await socket.connect(timeout=20)
        if connected:
            assert "engine-chip" in await socket.receive_from(timeout=20)
        await socket.disconnect()
        return bool(connected)

    return async_to_sync(scenario)()


def test_a_page_of_the_studio_connects() -> None:
    assert connects(OURS)


@pytest.mark.parametrize(
    "origin", [b"https://evil.example", b"null", b"http://localhost:9000", b"http://127.0.0.1:8000"]
)
def test_a_page_of_another_site_does_not(origin: bytes) -> None:
    assert not connects([OURS[0], (b"origin", origin)])


def test_in_shared_mode_a_login_is_needed(shared_mode: None, client: Client, alice: User) -> None:
    assert not connects(OURS)
    client.force_login(alice)
    cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
    assert connects([*OURS, (b"cookie", cookie.encode())])


def test_a_person_has_so_many_sockets_and_no_more(alice: User, bob: User, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_sockets_per_person": 2})

    async def scenario(first: Page, second: Page, third: Page, his: Page) -> None:
        second.socket.scope["query_string"] = b"view=library"  # whatever it shows, it counts
        for page in (first, second):
            await page.open()
        assert (await third.socket.connect(timeout=20))[0], "a page is told the code of an open socket only"
        assert await third.socket.receive_output(20) == {"type": "websocket.close", "code": 4429}
        await his.open()
        await first.close()
        again = Page(alice)
        await again.open()
        await again.close()

    scenario_of(alice, alice, alice, bob)(scenario)


# The engine's ear.


def test_messages_of_the_channel_reach_the_engine(
    owner: User, home: Path, kernels_folder: Path, slow_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: a page, the channel layer, the engine, a real runner, and back to two pages."""
    bring_kernels(kernels_folder, home)
    # Slow enough to be cancelled in the middle.
    ModelConfig.objects.filter(pk="musicgen-demo").update(local_path=str(slow_checkpoint))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    job_number = re.compile(r'id="job-(\d+)"')

    async def scenario(page: Page, other: Page) -> None:
        worker = EngineWorker(routing.channel, channels=[ENGINE_CHANNEL], channel_layer=get_channel_layer())
        listening = asyncio.create_task(worker.listen())
        try:
            for each in (page, other):
                await each.open()
            await page.until("ready", within=180)
            first = EngineConsumer.dispatcher
            layer: Any = get_channel_layer()
            await layer.send(ENGINE_CHANNEL, {"type": "engine.start"})

            request = GenerationRequest(prompt="slow piano", duration_seconds=0.5, seed=7)
            job = await rows(submit_job)(owner=owner, request=request)
            for each in (page, other):
                await each.until("Take ready: slow piano", within=180)
            assert EngineConsumer.dispatcher is first, "a second start changes nothing"
            shown = [html for html in page.received if f'id="job-{job.pk}"' in html]
            assert shown, "its card was pushed"
            take = await rows(lambda: Take.objects.get(job=job))()
            assert f'id="take-{take.pk}"' in "".join(other.received)

            request = GenerationRequest(prompt="long piano", duration_seconds=20, seed=8)
            job = await rows(submit_job)(owner=owner, request=request)
            # From some frames on: of none, nothing can be kept.
            await page.until(re.compile(r"(0\.[1-9]|[1-9]\d*\.\d) of 20 s"), within=180)
            await rows(jobs.request_cancel)(job)
            html = await page.until("kept ", within=60)
            assert job_number.findall(html) == [str(job.pk)]
            assert "Cancelled" in html
            take = await rows(lambda: Take.objects.get(job=job))()
            assert take.is_partial
            percents = [
                float(value)
                for html in page.received
                for value in re.findall(r'<progress[^>]*value="([\d.]+)"', html)
            ]
            assert percents, "progress was told"
        finally:
            await worker.stop(listening)
        assert EngineConsumer.dispatcher is None
        assert not await sync_to_async(Job.objects.unfinished().exists)()

    scenario_of(owner, owner)(scenario)

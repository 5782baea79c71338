"""Hearing a take while it is made: what the row names, who may hear it, how a stream ends, and what is removed."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from generation import cards, live_response
from generation.engine import protocol
from generation.live_takes import LiveTakes
from generation.models import Job, JobStatus
from generation.retention.rules import Look
from generation.retention.run import RULES_BY_NAME, run_rule
from generation.services import jobs, live
from generation.services.live import LiveStream
from registry.media import MediaAway, live_media
from tests.generation.music import HOST, make_job, make_running_job, make_take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("home")]

#: A stream in which nothing comes ends after so many seconds here.
SILENCE = 5.0
LOADED = protocol.LoadFinished(
    device="cpu", device_name="", dtype="float32", sample_rate=16000, frame_rate=50, channels=2, codebooks=4,
    parameters=1, weight_bytes=1, model_type="musicgen", revision=None, seconds=0.1, memory_bytes=1,
)  # fmt: skip


@pytest.fixture(params=["folder", "bucket"])
def _kept_in(request: pytest.FixtureRequest) -> None:
    if request.param == "bucket":
        request.getfixturevalue("bucket")


@pytest.fixture(autouse=True)
def _not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_response, "SILENCE_BOUND_SECONDS", SILENCE)


def told(job: Job, chunks: int, *, variation: int = 0, name: str = "", is_complete: bool = False) -> str:
    """Chunks of a running job, stored and written to its row. Answers the stream's name."""
    name = name or f"{job.pk}-{variation}-0123abcd"
    for chunk in range(chunks):
        source = Path(settings.STUDIO.home) / "chunk.pcm"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(bytes([chunk + 1]) * 8)
        live.store_chunk(name, chunk, source)
    live.note_stream(job, variation, LiveStream(name, 16000, 2, chunks, is_complete))
    assert jobs.write_progress(job, HOST) is False
    return name


def address(job: Job, variation: int = 0) -> str:
    return f"/api/generations/{job.pk}/live/{variation}"


def heard(answer: Any, then: Callable[[int], None] = lambda part: None) -> bytes:
    """Everything of an answer, and it is closed; `then` is called in a thread after each part."""

    async def read() -> bytes:
        parts = []
        stream: AsyncIterator[bytes] = aiter(answer)
        async for part in stream:
            parts.append(part)
            await asyncio.to_thread(then, len(parts))
        return b"".join(parts)

    try:
        return async_to_sync(read)()
    finally:
        answer.close()


def chunks_of(*numbers: int) -> bytes:
    return b"".join(bytes([number + 1]) * 8 for number in numbers)


@pytest.mark.usefixtures("_kept_in")
def test_a_stream_follows_the_take_to_its_end(owner: User, client: Client) -> None:
    job = make_running_job(owner)
    name = told(job, 2)

    def go_on(parts: int) -> None:
        if parts == 3:  # the header and all that was there
            # Its job goes on with other variations.
            told(job, 4, name=name, is_complete=True)

    began = time.monotonic()
    answer = client.get(address(job))
    assert (answer.status_code, answer["Content-Type"]) == (200, "audio/wav")
    assert (answer["Cache-Control"], answer["X-Accel-Buffering"]) == ("no-store", "no")
    header = live_response.wav_header(16000, 2)
    assert heard(answer, go_on) == header + chunks_of(0, 1, 2, 3)
    assert time.monotonic() - began < SILENCE, "it ends as soon as the take is complete"
    assert len(header) == 44
    assert (
        header[20:36]
        == b"\x01\0\x02\0" + (16000).to_bytes(4, "little") + (64000).to_bytes(4, "little") + b"\x04\0\x10\0"
    )


def test_a_take_begun_again_is_not_mixed_with_the_old_one(owner: User, client: Client) -> None:
    job = make_running_job(owner)
    told(job, 1)

    def begin_again(parts: int) -> None:
        if parts == 2:
            told(job, 3, name=f"{job.pk}-0-ffffffff")

    assert heard(client.get(address(job)), begin_again)[44:] == chunks_of(0)


@pytest.mark.parametrize("how", ["handed back", "deleted", "failed", "its chunks are gone"])
def test_a_stream_whose_job_is_gone_ends(how: str, owner: User, client: Client) -> None:
    job = make_running_job(owner)
    name = told(job, 1)

    def break_off(parts: int) -> None:
        if parts != 2:
            return
        if how == "handed back":
            assert jobs.hand_back(job, HOST, counts_as_attempt=True)
        elif how == "deleted":
            job.delete()
        elif how == "failed":
            assert jobs.end_job(job, JobStatus.FAILED, host=HOST)
        else:
            live.note_stream(job, 0, LiveStream(name, 16000, 2, 3))
            jobs.write_progress(job, HOST)

    assert heard(client.get(address(job)), break_off)[44:] == chunks_of(0)


def test_a_stream_ends_by_itself(owner: User, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_running_job(owner)
    told(job, 1)
    for bound in ("SILENCE_BOUND_SECONDS", "STREAM_BOUND_SECONDS"):
        with monkeypatch.context() as patch:
            patch.setattr(live_response, bound, 0.3)
            assert heard(client.get(address(job)))[44:] == chunks_of(0)


def test_it_says_why_there_is_nothing_to_hear(owner: User, client: Client, settings: Any) -> None:
    def refused(job: Job, variation: int = 0) -> tuple[int, dict[str, Any]]:
        answer = client.get(address(job, variation))
        return answer.status_code, answer.json()

    job = make_job(owner, variations=2)
    status, said = refused(job)
    assert (status, said["error_code"], said["status"]) == (409, "NOTHING_TO_HEAR_YET", "queued")
    assert refused(job, 2)[0] == 404
    settings.STUDIO = settings.STUDIO.model_copy(update={"live_audio": False})
    status, said = refused(job)
    assert (status, said["error_code"]) == (409, "LIVE_OFF")
    take = make_take(owner, job=job, variation=1)
    status, said = refused(job, 1)
    assert (status, said["error_code"]) == (409, "JOB_ENDED")
    assert (said["take_id"], said["audio_url"]) == (take.pk, take.audio_url)
    assert take.audio_url in said["error"]
    failed = make_job(owner, status=JobStatus.FAILED)
    assert refused(failed)[1]["error"] == "The job has ended without this take: it is failed."


def test_it_is_the_owners_alone(alice: User, bob: User, shared_mode: None) -> None:
    job = make_running_job(alice)
    told(job, 1, is_complete=True)
    for person, status in ((alice, 200), (bob, 404)):
        client = Client()
        client.force_login(person)
        answer = client.get(address(job))
        assert answer.status_code == status
        answer.close()
    assert Client().get(address(job)).status_code == 401


def test_listeners_are_bounded(
    owner: User, client: Client, monkeypatch: pytest.MonkeyPatch, alice: User
) -> None:
    # Whoever asked in another test and did not listen to the end is still there.
    monkeypatch.setattr(live_response, "_listeners", Counter())
    monkeypatch.setattr(live_response, "MAX_LISTENERS_EACH", 2)
    job = make_running_job(owner)
    told(job, 1, is_complete=True)
    held = [client.get(address(job)) for _ in range(2)]
    refused = client.get(address(job))
    assert (refused.status_code, refused.json()["error_code"]) == (429, "TOO_MANY_LISTENERS")
    held.pop().close()
    again = client.get(address(job))
    assert again.status_code == 200
    monkeypatch.setattr(live_response, "MAX_LISTENERS", 2)
    monkeypatch.setattr(live_response, "MAX_LISTENERS_EACH", 9)
    assert client.get(address(job)).status_code == 429
    for answer in (*held, again):
        answer.close()
        answer.close()
    assert not live_response._listeners


def test_card_and_api_offer_what_can_be_heard(owner: User, client: Client) -> None:
    job = make_running_job(owner, variations=3)
    assert cards.card_of(job).live == ()
    told(job, 1, variation=2)
    told(job, 1, variation=1, is_complete=True)
    told(job, 0, variation=0)
    assert client.get(f"/api/generations/{job.pk}").json()["live_urls"] == [address(job, 2)]
    page = client.get("/").content.decode()
    assert f'data-live-url="{address(job, 2)}"' in page
    assert address(job, 1) not in page
    seconds = job.duration_seconds
    assert [heard.duration_seconds for heard in cards.card_of(job).live] == [seconds]
    for begins_at, lead in ((0.4, 0.4), (20.0, 1.0)):
        job.continued_from_seconds = begins_at
        assert [heard.duration_seconds for heard in cards.card_of(job).live] == [seconds + lead]
    assert jobs.end_job(job, JobStatus.CANCELLED, host=HOST)
    assert client.get(f"/api/generations/{job.pk}").json()["live_urls"] == []


class Engine:
    """The engine's side of one job: what its runner would tell, told."""

    def __init__(self, job: Job, scratch: Path) -> None:
        scratch.mkdir(parents=True)
        self.job, self.scratch, self.looks = job, scratch, 0
        self.takes = LiveTakes(job, scratch, self.look)
        self.request = f"{job.pk}-0-0123abcd"

    async def look(self) -> None:
        self.looks += 1

    async def tell(self, chunk: int, *, is_last: bool = False, request: str = "") -> Path:
        request = request or self.request
        path = self.scratch / f"{request}-{chunk:04d}.pcm"
        await asyncio.to_thread(path.write_bytes, bytes([chunk + 1]) * 8)
        event = protocol.RequestAudio(request=request, chunk=chunk, path=str(path), is_last=is_last)
        await self.takes.hand_on(0, event)
        return path


@pytest.fixture
def engine(owner: User, home: Path) -> Engine:
    return Engine(make_running_job(owner), home / "scratch" / "host")


@pytest.mark.usefixtures("_kept_in")
def test_an_engine_hands_chunks_on_and_removes_them_when_it_stops(engine: Engine) -> None:
    async def work() -> None:
        assert engine.takes.begin(0, engine.request, LOADED) == str(engine.scratch / engine.request)
        for chunk in range(3):
            path = await engine.tell(chunk, is_last=chunk == 2)
            assert not path.exists()
        assert engine.looks == 1  # the first sound is told at once
        engine.job.live = None  # as a job that goes back leaves it
        stopping = asyncio.Event()
        stopping.set()
        await engine.takes.remove_later(stopping)

    streams: list[LiveStream] = []
    note = live.note_stream

    def noted(job: Job, variation: int, stream: LiveStream) -> None:
        streams.append(stream)
        note(job, variation, stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "note_stream", noted)
        async_to_sync(work)()
    assert [(stream.chunks, stream.is_complete) for stream in streams] == [
        (0, False), (1, False), (2, False), (3, True),
    ]  # fmt: skip
    assert live_media().entries() == []
    assert list(engine.scratch.iterdir()) == []


def test_what_cannot_be_kept_ends_what_is_heard_and_not_the_take(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        engine.takes.begin(0, engine.request, LOADED)
        await engine.tell(0)
        with monkeypatch.context() as patch:
            patch.setattr(live, "store_chunk", lambda *arguments: (_ for _ in ()).throw(MediaAway("away")))
            await engine.tell(1)
        # A gap would be heard: what comes after it is dropped, and so is what nobody asked for.
        assert not (await engine.tell(2)).exists()
        assert not (await engine.tell(0, request="other-0-0123abcd")).exists()

    async_to_sync(work)()
    assert live.streams_of(engine.job)[0].chunks == 1
    assert [found.name for found in live_media().entries()] == [f"{engine.request}-0000.pcm"]


def test_turned_off_no_runner_is_asked(engine: Engine, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"live_audio": False})
    assert engine.takes.begin(0, engine.request, LOADED) is None
    assert engine.job.live is None


def test_whoever_recovers_a_job_removes_what_was_heard_of_it(owner: User) -> None:
    job = make_running_job(owner)
    told(job, 2)
    assert jobs.recover_jobs("another-host", lapsed=lambda row: True) == 1
    assert live_media().entries() == []
    job.refresh_from_db()
    assert (job.status, job.live) == ("queued", None)


def test_the_clean_up_sweeps_what_dead_engines_left_and_nothing_else(owner: User, home: Path) -> None:
    running, over = make_running_job(owner), make_job(owner, status=JobStatus.FAILED)
    names = [f"{over.pk}-0-0123abcd-0000.pcm", f"{running.pk}-0-0123abcd-0000.pcm", "somebody-elses.pcm"]
    for name in (*names, f"{over.pk}-0-0123abcd-0001.pcm"):
        path = home / "live" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12")
        if name in names:
            os.utime(path, (time.time() - 4000,) * 2)
    assert [found.what for found in run_rule(RULES_BY_NAME["half-made"], Look()).removed] == [
        f"live/{names[0]}"
    ]
    assert run_rule(RULES_BY_NAME["orphans"], Look(at_once=True)).removed == []

"""The load benchmark's pages: real sockets, of a real server, that are told what they count."""

import asyncio
from urllib.parse import urlsplit

import pytest

from generation.models import JobStatus
from musicgen_site.benchmarks.load import _p95, _until
from musicgen_site.benchmarks.page_sockets import PageSocket
from tests.conftest import ROOT, running_studio
from tests.generation.test_runworker import ask


@pytest.mark.slow
def test_a_page_of_the_benchmark_hears_what_a_page_hears(prepared_environment: dict[str, str]) -> None:
    with running_studio(prepared_environment, options=["--no-engine"]) as studio:
        address = urlsplit(studio.url)

        async def scenario() -> PageSocket:
            page = PageSocket(person=0)
            listening = asyncio.create_task(page.listen(address.hostname or "", address.port or 0, ""))
            await _until(lambda: page.messages > 0)
            told = page.messages
            body = {"prompt": "slow piano", "duration_seconds": 1}
            job = await asyncio.to_thread(ask, studio, "generations", body)
            await _until(lambda: page.messages > told)
            assert job["status"] == JobStatus.QUEUED
            assert page.is_open
            assert page.jobs_told == set(), "no take of it is there"
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            return page

        assert not asyncio.run(scenario()).is_open


def test_the_socket_counts_jobs_whose_takes_it_is_told_of() -> None:
    card = ROOT.joinpath("templates/generation/_take_row.html").read_bytes()
    card = card.partition(b"{{ take.job_id")[0] + b'7">'

    async def scenario() -> set[int]:
        page = PageSocket(person=0)
        reader = asyncio.StreamReader()
        reader.feed_data(bytes([0x81, 126]) + len(card).to_bytes(2, "big") + card)
        await page._read(reader, None)  # type: ignore[arg-type]
        return page.jobs_told

    assert asyncio.run(scenario()) == {7}


def test_the_slowest_of_twenty_count() -> None:
    assert _p95([0.1] * 95 + [2.0] * 5) == pytest.approx(1.905)

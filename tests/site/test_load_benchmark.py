"""The load benchmark: real sockets and jobs of a real server, and a probe beside them that is heard when it fails."""

import asyncio
import urllib.error
from collections.abc import Iterator

import pytest

from musicgen_site.benchmarks.load import _p95, _Studio, _under_load
from musicgen_site.benchmarks.page_sockets import PageSocket
from tests.conftest import ROOT, Prepare, running_studio

SOCKETS = 4
JOBS = 2


@pytest.fixture(scope="module")
def studio(prepared: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Studio]:
    """A server with its engine, in local mode: whoever asks, no login is looked for. Two people have the pages."""
    environment = prepared(tmp_path_factory.mktemp("load") / "home")
    with running_studio(environment) as running:
        people = [["no-session", "no-token"]] * 2
        yield _Studio(running.url.rstrip("/"), running.process, environment, people, job_seconds=1.0)


@pytest.mark.slow
def test_every_figure_is_of_what_was_done(studio: _Studio) -> None:
    said: list[str] = []
    figures = asyncio.run(_under_load(studio, SOCKETS, JOBS, said.append))
    assert said == [f"{SOCKETS} sockets are open; {JOBS} jobs are submitted"]
    # Two pages of each person, each of which is told of that person's job.
    assert (figures["takes_to_tell"], figures["messages_lost"]) == (4, 0)
    assert figures["sockets_opened_again"] == 0
    assert figures["messages"] >= 3 * SOCKETS, "all that is there, the jobs, the takes"
    assert figures["probes"] > 1
    assert 0 < figures["page_p95_seconds"] < 30
    assert 0 < figures["api_p95_seconds"] < 30
    assert figures["web_bytes"] > 20 * 10**6
    assert figures["seconds"] > 0


@pytest.mark.slow
def test_a_probe_that_fails_fails_the_benchmark(studio: _Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def page(self: _Studio, person: int) -> None:
        self.ask("no-such-route", person)

    monkeypatch.setattr(_Studio, "page", page)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        asyncio.run(_under_load(studio, 1, 1, lambda line: None))


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

"""A studio with many people: open sockets and queued jobs at once, and what pages and API take meanwhile.

A real server in shared mode with the demo model, and then jobs a minute with one and with two engine hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any, Final
from urllib.parse import urlsplit

import psutil
from django.conf import settings

from musicgen_site.benchmarks.own_server import MANAGE, own_server, prepared_environment, run_in_shell
from musicgen_site.benchmarks.page_sockets import PageSocket
from musicgen_site.benchmarks.switching import hardware_line

SOCKETS: Final = 500
JOBS: Final = 100
PEOPLE: Final = 100
#: Pages that are opened at the same moment.
OPENED_AT_ONCE: Final = 20
#: Of each job, in seconds of audio, where nothing else is said.
JOB_SECONDS: Final = 5.0
#: Jobs whose time is taken with one host and with two.
HOST_JOBS: Final = 60
#: Nothing takes this long but what hangs, in seconds.
PATIENCE: Final = 1800.0

_MAKE_PEOPLE = """
import json
from django.contrib.auth import SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from musicgen_site.services.tokens import create_token
User.objects.create_superuser("operator")
people = []
for number in range({people}):
    person = User.objects.create_user(f"person-{{number}}")
    session = SessionStore()
    session[SESSION_KEY] = str(person.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = person.get_session_auth_hash()
    session.create()
    _, token = create_token(owner=person, name="benchmark", scope="generate")
    people.append([session.session_key, token])
print(json.dumps(people))
"""


@dataclass
class _Studio:
    """A running server and the people of it: session key and token of each."""

    url: str
    process: subprocess.Popen[str]
    environment: dict[str, str]
    people: list[list[str]]
    #: Of each job.
    job_seconds: float = JOB_SECONDS

    def ask(self, path: str, person: int, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST of that body, to the API as that person."""
        headers = {"Authorization": f"Bearer {self.people[person][1]}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", content, headers)  # noqa: S310 - our own
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    def page(self, person: int) -> None:
        """Read the studio's page as that person."""
        headers = {"Cookie": self.cookie(person)}
        request = urllib.request.Request(f"{self.url}/", headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            answer.read()

    def cookie(self, person: int) -> str:
        """That person's login."""
        return f"{settings.SESSION_COOKIE_NAME}={self.people[person][0]}"

    def submit(self, person: int, seed: int) -> int:
        """Queue a job and answer its number."""
        wanted = {"prompt": "slow piano", "duration_seconds": self.job_seconds, "seed": seed}
        return int(self.ask("generations", person, wanted)["id"])


@dataclass
class _Figures:
    """What was seen while the engine worked."""

    page_seconds: list[float] = field(default_factory=list)
    api_seconds: list[float] = field(default_factory=list)
    web_bytes: int = 0


def run(*, rounds: int, checkpoint: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure and return the figures, of one round."""
    figures: dict[str, Any] = {"hardware": hardware_line(), "sockets": SOCKETS, "jobs": JOBS}
    with _running(say) as studio:
        figures |= asyncio.run(_under_load(studio, SOCKETS, JOBS, say))
    figures["host_jobs"] = HOST_JOBS
    with _running(say, "--no-engine") as studio:
        for hosts in (1, 2):
            say(f"{HOST_JOBS} jobs with {hosts} engine host{'s' if hosts > 1 else ''}")
            figures[f"jobs_per_minute_{hosts}"] = round(_jobs_per_minute(studio, hosts, HOST_JOBS), 1)
    return figures


# Sockets and jobs at once.


async def _under_load(studio: _Studio, sockets: int, jobs: int, say: Callable[[str], None]) -> dict[str, Any]:
    address = urlsplit(studio.url)
    assert address.hostname is not None
    assert address.port is not None
    pages = [PageSocket(person=number % len(studio.people)) for number in range(sockets)]
    listening = []
    for number, page in enumerate(pages, 1):
        cookie = studio.cookie(page.person)
        listening.append(asyncio.create_task(page.stay(address.hostname, address.port, cookie)))
        if number % OPENED_AT_ONCE == 0 or number == sockets:
            await _until(lambda: all(each.is_open and each.messages for each in pages[:number]))  # noqa: B023
    say(f"{sockets} sockets are open; {jobs} jobs are submitted")
    began = time.monotonic()
    owners = [number % len(studio.people) for number in range(jobs)]
    numbers = [await asyncio.to_thread(studio.submit, owner, seed) for seed, owner in enumerate(owners)]
    figures = _Figures()
    working = asyncio.create_task(_probe(studio, figures))
    await _until(lambda: _ended(studio, numbers, owners), every=1.0)
    seconds = time.monotonic() - began
    if not working.cancel():
        working.result()  # it failed, and says why
    await asyncio.gather(working, return_exceptions=True)
    wanted = [
        (page, number)
        for page in pages
        for number, owner in zip(numbers, owners, strict=True)
        if owner == page.person
    ]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await _until(lambda: all(number in page.jobs_told for page, number in wanted))
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    return {
        "seconds": round(seconds, 1),
        "page_p95_seconds": _p95(figures.page_seconds),
        "api_p95_seconds": _p95(figures.api_seconds),
        "probes": len(figures.page_seconds),
        "messages": sum(page.messages for page in pages),
        "takes_to_tell": len(wanted),
        "messages_lost": sum(number not in page.jobs_told for page, number in wanted),
        "sockets_opened_again": sum(page.opened - 1 for page in pages),
        "web_bytes": figures.web_bytes,
    }


async def _until(condition: Callable[[], bool], *, every: float = 0.05) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            raise RuntimeError(
                "The benchmark's studio does not get on. Is the machine busy with something else?"
            )
        await asyncio.sleep(every)


async def _probe(studio: _Studio, figures: _Figures) -> None:
    """Read a page and ask the API, again and again, each time as somebody else."""
    person = 0
    process = psutil.Process(studio.process.pid)
    while True:
        person = (person + 1) % len(studio.people)
        figures.page_seconds.append(await _timed(studio.page, person))
        figures.api_seconds.append(await _timed(studio.ask, "takes", person))
        figures.web_bytes = max(figures.web_bytes, process.memory_info().rss)
        await asyncio.sleep(0.2)


async def _timed(call: Callable[..., object], *arguments: Any) -> float:
    began = time.monotonic()
    await asyncio.to_thread(call, *arguments)
    return time.monotonic() - began


def _p95(seconds: list[float]) -> float:
    return round(quantiles(seconds, n=20)[-1], 3) if len(seconds) > 1 else 0.0


def _ended(studio: _Studio, numbers: list[int], owners: list[int]) -> bool:
    """Whether all have ended; the newest first, which most likely has not. Raises RuntimeError for one that failed."""
    for number, owner in zip(reversed(numbers), reversed(owners), strict=True):
        job = studio.ask(f"generations/{number}", owner)
        if job["status"] in ("failed", "cancelled"):
            raise RuntimeError(f"job {number} {job['status']}: {job['error']}")
        if job["status"] != "finished":
            return False
    return True


# Engine hosts.


def _jobs_per_minute(studio: _Studio, hosts: int, jobs: int) -> float:
    command = [*MANAGE, "runworker", "generation"]
    workers = [
        subprocess.Popen(command, env=studio.environment, stderr=subprocess.DEVNULL) for _ in range(hosts)
    ]
    try:
        # One job each: then every host has its model loaded.
        first = [studio.submit(person, 10**6 + person) for person in range(2 * hosts)]
        asyncio.run(_until(lambda: _ended(studio, first, list(range(2 * hosts))), every=0.2))
        began = time.monotonic()
        owners = [number % len(studio.people) for number in range(jobs)]
        numbers = [studio.submit(owner, seed) for seed, owner in enumerate(owners)]
        asyncio.run(_until(lambda: _ended(studio, numbers, owners), every=0.2))
        return 60 * jobs / (time.monotonic() - began)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(timeout=60)


@contextmanager
def _running(say: Callable[[str], None], *options: str) -> Iterator[_Studio]:
    with tempfile.TemporaryDirectory(prefix="musicgen-benchmark-") as home:
        say(f"{' '.join(['serve', *options])}: making {PEOPLE} people")
        environment = prepared_environment(
            Path(home),
            MUSICGEN_ACCESS="shared",
            MUSICGEN_SHIPPED_ADAPTERS="false",
            MUSICGEN_DRAIN_SECONDS="0",
            OMP_NUM_THREADS="1",
        )
        people = json.loads(run_in_shell(_MAKE_PEOPLE.format(people=PEOPLE), environment).splitlines()[-1])
        with own_server(environment, *options) as server:
            yield _Studio(server.url, server.process, environment, people)

"""The database goes away at the worst moments: an answer is lost, and the row may be there or not."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import OperationalError, connections

from generation import database
from generation.models import Job, JobStatus, Take
from generation.services import jobs, takes
from tests.conftest import ROOT
from tests.generation.music import HOST, make_running_job, make_take, recipe_for, save, tone
from tests.generation.test_takes import files_in
from tests.media_files import take_file

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("home")]


def losing_answers(function: Callable[..., Any], *, before: int = 0, after: int = 0) -> Callable[..., Any]:
    """The function over a database that is away before, or right after, so many calls were carried out."""
    left = {"before": before, "after": after}

    def called(*args: Any, **kwargs: Any) -> Any:
        if left["before"]:
            left["before"] -= 1
            raise OperationalError("connection refused")
        answer = function(*args, **kwargs)
        if left["after"]:
            left["after"] -= 1
            raise OperationalError("server closed the connection unexpectedly")
        return answer

    return called


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "AGAIN_AFTER", 0.01)


def written(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """As the engine calls it."""
    return async_to_sync(database.written(function))(*args, **kwargs)


def unsaved(job: Job, home: Path) -> Take:
    """A take whose file lies there."""
    return takes.write_take(
        job,
        variation=0,
        source=tone(home / "scratch" / "made.wav"),
        recipe=recipe_for(job),
        frames=50,
        render_seconds=1.0,
        hostname="machine",
    )


@pytest.mark.parametrize("lost", [{"before": 3}, {"after": 1}], ids=["before", "after"])
def test_a_take_outlives_a_database_that_goes_away(lost: dict[str, int], owner: User, home: Path) -> None:
    job = make_running_job(owner)
    take = written(losing_answers(takes.keep_take, **lost), unsaved(job, home), job, host=HOST)
    assert take == Take.objects.get()
    assert files_in(home) == [f"takes/{take.file_name}"]


def test_an_end_whose_answer_was_lost_is_not_written_twice(
    owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_running_job(owner)
    wrapper = type(connections["default"])
    monkeypatch.setattr(wrapper, "commit", losing_answers(wrapper.commit, after=1))
    assert not written(jobs.end_job, job, JobStatus.FINISHED, host=HOST), "the row has left our hands"
    assert Job.objects.get(pk=job.pk).status == JobStatus.FINISHED


def test_patience_ends(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.05)
    with pytest.raises(OperationalError, match="refused"):
        written(
            losing_answers(jobs.end_job, before=10**6), make_running_job(owner), JobStatus.FINISHED, host=HOST
        )


def test_files_of_a_host_that_fell_before_it_wrote_their_rows_go_with_its_lease(
    owner: User, bob: User, home: Path
) -> None:
    """And nothing else goes: not its rows' files, nor those of a job whose number is a part of this one's."""
    kept = make_take(bob)
    job = make_running_job(owner, host="fallen", variations=2)
    first = save(job, host="fallen")
    assert first is not None
    orphan = unsaved(job, home)
    half = home / "takes" / f".{Path(orphan.file_name).stem}-x1y2.wav.part"
    half.write_bytes(b"RIFF")
    bystanders = [
        home / "takes" / f"20260101-{job.pk}1-1-0123abcd.wav",
        home / "takes" / f"20260101-9{job.pk}-1-0123abcd.wav",
        home / "takes" / f"20260101-77-{job.pk}-0123abcd.wav",
    ]
    for path in bystanders:
        path.write_bytes(b"RIFF")
    assert jobs.recover_jobs(HOST, lapsed=lambda job: True) == 1
    left = {*(home / "takes").iterdir()}
    assert left == {take_file(kept), take_file(first), *bystanders}


def test_a_disk_that_is_full_is_said_to_be(home: Path) -> None:
    """Of a real refusal by the system, here by a bound on the size of files, which it treats alike."""
    source = tone(home / "made.wav", seconds=5)
    script = (
        "import sys; from pathlib import Path; from generation.audio_files import write_take_file\n"
        "try: write_take_file(Path(sys.argv[1]), Path(sys.argv[2]), {'prompt': 'piano'})\n"
        "except OSError as problem: print(problem.errno, [path.name for path in Path(sys.argv[2]).parent.iterdir()])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(source), str(home / "takes" / "take.wav")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert ended.stdout.strip() == "27 []", ended.stderr

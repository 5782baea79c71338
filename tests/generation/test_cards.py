"""Jobs in words: place in line, waiting and remaining times, what was kept, and what can be done."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from gated_configs.wording import THIN_SPACE, spoken_seconds
from generation import cards
from generation.models import Job, JobStatus
from generation.services import jobs
from tests.generation.music import HOST, make_job, make_running_job, make_take, save

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    # Elapsed times are figures on the card; a clock that stands still makes them exact.
    monkeypatch.setattr(timezone, "now", lambda: NOW)
    monkeypatch.setattr("platform.node", lambda: "machine")


def card(job: Job) -> cards.JobCard:
    """The card of the row as it is now."""
    return cards.card_of(Job.objects.select_related("model").get(pk=job.pk))


def line(job: Job) -> str:
    """The card's status line, with plain spaces."""
    return card(job).status_line.replace(THIN_SPACE, " ")


def running(owner: User, *, elapsed: float = 4, **fields: Any) -> Job:
    """A running job with its progress set."""
    job = make_running_job(
        owner, duration_seconds=fields.pop("duration_seconds", 10.0), variations=fields.pop("variations", 1)
    )
    Job.objects.filter(pk=job.pk).update(started_at=NOW - timedelta(seconds=elapsed), **fields)
    job.refresh_from_db()
    return job


# Waiting.


def test_places_in_line_are_counted_over_everybody(owner: User, bob: User) -> None:
    mine = [make_job(owner), make_job(bob), make_job(owner)]
    assert [line(job) for job in mine] == ["Next in line", "2nd in line", "3rd in line"]
    assert [card(job).queue_position for job in mine] == [1, 2, 3]
    jobs.claim_next_job(HOST)
    assert [line(job) for job in mine[1:]] == ["Next in line", "2nd in line"]
    assert card(mine[0]).queue_position is None


def test_without_a_record_no_time_is_promised(owner: User) -> None:
    make_job(owner)
    waiting = make_job(owner)
    assert line(waiting) == "2nd in line"
    assert card(waiting).remaining_seconds is None


def test_waiting_times_come_from_the_record(owner: User) -> None:
    make_take(owner)  # 2 s of work for 1 s of audio
    first = make_job(owner, duration_seconds=10)
    second = make_job(owner, duration_seconds=5, variations=2)
    third = make_job(owner)
    assert line(first) == "Next in line"
    assert line(second) == "2nd in line · about 20 s"
    assert line(third) == "3rd in line · about 40 s"
    assert card(third).remaining_seconds == 40


def test_a_job_that_runs_counts_with_what_is_left_of_it(owner: User) -> None:
    make_take(owner)
    running(owner, stage="generating", frames_total=500, frames_done=400, seconds_per_frame=0.1)
    waiting = make_job(owner)
    assert line(waiting) == "Next in line · about 10 s"


def test_an_unknown_speed_ahead_leaves_the_time_out(owner: User) -> None:
    make_take(owner)
    make_job(owner, model_id="musicgen-small")
    assert line(make_job(owner)) == "2nd in line"


def test_a_job_that_is_tried_again_says_so(owner: User) -> None:
    job = make_running_job(owner)
    jobs.hand_back(job, HOST, counts_as_attempt=True)
    assert card(job).side_line == "trying again"


def test_a_waiting_job_can_be_cancelled_and_no_more(owner: User) -> None:
    shown = card(make_job(owner))
    assert (shown.state, shown.percent) == ("queued", None)
    assert (shown.can_cancel, shown.can_retry, shown.can_dismiss) == (True, False, False)


# Running.


def test_progress_is_told_in_seconds_of_audio(owner: User) -> None:
    job = running(owner, stage="generating", frames_total=500, frames_done=160, seconds_per_frame=0.035)
    shown = card(job)
    assert line(job) == "3.2 of 10 s · 12 s left"
    assert shown.side_line.replace(THIN_SPACE, " ") == "4 s elapsed"
    assert (shown.state, shown.percent) == ("running", 32.0)
    assert shown.remaining_seconds == pytest.approx(11.9)
    assert shown.elapsed_seconds == 4


def test_progress_without_a_record_leaves_the_rest_out(owner: User) -> None:
    job = running(owner, stage="generating", frames_total=500, frames_done=5)
    assert line(job) == "0.1 of 10 s"


def test_several_takes_are_told_together(owner: User) -> None:
    job = running(owner, stage="generating", variations=3, frames_total=1500, frames_done=615)
    shown = card(job)
    assert line(job) == "12.3 of 30 s"
    assert shown.facts.startswith("3 takes · ")
    assert shown.percent == 41.0


def test_jobs_made_side_by_side_are_waited_for_once(owner: User) -> None:
    make_take(owner)
    for left in (20, 100):
        running(owner, stage="generating", frames_total=500, frames_done=500 - left, seconds_per_frame=0.1)
    assert line(make_job(owner)) == "Next in line · about 10 s"


@pytest.mark.parametrize(
    ("stage", "fraction", "done", "words", "state", "percent"),
    [
        ("starting", None, 0, "Starting", "starting", None),
        ("loading", None, 0, "Loading MusicGen Demo", "starting", None),
        ("loading", 0.456, 0, "Loading MusicGen Demo · 46%", "starting", 45.6),
        ("encoding", None, 0, "Reading the prompt", "starting", None),
        ("decoding", None, 500, "Turning frames into sound", "running", 100.0),
    ],
)
def test_every_stage_has_its_words(
    stage: str,
    fraction: float | None,
    done: int,
    words: str,
    state: str,
    percent: float | None,
    owner: User,
) -> None:
    job = running(owner, stage=stage, stage_fraction=fraction, frames_done=done, frames_total=500)
    shown = card(job)
    assert (line(job), shown.state, shown.percent) == (words, state, percent)
    assert shown.can_cancel


def test_a_job_that_is_being_cancelled_is_not_cancelled_again(owner: User) -> None:
    job = running(owner, stage="generating", frames_total=500, frames_done=100)
    jobs.request_cancel(job)
    shown = card(job)
    assert (shown.state, shown.status_line) == ("cancelling", "Cancelling, keeping what was made")
    assert not shown.can_cancel
    assert shown.percent == 20


def test_facts_name_length_model_and_seed(owner: User) -> None:
    shown = card(make_job(owner, duration_seconds=2.5, seed=4294967295))
    assert shown.facts.replace(THIN_SPACE, " ") == "2.5 s · MusicGen Demo · seed 4294967295"


# Ended.


def test_a_cancelled_job_says_how_much_was_kept(owner: User) -> None:
    job = make_running_job(owner, duration_seconds=10)
    save(job, is_partial=True, seconds=4.1)
    jobs.end_job(job, JobStatus.CANCELLED, host=HOST)
    shown = card(job)
    assert (shown.state, shown.status_line) == ("cancelled", "Cancelled")
    assert shown.kept_line.replace(THIN_SPACE, " ") == "kept 4.1 s"
    assert (shown.can_cancel, shown.can_retry, shown.can_dismiss) == (False, True, True)


def test_a_job_cancelled_early_says_that_nothing_was_made(owner: User) -> None:
    job = make_job(owner)
    jobs.request_cancel(job)
    assert card(job).kept_line == "nothing was made yet"


def test_a_failed_job_says_why_and_keeps_what_it_made(owner: User) -> None:
    job = make_running_job(owner, variations=2)
    save(job, seconds=1)
    reason = {"error_code": "OUT_OF_MEMORY", "error_message": "Too big.", "error_detail": "at step 3"}
    jobs.end_job(job, JobStatus.FAILED, host=HOST, **reason)
    shown = card(job)
    assert (shown.state, shown.error_message, shown.error_detail) == ("failed", "Too big.", "at step 3")
    assert shown.side_line.replace(THIN_SPACE, " ") == "kept 1 s"
    assert (shown.can_retry, shown.can_dismiss) == (True, True)


# The board.


def test_the_board_shows_what_runs_and_waits_and_then_what_ended_badly(owner: User, bob: User) -> None:
    failed = [make_job(owner, status=JobStatus.FAILED), make_job(owner, status=JobStatus.CANCELLED)]
    make_job(owner, status=JobStatus.FINISHED)
    make_job(owner, status=JobStatus.FAILED, dismissed_at=NOW)
    active, waiting = make_running_job(owner), make_job(owner)
    make_job(bob)
    shown = [shown.pk for shown in cards.board(owner)]
    assert shown == [active.pk, waiting.pk, failed[1].pk, failed[0].pk]


def test_a_board_is_read_in_few_queries(owner: User, django_assert_max_num_queries: Any) -> None:
    for _ in range(10):
        make_job(owner)
        make_job(owner, status=JobStatus.FAILED)
    with django_assert_max_num_queries(6):
        assert len(cards.board(owner)) == 20


def test_the_studio_shows_the_newest_takes_that_were_kept(owner: User, bob: User) -> None:
    mine = [make_take(owner, seconds=0.1) for _ in range(cards.RECENT_TAKES + 2)]
    make_take(bob, seconds=0.1)
    mine[-1].deleted_at = NOW
    mine[-1].save()
    assert cards.recent_takes(owner) == list(reversed(mine[1:-1]))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0 s"), (0.02, "under 0.1 s"), (0.05, "0.1 s"), (4.14, "4.1 s"), (9.96, "10 s"), (80, "1 min 20 s"),
     (3900, "1 h 5 min"), (math.inf, "unknown")],
)  # fmt: skip
def test_seconds_as_people_say_them(seconds: float, said: str) -> None:
    assert spoken_seconds(seconds).replace(THIN_SPACE, " ") == said

"""Retention: what goes by rule and when, what never does, and what becomes of files and rows that lost each other."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from generation.models import CleanUp, EngineHost, JobStatus, Take
from generation.retention import leftovers, run
from generation.retention.rules import Look
from generation.retention.run import RULES_BY_NAME, Outcome, run_due, run_rule
from generation.services import storage, takes
from musicgen_site.models import AuditEntry
from tests.generation.music import make_running_job, make_take, save
from tests.media_files import take_file

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]

DAY = 24 * 3600


@pytest.fixture
def studio(settings: Any) -> Callable[..., None]:
    """Set the operator's settings."""

    def change(**values: Any) -> None:
        settings.STUDIO = settings.STUDIO.model_copy(update=values)

    return change


def clean(rule: str, **look: bool) -> Outcome:
    outcome = run_rule(RULES_BY_NAME[rule], Look(**look))
    assert outcome.problems == []
    return outcome


def aged(path: Path, seconds: float) -> Path:
    """The file as if it had last been touched so long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def old_take(owner: User, *, days: float = 40, **fields: Any) -> Take:
    return make_take(owner, created_at=timezone.now() - timedelta(days=days), **fields)


# By age.


def test_old_takes_are_deleted_and_favourites_stay(alice: User, studio: Callable[..., None]) -> None:
    old, loved, young = old_take(alice), old_take(alice, is_favourite=True), make_take(alice)
    assert clean("old").removed == [], "nothing goes where no days are set"
    studio(keep_takes_days=30)
    outcome = clean("old")
    assert [removal.what for removal in outcome.removed] == [f"take {old.pk} of alice"]
    assert set(Take.objects.kept()) == {loved, young}
    assert take_file(old).is_file(), "it can be brought back for a while"
    takes.restore_take(old)
    assert old in Take.objects.kept()


def test_what_a_rule_deletes_is_on_record(alice: User, studio: Callable[..., None]) -> None:
    old = old_take(alice)
    studio(keep_takes_days=30)
    clean("old")
    (entry,) = AuditEntry.objects.filter(action="take.removed")
    assert (entry.way, entry.object_id, entry.actor_name) == ("clean-up", str(old.pk), "")
    assert entry.detail == "of alice: older than 30 days"


def test_a_take_whose_job_goes_on_is_left_alone(alice: User, studio: Callable[..., None]) -> None:
    job = make_running_job(alice, variations=2)
    take = save(job)
    assert take is not None
    Take.objects.update(created_at=timezone.now() - timedelta(days=40))
    studio(keep_takes_days=30)
    assert clean("old").removed == []
    job.change_status(JobStatus.FINISHED)
    assert len(clean("old").removed) == 1


@pytest.mark.parametrize("rule", ["old", "limits"])
def test_a_take_that_becomes_a_favourite_in_between_stays(
    rule: str, alice: User, studio: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = old_take(alice)
    studio(keep_takes_days=30, max_takes_gb=1e-9, when_full="remove-oldest")
    finding = RULES_BY_NAME[rule].find(Look())
    (removal,) = finding.removals
    takes.toggle_favourite(take)
    assert removal.remove() is None
    assert Take.objects.kept().get().is_favourite
    assert take_file(take).is_file()
    assert not AuditEntry.objects.filter(action="take.removed").exists()


def test_a_click_that_comes_after_the_rule_brings_the_take_back(
    alice: User, studio: Callable[..., None]
) -> None:
    take = old_take(alice)
    studio(keep_takes_days=30)
    clean("old")
    takes.toggle_favourite(take)  # on a page from before
    assert Take.objects.kept().get().is_favourite


def test_a_click_on_a_take_that_is_gone_says_so(alice: User) -> None:
    take = make_take(alice)
    Take.objects.all().delete()
    with pytest.raises(takes.TakeGone, match="This take is gone"):
        takes.toggle_favourite(take)


def test_deleted_takes_go_after_the_hours_that_the_operator_set(
    alice: User, studio: Callable[..., None]
) -> None:
    studio(keep_deleted_hours=48)
    take = make_take(alice, deleted_at=timezone.now() - timedelta(hours=47))
    assert clean("deleted").removed == []
    Take.objects.update(deleted_at=timezone.now() - timedelta(hours=49))
    assert clean("deleted").freed_bytes == take.file_bytes
    assert not take_file(take).exists()


# By size.


def test_over_a_limit_nothing_is_removed_unless_the_operator_chose_it(
    alice: User, studio: Callable[..., None]
) -> None:
    make_take(alice)
    studio(max_takes_gb=1e-9, max_person_gb=1e-9)
    outcome = clean("limits")
    assert outcome.removed == []
    assert "New jobs are refused." in outcome.note


def test_deleted_takes_make_room_first(alice: User, studio: Callable[..., None]) -> None:
    kept, deleted = make_take(alice), make_take(alice)
    takes.delete_take(deleted)
    studio(max_takes_gb=1.5 * kept.file_bytes / 1e9)
    assert [removal.what for removal in clean("limits").removed] == [f"take {deleted.pk} of alice"]
    assert not take_file(deleted).exists()
    assert take_file(kept).is_file()


def test_a_person_over_their_limit_loses_their_oldest(
    alice: User, bob: User, studio: Callable[..., None]
) -> None:
    loved = make_take(alice, is_favourite=True)
    takes_of_alice = [make_take(alice) for _ in range(3)]
    of_bob = make_take(bob)
    studio(max_person_gb=2.5 * loved.file_bytes / 1e9, when_full="remove-oldest")
    clean("limits")
    assert set(Take.objects.all()) == {loved, takes_of_alice[2], of_bob}
    assert [take_file(take).exists() for take in takes_of_alice] == [False, False, True]


def test_room_for_all_is_taken_from_who_uses_most(
    alice: User, bob: User, studio: Callable[..., None]
) -> None:
    of_bob = old_take(bob, days=100)
    of_alice = [make_take(alice) for _ in range(4)]
    studio(max_takes_gb=3.1 * of_bob.file_bytes / 1e9, when_full="remove-oldest")
    clean("limits")
    assert set(Take.objects.all()) == {of_bob, *of_alice[2:]}, "bob's is the oldest, and alice uses most"


def test_a_disk_that_is_nearly_full_counts_too(
    alice: User, studio: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = make_take(alice)
    monkeypatch.setattr(storage, "free_bytes", lambda: 10)
    studio(min_free_gb=1, when_full="remove-oldest")
    assert "no rule may remove more" in clean("limits").note
    assert not take_file(take).exists()


# Orphans.


def test_a_file_without_a_row_is_set_aside_and_then_removed(alice: User, home: Path) -> None:
    take = make_take(alice)
    aged(take_file(take), 30 * DAY)
    fresh = aged(home / "takes" / "20260101-1-1-00000000.wav", 3600)
    orphan = aged(home / "takes" / "20260101-1-1-abcdef01.wav", 30 * DAY)
    foreign = aged(home / "takes" / "my notes.txt", 90 * DAY)
    assert len(clean("orphans").removed) == 1
    aside = home / "takes" / "orphans" / orphan.name
    assert aside.is_file()
    assert not orphan.exists()
    assert fresh.exists(), "its row may still come"
    assert take_file(take).exists()
    assert foreign.exists(), "not the studio's"
    clean("orphans")
    assert aside.is_file(), "it waits a week from now, however old it is"
    aged(aside, 8 * DAY)
    clean("orphans")
    assert not aside.exists()


def test_a_file_that_gets_its_row_in_between_stays(alice: User, home: Path) -> None:
    orphan = aged(home / "takes" / "20260101-1-1-abcdef01.wav", 2 * DAY)
    (removal,) = RULES_BY_NAME["orphans"].find(Look()).removals
    make_take(alice, file_name=orphan.name)
    assert removal.remove() is None
    assert orphan.exists()


def test_a_foreign_database_costs_no_music(home: Path) -> None:
    files = [aged(home / "takes" / f"20260101-{n}-1-abcdef01.wav", 2 * DAY) for n in range(20)]
    outcome = clean("orphans")
    assert outcome.removed == []
    assert "is this the right database?" in outcome.note
    assert outcome.left == 20
    assert len(clean("orphans", at_once=True).removed) == 20
    assert not any(file.exists() for file in files)


def test_weights_without_an_adapter_are_set_aside(home: Path, alice: User, settings: Any) -> None:
    from adapters.models import Adapter

    folder = settings.STUDIO.adapters_folder
    used, orphan = (aged(folder / f"{digit * 64}.safetensors", 2 * DAY) for digit in "ab")
    Adapter.objects.create(
        name="Jazz", sha256="0" * 64, weights_sha256="a" * 64, file_bytes=1, config={},
        tensor_count=2, rank=4, alpha=8.0, source="folder",
    )  # fmt: skip
    clean("orphans")
    assert used.exists()
    assert (folder / "orphans" / orphan.name).is_file()


def test_a_row_waits_a_week_for_its_file_and_a_favourite_for_ever(alice: User) -> None:
    back, gone, loved, whole = (make_take(alice) for _ in range(4))
    takes.toggle_favourite(loved)
    content = take_file(back).read_bytes()
    for take in (back, gone, loved):
        take_file(take).unlink()
    assert clean("lost").removed == []
    assert Take.objects.filter(file_missing_since__isnull=False).count() == 3
    take_file(back).write_bytes(content)
    Take.objects.filter(file_missing_since__isnull=False).update(
        file_missing_since=timezone.now() - timedelta(days=8)
    )
    outcome = clean("lost")
    assert [removal.what for removal in outcome.removed] == [f"row of take {gone.pk}"]
    assert set(Take.objects.all()) == {back, loved, whole}
    assert Take.objects.get(pk=back.pk).file_missing_since is None
    assert outcome.left == 1


def test_a_folder_that_is_not_mounted_costs_no_row(alice: User, home: Path) -> None:
    take = make_take(alice)
    left_out = ("id", "job_id", "file_name")
    same = {
        f.attname: getattr(take, f.attname) for f in Take._meta.concrete_fields if f.attname not in left_out
    }
    Take.objects.bulk_create(Take(**same, file_name=f"20260101-{n}-1-abcdef01.wav") for n in range(20))
    (home / "takes").rename(home / "elsewhere")
    outcome = clean("lost")
    assert "is the folder of takes there?" in outcome.note
    assert not Take.objects.filter(file_missing_since__isnull=False).exists()


def test_an_adapter_without_its_file_is_told_and_kept(home: Path, db: None) -> None:
    from adapters.models import Adapter

    Adapter.objects.create(
        name="Jazz", sha256="0" * 64, weights_sha256="a" * 64, file_bytes=1, config={},
        tensor_count=2, rank=4, alpha=8.0, source="folder",
    )  # fmt: skip
    assert "1 adapter without a file: Jazz" in clean("lost").note
    assert Adapter.objects.exists()


def test_what_killed_processes_left_goes(home: Path, db: None) -> None:
    EngineHost.objects.create(name="alive", hostname="m", pid=1)
    kept = aged(home / "scratch" / "alive" / "1.wav", 2 * DAY)
    aged(home / "scratch" / "dead" / "1.wav", 2 * DAY)
    for folder in (home / "scratch" / "alive", home / "scratch" / "dead"):
        os.utime(folder, (time.time() - 2 * DAY,) * 2)
    upload, running = aged(home / "incoming" / "tmpabc", 2 * DAY), aged(home / "incoming" / "tmpdef", 60)
    part = aged(home / "takes" / ".x1_a.wav.part", 2 * DAY)
    fresh = aged(home / "cache" / "converted" / ".x.mp3.part", 60)
    assert len(clean("half-made").removed) == 3
    assert [path.exists() for path in (kept, upload, running, part, fresh)] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert not (home / "scratch" / "dead").exists()


def test_copies_that_nobody_uses_go(home: Path, alice: User) -> None:
    from generation import audio_files

    flac, mp3 = audio_files.audio_format("flac"), audio_files.audio_format("mp3")
    take = make_take(alice)
    for wanted in (mp3, flac):
        takes.opened_in_format(take, wanted).close()
    unused, used = (takes.converted_folder() / f"{take_file(take).stem}.{name}" for name in ("mp3", "flac"))
    for path in (unused, used):
        aged(path, 8 * DAY)
    takes.opened_in_format(take, flac).close()  # somebody listens to it
    ownerless = aged(used.with_name("20260101-9-1-abcdef01.ogg"), 2 * 3600)
    clean("conversions")
    assert [path.exists() for path in (unused, used, ownerless)] == [False, True, False]


# Runs.


def test_each_rule_runs_when_it_is_due_and_once(alice: User) -> None:
    make_take(alice, deleted_at=timezone.now() - timedelta(hours=2))
    first = run_due()
    assert [outcome.rule.name for outcome in first] == list(RULES_BY_NAME)
    assert run_due() == [], "not due again"
    row = CleanUp.objects.get(name="deleted")
    assert (row.removed, row.removed_total) == (1, 1)
    assert row.freed_bytes_total > 0
    CleanUp.objects.filter(name="deleted").update(due_at=timezone.now())
    assert [outcome.rule.name for outcome in run_due()] == ["deleted"]
    row.refresh_from_db()
    assert (row.removed, row.removed_total) == (0, 1)


def test_a_clock_that_was_ahead_stops_no_rule(db: None) -> None:
    run_due()
    CleanUp.objects.filter(name="limits").update(due_at=timezone.now() + timedelta(days=400))
    assert [outcome.rule.name for outcome in run_due()] == ["limits"]


def test_a_run_that_did_all_it_may_comes_again_at_once(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BATCH", 1)
    make_take(alice, deleted_at=timezone.now() - timedelta(hours=2))
    run_due()
    assert "deleted" in [outcome.rule.name for outcome in run_due()]


def test_a_run_stops_when_the_server_does(alice: User) -> None:
    make_take(alice, deleted_at=timezone.now() - timedelta(hours=2))
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    run_due(stop)
    assert Take.objects.count() == 1


def test_one_failure_stops_no_other_removal(alice: User, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (make_take(alice, deleted_at=timezone.now() - timedelta(hours=hours)) for hours in (3, 2))
    take_file(first).unlink()
    take_file(first).mkdir()  # no file, so not ours to remove
    outcome = run_rule(RULES_BY_NAME["deleted"], Look())
    assert "is not the name of a file" in outcome.problems[0]
    assert not take_file(second).exists()
    assert CleanUp.objects.get(name="deleted").note == outcome.problems[0][:300]


def test_only_telling_changes_nothing(alice: User, home: Path, studio: Callable[..., None]) -> None:
    old_take(alice)
    make_take(alice, deleted_at=timezone.now() - timedelta(hours=2))
    take_file(make_take(alice)).unlink()
    aged(home / "takes" / "20260101-1-1-abcdef01.wav", 2 * DAY)
    studio(keep_takes_days=30, max_takes_gb=1e-9, when_full="remove-oldest")
    before = sorted(home.rglob("*")), list(Take.objects.order_by("id").values())
    told = sum(len(outcome.removed) for outcome in run.run_all(Look(only_tells=True, at_once=False)))
    assert told >= 3
    assert (sorted(home.rglob("*")), list(Take.objects.order_by("id").values())) == before
    assert not CleanUp.objects.exists()


def test_ages_are_in_the_order_that_safety_asks_for() -> None:
    assert leftovers.ORPHAN_AGE_AT_ONCE < leftovers.PART_AGE < leftovers.ORPHAN_AGE

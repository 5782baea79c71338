"""Disk use: what each person sees of it, what a full studio says, the command, and that no path leads out."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from generation import housekeeper
from generation.housekeeper import Housekeeper
from generation.models import Take
from generation.services import storage, takes
from generation.services.refusals import StorageFull
from generation.services.submission import GenerationRequest, submit_job
from registry.media import files
from tests.generation.music import demo, make_take
from tests.media_files import take_file

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def studio(settings: Any) -> Callable[..., None]:
    """Set the operator's settings."""

    def change(**values: Any) -> None:
        settings.STUDIO = settings.STUDIO.model_copy(update=values)

    return change


def ask(owner: User, seconds: float = 1.0) -> Any:
    return submit_job(owner=owner, request=GenerationRequest(prompt="piano", duration_seconds=seconds))


# A full studio.


@pytest.mark.django_db
def test_a_person_at_the_limit_is_told_and_others_go_on(
    alice: User, bob: User, studio: Callable[..., None]
) -> None:
    take = make_take(alice)
    studio(max_person_gb=(take.file_bytes + 10) / 1e9)
    with pytest.raises(StorageFull) as refused:
        ask(alice)
    assert refused.value.first.code == "STORAGE_FULL"
    assert refused.value.first.facts["used_bytes"] == take.file_bytes
    assert str(refused.value).startswith("Your takes, clips and waiting jobs use ")
    studio(max_person_gb=0.1)
    assert ask(bob).pk


@pytest.mark.django_db
def test_deleting_makes_room_at_once(alice: User, studio: Callable[..., None]) -> None:
    take = make_take(alice)
    one_second = storage.bytes_of(demo(), 1.0)
    studio(max_person_gb=(one_second + 10) / 1e9)
    with pytest.raises(StorageFull):
        ask(alice)
    takes.delete_take(take)
    assert ask(alice).pk


@pytest.mark.django_db
def test_waiting_jobs_count_with_what_they_will_write(alice: User, studio: Callable[..., None]) -> None:
    studio(max_person_gb=2.5 * storage.bytes_of(demo(), 1.0) / 1e9)
    ask(alice)
    ask(alice)
    with pytest.raises(StorageFull):
        ask(alice)


@pytest.mark.django_db
def test_the_limit_of_all_holds_for_everybody(alice: User, bob: User, studio: Callable[..., None]) -> None:
    make_take(alice)
    studio(max_takes_gb=1e-6)
    with pytest.raises(StorageFull, match="ask the person who runs the studio"):
        ask(bob)


@pytest.mark.django_db
def test_where_rules_make_room_only_favourites_refuse_a_job(alice: User, studio: Callable[..., None]) -> None:
    take = make_take(alice)
    one_second = storage.bytes_of(demo(), 1.0)
    studio(max_person_gb=(one_second + 10) / 1e9, when_full="remove-oldest")
    assert ask(alice).pk
    takes.toggle_favourite(take)
    with pytest.raises(StorageFull, match=r"^Your favourites, clips and waiting jobs"):
        ask(alice)


@pytest.mark.django_db
def test_a_full_disk_refuses_before_the_work_and_the_api_says_507(
    client: Client, owner: User, studio: Callable[..., None]
) -> None:
    studio(min_free_gb=10**9)
    answer = client.post(
        "/api/generations", {"prompt": "piano", "duration_seconds": 1}, content_type="application/json"
    )
    assert answer.status_code == 507
    assert answer.json()["error_code"] == "DISK_FULL"
    assert "The studio's disk is nearly full" in answer.json()["error"]
    page = client.post("/", {"prompt": "piano", "duration_seconds": "1"})
    assert page.status_code == 400
    assert "disk is nearly full" in page.content.decode()


# What people see.


@pytest.mark.django_db
def test_people_see_their_own_use(
    shared_mode: None, client: Client, alice: User, bob: User, studio: Callable[..., None]
) -> None:
    take = make_take(alice, is_favourite=True)
    make_take(alice)
    make_take(bob)
    studio(max_person_gb=2, keep_takes_days=30)
    client.force_login(alice)
    use = client.get("/api/storage").json()
    assert use == {
        "takes": 2,
        "used_bytes": 2 * take.file_bytes,
        "favourite_bytes": take.file_bytes,
        "clip_bytes": 0,
        "max_bytes": 2_000_000_000,
        "keep_takes_days": 30,
        "keep_deleted_hours": 1,
        "when_full": "refuse",
    }
    library = client.get("/library/").content.decode().replace("\u202f", " ")
    assert "of 2 GB. They are deleted after 30 days; favourites stay." in library
    account = client.get("/account/").content.decode().replace("\u202f", " ")
    assert "of 2 GB, 2 takes; kept 30 days, favourites always" in account


@pytest.mark.django_db
def test_staff_see_who_uses_most_and_what_the_rules_did(
    shared_mode: None, client: Client, alice: User, bob: User, staff: User, studio: Callable[..., None]
) -> None:
    make_take(alice, prompt="a private prompt")
    make_take(alice, deleted_at=timezone.now() - timedelta(hours=2))
    make_take(bob)
    make_take(bob)
    call_command("clean_up", stdout=StringIO())
    client.force_login(staff)
    page = client.get("/settings/inside/").content.decode()
    assert page.index(">bob<") < page.index(">alice<")
    assert "Deleted takes" in page
    assert "a private prompt" not in page
    metrics = client.get("/metrics").content.decode()
    assert "musicgen_takes 3.0" in metrics
    assert 'musicgen_cleaned_up_total{rule="deleted"} 1.0' in metrics
    assert "alice" not in metrics


# A download.


@pytest.mark.django_db
def test_a_download_under_way_outlives_the_take(client: Client, owner: User) -> None:
    take = make_take(owner, seconds=40)
    content = take_file(take).read_bytes()
    assert len(content) > 2 * 256 * 1024
    answer: Any = client.get(f"/api/takes/{take.pk}/audio")
    Take.objects.filter(pk=take.pk).update(deleted_at=timezone.now() - timedelta(hours=2))
    assert takes.purge_deleted_takes() == 1
    assert not take_file(take).exists()

    async def read() -> bytes:
        return b"".join([chunk async for chunk in answer.streaming_content])

    assert async_to_sync(read)() == content


# The command.


@pytest.mark.django_db
def test_the_command_tells_and_then_does(alice: User, studio: Callable[..., None]) -> None:
    take = make_take(alice, deleted_at=timezone.now() - timedelta(hours=2))
    told, done = StringIO(), StringIO()
    call_command("clean_up", "--dry-run", stdout=told)
    assert f"take {take.pk} of alice" in told.getvalue()
    assert "deleted more than 1 h ago" in told.getvalue()
    assert "1 would be removed" in told.getvalue()
    assert take_file(take).exists()
    call_command("clean_up", "--json", stdout=done)
    facts = json.loads(done.getvalue())
    assert [rule["freed_bytes"] for rule in facts["rules"] if rule["rule"] == "deleted"] == [take.file_bytes]
    assert not take_file(take).exists()
    again = StringIO()
    call_command("clean_up", stdout=again)
    assert "0 removed" in again.getvalue()


@pytest.mark.django_db
def test_the_command_fails_when_something_stays(alice: User) -> None:
    take = make_take(alice, deleted_at=timezone.now() - timedelta(hours=2))
    take_file(take).unlink()
    take_file(take).mkdir()
    with pytest.raises(CommandError, match="1 of them could not be removed"):
        call_command("clean_up", stdout=StringIO(), stderr=StringIO())


# Paths.


@pytest.mark.parametrize("name", ["", ".", "..", "../a.wav", "/etc/passwd", "a/b.wav", "a\0b"])
def test_no_name_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "takes"
    folder.mkdir()
    (tmp_path / "a.wav").touch()
    for remove in (files.remove_file, files.set_aside, files.remove_entry):
        with pytest.raises(files.NotOurs, match="is not the name of a file in a folder of the studio's"):
            remove(folder, name)
    assert (tmp_path / "a.wav").exists()


def test_a_link_is_not_followed_out(tmp_path: Path) -> None:
    folder, outside = tmp_path / "takes", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "a.wav").touch()
    (folder / "link.wav").symlink_to(outside / "a.wav")
    (folder / "tree").symlink_to(outside)
    with pytest.raises(files.NotOurs):
        files.remove_file(folder, "link.wav")
    files.remove_entry(folder, "tree")
    assert files.files_in(folder) == []
    (folder / files.ASIDE).symlink_to(outside)
    (folder / "b.wav").touch()
    with pytest.raises(files.NotOurs):
        files.set_aside(folder, "b.wav")
    assert [path.name for path in outside.iterdir()] == ["a.wav"]


@pytest.mark.django_db
def test_a_row_with_a_name_that_leads_out_removes_nothing(alice: User, home: Path) -> None:
    secret = home / "secret_key"
    take = make_take(alice, file_name="../secret_key", deleted_at=timezone.now() - timedelta(hours=2))
    secret.write_text("x")
    with pytest.raises(CommandError):
        call_command("clean_up", stdout=StringIO(), stderr=StringIO())
    assert secret.exists()
    assert not Take.objects.filter(pk=take.pk).exists()


# By itself.


@pytest.mark.django_db(transaction=True)
def test_a_serving_process_cleans_up_by_itself(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "FIRST_LOOK", 0)
    take = make_take(alice, deleted_at=timezone.now() - timedelta(hours=2))

    async def scenario() -> None:
        keeper = Housekeeper()
        running = asyncio.create_task(keeper.run())
        for _ in range(200):
            if not take_file(take).exists():
                break
            await asyncio.sleep(0.05)
        await keeper.stop(running)

    async_to_sync(scenario)()
    assert not take_file(take).exists()

"""Takes and weights are kept alike in a folder and in a bucket: played, converted, cleaned up, removed."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from adapters.models import Adapter
from adapters.models.adapter import weights_name
from adapters.services.importing import ZipSource, import_adapter
from generation import audio_files
from generation.models import Take
from generation.retention import leftovers
from generation.retention.rules import Look
from generation.retention.run import RULES_BY_NAME, Outcome, run_rule
from generation.services import jobs, storage, takes
from generation.services.adapters import delete_adapter
from generation.services.refusals import StorageFull
from registry.media import Media, NotOurs, takes_media, weights_media
from tests.adapters.zips import adapter_files, zipped
from tests.generation.adapting import bring_in_zip
from tests.generation.music import HOST, make_running_job, make_take, recipe_for, save, tone
from tests.generation.test_take_audio import body

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home", "kept_in")]


@pytest.fixture(params=["folder", "bucket"])
def kept_in(request: pytest.FixtureRequest, home: Path) -> str:
    """Where this test's takes and weights are kept."""
    if request.param == "bucket":
        request.getfixturevalue("bucket")
    return str(request.param)


def names(media: Media, *, aside: bool = False) -> list[str]:
    return sorted(file.name for file in media.entries(aside=aside) if not file.name.startswith("."))


def content_of(media: Media, name: str) -> bytes:
    opened = media.opened(name)
    try:
        return opened.stream().read()
    finally:
        opened.close()


def clean(rule: str, **look: bool) -> Outcome:
    outcome = run_rule(RULES_BY_NAME[rule], Look(**look))
    assert outcome.problems == []
    return outcome


@pytest.fixture
def jazz(tmp_path: Path) -> Adapter:
    return bring_in_zip(zipped(adapter_files()), tmp_path, "Jazz")


# Playing.


def test_a_take_is_played_whole_and_in_parts(owner: User, client: Client) -> None:
    take = make_take(owner)
    content = content_of(takes_media(), take.file_name)
    assert len(content) == take.file_bytes
    whole = client.get(take.audio_url)
    assert (whole.status_code, body(whole), whole["Content-Length"]) == (200, content, str(len(content)))
    for header, first, last in (("bytes=0-0", 0, 0), ("bytes=100-199", 100, 199), ("bytes=-100", -100, -1)):
        part = client.get(take.audio_url, headers={"Range": header})
        start, end = first % len(content), last % len(content)
        assert (part.status_code, body(part)) == (206, content[start : end + 1])
        assert part["Content-Range"] == f"bytes {start}-{end}/{len(content)}"
    assert client.get(take.audio_url, headers={"Range": "bytes=99999999-"}).status_code == 416
    assert client.get(take.audio_url, headers={"If-None-Match": whole["ETag"]}).status_code == 304
    head = client.head(take.audio_url)
    assert (head["Content-Length"], body(head)) == (str(len(content)), b"")


def test_nobody_else_hears_it(owner: User, bob: User, client: Client, shared_mode: None) -> None:
    client.force_login(bob)
    assert client.get(make_take(owner).audio_url).status_code == 404


def test_a_copy_in_another_format_is_made_once_on_this_machine(
    owner: User, client: Client, home: Path
) -> None:
    take = make_take(owner)
    flac = body(client.get(f"{take.audio_url}?format=flac"))
    (copy,) = takes.converted_folder().iterdir()
    assert copy.read_bytes() == flac
    assert audio_files.read_recipe(copy) == take.recipe
    copy.write_bytes(b"kept")
    assert body(client.get(f"{take.audio_url}?format=flac")) == b"kept"
    assert names(takes_media()) == [take.file_name]
    assert not any((home / "scratch").glob("**/*.wav")), "nothing is left of the way there"


def test_a_take_that_lost_its_file_is_explained(owner: User, client: Client) -> None:
    take = make_take(owner)
    takes_media().remove(take.file_name)
    for form in ("wav", "mp3"):
        answer = client.get(f"{take.audio_url}?format={form}")
        assert (answer.status_code, answer.json()["error_code"]) == (410, "TAKE_FILE_MISSING")


# Keeping and removing.


def test_a_take_that_is_no_longer_ours_leaves_no_file(owner: User) -> None:
    job = make_running_job(owner)
    assert save(job, host="somebody else") is None
    assert names(takes_media()) == []


def test_files_of_a_fallen_host_go_with_its_lease(owner: User, bob: User, home: Path) -> None:
    kept = make_take(bob)
    job = make_running_job(owner, host="fallen", variations=2)
    first = save(job, host="fallen")
    assert first is not None
    source = tone(home / "scratch" / "made.wav")
    orphan = takes.write_take(
        job,
        variation=1,
        source=source,
        recipe=recipe_for(job),
        frames=50,
        render_seconds=1.0,
        hostname="machine",
    )
    assert orphan.file_name in names(takes_media())
    assert jobs.recover_jobs(HOST, lapsed=lambda job: True) == 1
    assert names(takes_media()) == sorted([kept.file_name, first.file_name])


def test_a_deleted_take_goes_for_good(owner: User) -> None:
    take, kept = make_take(owner), make_take(owner)
    Take.objects.filter(pk=take.pk).update(deleted_at=timezone.now() - timedelta(hours=2))
    assert clean("deleted").freed_bytes == take.file_bytes
    assert names(takes_media()) == [kept.file_name]


def test_no_name_leads_elsewhere(owner: User) -> None:
    make_take(owner)
    for name in ("", "..", "../takes", "a/b.wav", "/etc/passwd", "a\0b"):
        for what in (takes_media().remove, takes_media().set_aside):
            with pytest.raises(NotOurs):
                what(name)


# The clean-up.


def test_an_orphan_is_set_aside_and_then_removed(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    take = make_take(owner)
    with takes_media().writing("20260101-9-1-0123abcd.wav") as path:
        path.write_bytes(b"RIFF")
    assert clean("orphans").removed == [], "it may be somebody's work of this moment"
    monkeypatch.setattr(leftovers, "ORPHAN_AGE", -5.0)
    (removed,) = clean("orphans").removed
    assert removed.what == "takes/20260101-9-1-0123abcd.wav"
    assert names(takes_media()) == [take.file_name]
    assert names(takes_media(), aside=True) == ["20260101-9-1-0123abcd.wav"]
    monkeypatch.setattr(leftovers, "WAIT", timedelta(seconds=-5))
    assert clean("orphans").freed_bytes == 4
    assert names(takes_media(), aside=True) == []


def test_weights_without_a_row_go_and_those_with_one_stay(
    jazz: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with weights_media().writing(weights_name("ab" * 32)) as path:
        path.write_bytes(b"weights")
    assert clean("orphans", at_once=True).removed == [], "too young even so"
    monkeypatch.setattr(leftovers, "ORPHAN_AGE_AT_ONCE", -5.0)
    (gone,) = clean("orphans", at_once=True).removed
    assert gone.what == f"adapters/{weights_name('ab' * 32)}"
    assert names(weights_media()) == [weights_name(jazz.weights_sha256)]


def test_a_row_that_lost_its_file_waits_for_it(owner: User, jazz: Adapter) -> None:
    lost, kept = make_take(owner), make_take(owner)
    takes_media().remove(lost.file_name)
    weights_media().remove(weights_name(jazz.weights_sha256))
    outcome = clean("lost")
    assert set(Take.objects.filter(file_missing_since__isnull=False)) == {lost}
    assert outcome.note == "1 adapter without a file: Jazz v1.0. Import or delete."
    assert [each.what for each in clean("lost", at_once=True).removed] == [f"row of take {lost.pk}"]
    assert set(Take.objects.all()) == {kept}


def test_a_full_disk_concerns_only_takes_that_lie_on_it(
    owner: User, kept_in: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_take(owner, deleted_at=timezone.now())
    monkeypatch.setattr(storage, "free_bytes", lambda: 0)
    refuses = kept_in == "folder"
    assert bool(clean("limits").removed) == refuses
    if refuses:
        with pytest.raises(StorageFull):
            storage.check_storage(owner, 1000)
    else:
        storage.check_storage(owner, 1000)


# Weights.


def test_weights_are_kept_once_and_go_with_their_last_adapter(jazz: Adapter, tmp_path: Path) -> None:
    again = import_adapter(source=ZipSource(tmp_path / "Jazz.zip", "Jazz.zip"), name="Twin").adapter
    assert names(weights_media()) == [weights_name(jazz.weights_sha256)]
    assert delete_adapter(jazz).freed_bytes == 0
    assert delete_adapter(again).freed_bytes == again.file_bytes
    assert names(weights_media()) == []


def test_a_refused_import_leaves_no_file(
    jazz: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no row today")

    delete_adapter(jazz)
    monkeypatch.setattr(Adapter, "save", fail)
    with pytest.raises(Exception, match="no row today"):
        import_adapter(source=ZipSource(tmp_path / "Jazz.zip", "Jazz.zip"), name="Jazz")
    assert names(weights_media()) == []

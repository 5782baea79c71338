"""What only a bucket does: it goes away and comes back, refuses, and is copied from; seen through a real server."""

import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.response import StreamingBody
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from adapters.format.errors import AdapterRefused
from adapters.models import Adapter
from adapters.models.adapter import weights_name
from adapters.services import local_weights as copies
from adapters.services import storage as weights
from adapters.services.importing import ZipSource, import_adapter
from adapters.services.local_weights import cache_folder, local_weights
from generation import database
from generation.host_row import HostRow
from generation.models import Take
from generation.retention import run
from generation.retention.rules import Look
from generation.services import takes
from generation.services.adapters import delete_adapter
from musicgen_site import health
from musicgen_site.media_address import media_storages
from registry.media import MediaAway, takes_media, weights_media
from tests.adapters.zips import adapter_files, zipped
from tests.conftest import StorageServer
from tests.generation.adapting import bring_in_zip
from tests.generation.music import HOST, make_running_job, make_take, recipe_for, tone
from tests.generation.test_take_audio import body

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home", "bucket")]

AWAY = "The storage of takes and adapters, the bucket takes-"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "AGAIN_AFTER", 0.05)
    copies._seen.clear()
    health.forget()


@pytest.fixture
def jazz(tmp_path: Path) -> Adapter:
    return bring_in_zip(zipped(adapter_files()), tmp_path, "Jazz")


def test_an_engine_that_tidies_leaves_what_is_on_its_way() -> None:
    """Its own uploads, and those of others that share its home."""
    host = HostRow(serves_all=True)
    host.announce()
    (host.scratch.parent / "dead").mkdir(parents=True)
    with takes_media().writing("20261122-1-1-abcd.wav") as path:
        path.write_bytes(b"RIFF")
        host.sweep_scratch()
    assert takes_media().exists("20261122-1-1-abcd.wav")
    assert not (host.scratch.parent / "dead").exists()


def hours_ago(hours: float) -> datetime:
    return timezone.now() - timedelta(hours=hours)


# It goes away.


def test_a_player_is_told_that_it_is_away(
    owner: User, client: Client, storage_server: StorageServer, caplog: pytest.LogCaptureFixture
) -> None:
    take = make_take(owner)
    with storage_server.away():
        for form in ("wav", "flac"):
            answer = client.get(f"{take.audio_url}?format={form}")
            assert answer.status_code == 503
            assert answer.json()["error_code"] == "MEDIA_AWAY"
            assert answer.json()["error"].startswith(AWAY)
            assert "check the network" in answer.json()["error"]
        assert client.get("/library/").status_code == 200, "pages need no files"
    assert "studio-secret" not in caplog.text
    assert client.get(take.audio_url).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_a_take_is_kept_once_it_is_back(owner: User, home: Path, storage_server: StorageServer) -> None:
    job = make_running_job(owner)
    source = tone(home / "scratch" / "made.wav")
    name = takes.new_file_name(job, 0)
    storage_server.stop()
    back = threading.Timer(0.5, storage_server.start)
    back.start()
    try:
        take = async_to_sync(database.written(takes.write_take))(
            job,
            variation=0,
            source=source,
            recipe=recipe_for(job),
            frames=50,
            render_seconds=1.0,
            hostname="machine",
            file_name=name,
        )
    finally:
        back.join()
    assert takes.keep_take(take, job, host=HOST) == Take.objects.get()
    assert [file.name for file in takes_media().entries()] == [name]
    assert not source.exists()


def test_what_is_deleted_meanwhile_is_found_by_the_clean_up(
    owner: User, jazz: Adapter, storage_server: StorageServer
) -> None:
    kept, take = make_take(owner, deleted_at=hours_ago(2)), make_take(owner, deleted_at=hours_ago(3))
    with storage_server.away():
        (problem,) = run.run_rule(run.RULES_BY_NAME["deleted"], Look()).problems
        assert problem.startswith(f"take {take.pk} of {owner} cannot be removed: {AWAY}")
        assert delete_adapter(jazz).freed_bytes == 0
        outcome = run.run_rule(run.RULES_BY_NAME["orphans"], Look())
        assert AWAY in outcome.problems[0]
    assert Take.objects.get() == kept, "one is enough to know"
    assert not Adapter.objects.exists()
    outcome = run.run_rule(run.RULES_BY_NAME["orphans"], Look())
    assert (outcome.problems, outcome.left) == ([], 2)


def test_an_import_is_refused_meanwhile(jazz: Adapter, tmp_path: Path, storage_server: StorageServer) -> None:
    with storage_server.away(), pytest.raises(AdapterRefused) as refused:
        import_adapter(source=ZipSource(tmp_path / "Jazz.zip", "Jazz.zip"), name="Again")
    assert refused.value.code == "MEDIA_AWAY"
    assert refused.value.message.endswith("Nothing was kept; try again later.")
    assert Adapter.objects.get() == jazz


def test_readyz_and_check_tell(client: Client, storage_server: StorageServer) -> None:
    assert client.get("/readyz").json()["checks"]["media"] == {"ok": True}
    call_command("check")
    with storage_server.away():
        health.forget()
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "Check MUSICGEN_MEDIA_URL" in answer.json()["error"]
        with pytest.raises(CommandError, match="It does not answer: check the network, the endpoint"):
            call_command("check")
        for command in (("serve", "--port", "0"), ("runworker", "generation")):
            with pytest.raises(CommandError, match=AWAY):
                call_command(*command)


def test_what_lies_there_is_told(owner: User, jazz: Adapter, client: Client) -> None:
    take = make_take(owner)
    metrics = client.get("/metrics").content.decode()
    assert f'musicgen_bucket_used_bytes{{kind="takes"}} {float(take.file_bytes)}' in metrics
    assert f'musicgen_bucket_used_bytes{{kind="adapters"}} {float(jazz.file_bytes)}' in metrics
    assert "takes in the bucket" in client.get("/settings/inside/").content.decode()


# It refuses.


def test_what_is_wrong_is_named(bucket: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.STORAGES = {**settings.STORAGES, **media_storages(bucket.replace("s3://takes-", "s3://other-"))}
    with pytest.raises(MediaAway, match="There is no such bucket: make it, or correct MUSICGEN_MEDIA_URL"):
        takes_media().probe()
    settings.STORAGES = {**settings.STORAGES, **media_storages(bucket)}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    settings.STORAGES = {**settings.STORAGES}
    with pytest.raises(MediaAway, match="There are no credentials for it: set AWS_ACCESS_KEY_ID and"):
        takes_media().probe()


def test_a_refused_upload_says_so_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    media: Any = takes_media()
    monkeypatch.setattr(media._client, "put_object", refuse)
    with (
        pytest.raises(MediaAway, match="check what the credentials may do"),
        media.writing("20260101-9-1-0123abcd.wav") as path,
    ):
        path.write_bytes(b"RIFF")
    assert media.entries() == []
    assert not path.exists()


def test_without_its_packages_the_extra_is_named(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from musicgen_site import checks

    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    (error,) = checks.check_media_packages()
    assert "pip install" in error.msg
    settings.STORAGES = {**settings.STORAGES, "takes": {"BACKEND": "registry.media.nothing.Nothing"}}
    with pytest.raises(MediaAway, match="the packages for it are not installed"):
        takes_media()
    settings.STUDIO = settings.STUDIO.model_copy(update={"media_url": None})
    assert checks.check_media_packages() == []


# Parts of it.


def recorded(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    """The function, each of whose calls leaves its arguments in the list."""

    def call(*args: Any, **named: Any) -> Any:
        calls.append((args, named))
        return function(*args, **named)

    return call


def test_a_part_is_asked_for_alone(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    take = make_take(owner)
    media: Any = takes_media()
    asked: list[Any] = []
    monkeypatch.setattr(media._client, "get_object", recorded(media._client.get_object, asked))
    with closing(media.opened(take.file_name)) as opened, closing(opened.stream(10, 90)) as stream:
        assert len(stream.read(1000)) == 90
    assert [named["Range"] for _, named in asked] == ["bytes=10-99"]


def test_an_answer_that_breaks_off_is_told(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    take = make_take(owner)
    with closing(takes_media().opened(take.file_name).stream()) as stream:
        monkeypatch.setattr(StreamingBody, "read", fail)
        with pytest.raises(MediaAway, match="It does not answer"):
            stream.read(10)


def fail(*_: object, **__: object) -> None:
    raise ReadTimeoutError(endpoint_url="http://127.0.0.1")


def test_an_answer_reads_no_more_than_it_sends(
    owner: User, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from generation import audio_response

    monkeypatch.setattr(audio_response, "CHUNK_BYTES", 1000)
    take = make_take(owner)
    reads: list[Any] = []
    monkeypatch.setattr(StreamingBody, "read", recorded(StreamingBody.read, reads))
    assert len(body(client.get(take.audio_url, headers={"Range": "bytes=0-2499"}))) == 2500
    assert [args[1] for args, _ in reads] == [1000, 1000, 500]


# Copies for engines.


def test_weights_are_fetched_once_and_compared(jazz: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    media: Any = type(weights_media())
    fetched: list[Any] = []
    monkeypatch.setattr(media, "opened", recorded(media.opened, fetched))
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(local_weights(jazz.weights_sha256))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(paths) == {cache_folder() / weights_name(jazz.weights_sha256)}
    assert len(fetched) == 1
    assert paths[0].stat().st_size == jazz.file_bytes


def test_a_damaged_copy_is_fetched_again(jazz: Adapter) -> None:
    path = local_weights(jazz.weights_sha256)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    assert local_weights(jazz.weights_sha256).read_bytes() == content


def test_damaged_weights_are_never_called_by_their_hash(jazz: Adapter) -> None:
    with weights_media().writing(weights_name(jazz.weights_sha256)) as path:
        path.write_bytes(b"somebody else's")
    found = local_weights(jazz.weights_sha256)
    assert (found.name, found.read_bytes()) == (
        f"damaged-{weights_name(jazz.weights_sha256)}",
        b"somebody else's",
    )
    weights_media().remove(weights_name(jazz.weights_sha256))
    assert not local_weights(jazz.weights_sha256).exists()


def test_copies_stay_within_their_bound(
    jazz: Adapter, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"media_cache_gb": jazz.file_bytes * 1.5 / 10**9})
    other = cache_folder() / weights_name("ab" * 32)
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x" * jazz.file_bytes)
    path = local_weights(jazz.weights_sha256)
    assert other.exists(), "somebody may be reading it"
    path.unlink()
    monkeypatch.setattr(copies, "IN_USE", -5.0)
    assert local_weights(jazz.weights_sha256).exists()
    assert not other.exists()


@pytest.mark.django_db(transaction=True)
def test_machines_wait_for_each_other_in_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """This runs on PostgreSQL, too. Machines that share SQLite share its folder, and the lock there."""
    monkeypatch.setattr(weights, "folder_lock", lambda folder: nullcontext())

    def import_elsewhere() -> None:
        with weights.weights_lock():
            pass
        connections.close_all()

    other = threading.Thread(target=import_elsewhere)
    with weights.weights_lock():
        other.start()
        other.join(timeout=0.5)
        waits = other.is_alive()
    other.join(timeout=20)
    assert not other.is_alive()
    assert waits == (connection.vendor == "postgresql")


def test_each_machine_cleans_its_own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_due_here", {})
    run.run_due()
    monkeypatch.setattr(run, "_due_here", {})
    assert [outcome.rule.name for outcome in run.run_due()] == ["half-made", "conversions"]
    assert run.run_due() == []

"""Importing: from a folder, a zip or the hub; kept once, called as people wish, and nothing left of a refused one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from huggingface_hub import ModelCard, ModelCardData

from adapters.events import AdaptersChanged
from adapters.format.errors import AdapterRefused
from adapters.importing import store
from adapters.importing.hub import parse_hub_id
from adapters.importing.model_card import read_card, tidy_name
from adapters.models import Adapter, AdapterSource
from adapters.services import importing
from adapters.services.editing import Wording, edit_adapter
from adapters.services.importing import (
    FolderSource,
    HubSource,
    ImportResult,
    Source,
    ZipSource,
    import_adapter,
)
from adapters.services.proofs import mark_broken
from adapters.services.storage import remove_unused_weights
from registry.downloads import plan, transfer
from registry.events import Hint
from registry.models import ModelConfig
from registry.services import ModelNotFound
from tests.adapters.zips import CONFIG, WEIGHTS, adapter_files, lora_config, lora_tensors, safetensors, zipped
from tests.hub import FakeHub
from tests.hub.fake_hub import TOKEN
from tests.media_files import weights_file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, settings: Any) -> Path:
    settings.STUDIO = settings.STUDIO.model_copy(update={"home": tmp_path / "home"})
    return tmp_path / "home"


def write_folder(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    folder.mkdir(parents=True)
    for name, content in (files or adapter_files()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: dict[str, bytes] | None = None, **options: Any) -> Path:
    path.write_bytes(zipped(files or adapter_files(), **options))
    return path


def small_files(**changes: Any) -> dict[str, bytes]:
    """An adapter of the first layer of MusicGen Small."""
    return {
        CONFIG: json.dumps(lora_config(layers_to_transform=[0], **changes)).encode(),
        WEIGHTS: safetensors(lora_tensors(hidden=1024, layers=1)),
    }


def left_in(home: Path) -> list[str]:
    return sorted(path.name for path in home.rglob("*") if path.is_file() and path.name != ".lock")


def refused(source: Source, **wishes: Any) -> AdapterRefused:
    with pytest.raises(AdapterRefused) as caught:
        import_adapter(source=source, **wishes)
    return caught.value


# --- what is kept ---


def test_a_folder_is_imported_with_what_its_files_tell(
    db: None, home: Path, tmp_path: Path, staff: User
) -> None:
    files = adapter_files()
    folder = write_folder(tmp_path / "my_jazz-adapter", files)
    result = import_adapter(source=FolderSource(folder), imported_by=staff)
    adapter = Adapter.objects.get()
    assert (result.adapter, result.created) == (adapter, True)
    assert str(adapter) == "My Jazz Adapter v1.0"
    assert (adapter.source, adapter.source_name) == (AdapterSource.FOLDER, "my_jazz-adapter")
    assert adapter.imported_by == staff
    assert (adapter.rank, adapter.alpha, adapter.tensor_count) == (4, 8, 16)
    assert adapter.weights_sha256 == hashlib.sha256(files[WEIGHTS]).hexdigest()
    assert adapter.file_bytes == len(files[WEIGHTS])
    assert weights_file(adapter).read_bytes() == files[WEIGHTS]
    assert weights_file(adapter) == home / "adapters" / f"{adapter.weights_sha256}.safetensors"
    assert left_in(home) == [weights_file(adapter).name]
    assert {path.name for path in folder.iterdir()} == set(files), "the user's own files stay"


def test_a_zip_is_imported_under_the_name_it_came_with(db: None, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "upload")
    adapter = import_adapter(source=ZipSource(path, "night_drive v2.zip")).adapter
    assert (adapter.name, adapter.source, adapter.source_name) == (
        "Night Drive V2",
        "zip",
        "night_drive v2.zip",
    )


def test_the_folder_in_a_zip_names_it(db: None, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "upload", top="my_jazz-adapter/")
    assert import_adapter(source=ZipSource(path, "download (3).zip")).adapter.name == "My Jazz Adapter"


def test_a_name_and_more_can_be_given(db: None, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    adapter = import_adapter(
        source=ZipSource(path),
        name="  Slow\tSwing ",
        version="2025-b",
        description="Brushes.\nAnd bass.",
        trigger_words="swing, brushes",
        default_strength=0.8,
    ).adapter
    adapter.refresh_from_db()
    assert str(adapter) == "Slow Swing v2025-b"
    assert (adapter.description, adapter.trigger_words) == ("Brushes.\nAnd bass.", "swing, brushes")
    assert adapter.default_strength == 0.8


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"name": "a" * 121}, "name"),
        ({"name": "\u200b"}, "name"),
        ({"version": "1" * 41}, "version"),
        ({"description": "a" * 4001}, "description"),
        ({"trigger_words": "a" * 501}, "trigger_words"),
        ({"default_strength": 2.1}, "default_strength"),
        ({"default_strength": float("nan")}, "default_strength"),
        ({"default_strength": -0.1}, "default_strength"),
    ],
    ids=str,
)
def test_wishes_out_of_bounds_are_refused(
    wishes: dict[str, Any], field: str, db: None, home: Path, tmp_path: Path
) -> None:
    refusal = refused(ZipSource(write_zip(tmp_path / "a.zip")), **wishes)
    assert (refusal.code, refusal.facts["field"]) == ("FIELD_INVALID", field)
    assert left_in(home) == []


def test_a_model_card_describes_it(db: None, tmp_path: Path) -> None:
    readme = (
        "---\nbase_model: facebook/musicgen-small\ninstance_prompt: jazzy\ntags:\n- lora\n---\n"
        "# My jazz\n\n<!-- Provide a quick summary -->\n\nWarm *jazz* from [old records](http://x).\nWith bass.\n\nMore.\n"
    )
    files = {**small_files(base_model_name_or_path=None), "README.md": readme.encode()}
    adapter = import_adapter(source=FolderSource(write_folder(tmp_path / "jazz", files))).adapter
    assert adapter.description == "Warm jazz from old records. With bass."
    assert adapter.trigger_words == "jazzy"
    assert adapter.base_model_name == "facebook/musicgen-small"
    assert adapter.base_model == ModelConfig.objects.get(pk="musicgen-small")


def test_the_template_that_peft_fills_in_tells_nothing_but_the_base(tmp_path: Path) -> None:
    card = ModelCard.from_template(ModelCardData(base_model="facebook/musicgen-small", library_name="peft"))
    path = tmp_path / "README.md"
    path.write_text(f"{card.content}\n### Framework versions\n\n- PEFT 0.21.2\n", encoding="utf-8")
    told = read_card(path)
    assert (told.base_model, told.description) == ("facebook/musicgen-small", "")


def test_a_readme_that_is_no_text_tells_nothing(db: None, tmp_path: Path) -> None:
    files = {**adapter_files(), "README.md": os.urandom(200_000)}
    assert import_adapter(source=FolderSource(write_folder(tmp_path / "a", files))).created


@pytest.mark.parametrize(
    ("front", "base"),
    [
        ("base_model: owner/name", "owner/name"),
        ('base_model: "owner/name"  # the small one', "owner/name"),
        ("base_model:\n- owner/name\n- other/name", "owner/name"),
        ("base_model:\n  - 'owner/name'", "owner/name"),
        ("base_model: [owner/name, other/name]", "owner/name"),
        ("base_model: null", ""),
        ("tags: base_model", ""),
        ("x_base_model: owner/name", ""),
    ],
)
def test_a_card_names_the_base_in_several_ways(front: str, base: str, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"---\nlicence: mit\n{front}\n---\nText.\n", encoding="utf-8")
    assert read_card(path).base_model == base


@pytest.mark.parametrize(
    ("name", "tidy"),
    [
        ("my_jazz-adapter", "My Jazz Adapter"),
        ("RnB_lora", "RnB Lora"),
        ("checkpoint-500", "Checkpoint 500"),
        ("  __ ", "Adapter"),
        ("élan vital", "Élan Vital"),
        ("a\u202eb\x00c", "Abc"),
        ("x" * 300, "X" + "x" * 119),
    ],
)
def test_names_are_tidied(name: str, tidy: str) -> None:
    assert tidy_name(name) == tidy


def test_a_base_can_be_named_where_the_files_do_not(db: None, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", small_files(base_model_name_or_path=None))
    adapter = import_adapter(source=ZipSource(path), base_model="facebook/musicgen-small").adapter
    assert (adapter.base_model_id, adapter.base_model_name) == ("musicgen-small", "")


def test_an_impossible_base_is_refused(db: None, home: Path, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", small_files())
    refusal = refused(ZipSource(path), base_model="musicgen-large")
    assert (refusal.code, refusal.facts["model_id"]) == ("BASE_MODEL_IMPOSSIBLE", "musicgen-large")
    assert "1024" in refusal.message
    assert left_in(home) == []


def test_an_unknown_base_that_is_asked_for_is_refused(db: None, home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip")), base_model="musicgen-none")
    assert left_in(home) == []


def test_a_base_that_the_shapes_contradict_is_noted_and_not_believed(db: None, tmp_path: Path) -> None:
    files = small_files(base_model_name_or_path="facebook/musicgen-large")
    adapter = import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip", files))).adapter
    assert adapter.base_model is None
    assert adapter.base_model_name == "facebook/musicgen-large"
    assert any("MusicGen Large" in note or "musicgen-large" in note for note in adapter.notes)


def test_pickles_beside_the_weights_are_left_out_and_noted(db: None, home: Path, tmp_path: Path) -> None:
    files = {**adapter_files(), "adapter_model.bin": b"\x80\x02evil", "optimizer.pt": b"\x80\x02"}
    adapter = import_adapter(source=FolderSource(write_folder(tmp_path / "a", files))).adapter
    assert any("adapter_model.bin" in note and "never read" in note for note in adapter.notes)
    assert left_in(home) == [weights_file(adapter).name]


# --- the same again ---


def test_the_same_adapter_twice_is_one(db: None, home: Path, tmp_path: Path) -> None:
    first = import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip"), "jazz.zip"))
    again = import_adapter(source=FolderSource(write_folder(tmp_path / "other")))
    assert (again.adapter, again.created) == (first.adapter, False)
    assert left_in(home) == [weights_file(first.adapter).name]


def test_the_same_content_under_another_name_is_a_second_row_and_one_file(
    db: None, home: Path, tmp_path: Path
) -> None:
    path = write_zip(tmp_path / "a.zip")
    first = import_adapter(source=ZipSource(path), name="Jazz")
    second = import_adapter(source=ZipSource(path), name="Jazz", version="2.0")
    third = import_adapter(source=ZipSource(path), name="JAZZ", version="2.0")
    assert second.created
    assert second.adapter != first.adapter
    assert (third.adapter, third.created) == (second.adapter, False)
    assert Adapter.objects.count() == 2
    assert left_in(home) == [weights_file(first.adapter).name]


def test_another_adapter_of_the_same_name_is_refused(db: None, home: Path, tmp_path: Path) -> None:
    first = import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip"), "jazz.zip")).adapter
    other = write_zip(tmp_path / "b.zip", adapter_files(seed=2))
    refusal = refused(ZipSource(other, "jazz.zip"))
    assert (refusal.code, refusal.facts["adapter_id"]) == ("ADAPTER_NAME_TAKEN", first.pk)
    assert "Jazz v1.0" in refusal.message
    assert left_in(home) == [weights_file(first).name]
    assert import_adapter(source=ZipSource(other, "jazz.zip"), version="1.1").created


def test_another_config_of_the_same_weights_is_another_adapter_and_one_file(
    db: None, home: Path, tmp_path: Path
) -> None:
    first = import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip"))).adapter
    second = import_adapter(
        source=ZipSource(write_zip(tmp_path / "b.zip", adapter_files(lora_alpha=16)))
    ).adapter
    assert first.sha256 != second.sha256
    assert left_in(home) == [weights_file(first).name] == [weights_file(second).name]


def test_an_import_heals_a_row_whose_file_was_lost(db: None, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    adapter = import_adapter(source=ZipSource(path)).adapter
    weights_file(adapter).unlink()
    mark_broken(adapter, code="WEIGHTS_MISSING", reason="Its file is gone.")
    again = import_adapter(source=ZipSource(path))
    assert not again.created
    assert not again.adapter.is_broken
    assert weights_file(again.adapter).is_file()


def test_weights_go_when_no_row_needs_them(db: None, home: Path, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    first = import_adapter(source=ZipSource(path), name="One").adapter
    second = import_adapter(source=ZipSource(path), name="Two").adapter
    size = weights_file(first).stat().st_size
    first.delete()
    assert remove_unused_weights(second.weights_sha256) == 0
    assert weights_file(second).is_file()
    second.delete()
    assert remove_unused_weights(second.weights_sha256) == size
    assert remove_unused_weights(second.weights_sha256) == 0
    assert left_in(home) == []


def test_open_pages_are_told(
    db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    sent: list[Hint] = []

    async def note(hint: Hint) -> None:
        sent.append(hint)

    monkeypatch.setattr("registry.events.send", note)
    path = write_zip(tmp_path / "a.zip")
    with django_capture_on_commit_callbacks(execute=True):
        adapter = import_adapter(source=ZipSource(path)).adapter
    assert sent == [AdaptersChanged()]
    with django_capture_on_commit_callbacks(execute=True):
        import_adapter(source=ZipSource(path))
    assert len(sent) == 1, "nothing changed"
    with django_capture_on_commit_callbacks(execute=True):
        edit_adapter(adapter, Wording(name="Other"))
    assert len(sent) == 2


# --- at the same moment ---


@pytest.mark.django_db(transaction=True)
def test_imports_of_the_same_adapter_at_once_end_well(home: Path, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    results: list[ImportResult] = []
    problems: list[BaseException] = []
    start = threading.Barrier(6)

    def run() -> None:
        try:
            start.wait(timeout=10)
            results.append(import_adapter(source=ZipSource(path, "jazz.zip")))
        except BaseException as problem:  # noqa: BLE001 - shown by the assertion
            problems.append(problem)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert problems == []
    assert [result.created for result in results].count(True) == 1
    assert len({result.adapter.pk for result in results}) == 1
    assert left_in(home) == [weights_file(Adapter.objects.get()).name]


@pytest.mark.django_db(transaction=True)
def test_an_import_while_the_last_row_is_deleted_keeps_its_file(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    for _ in range(10):
        adapter = import_adapter(source=ZipSource(path, "jazz.zip")).adapter

        def delete(adapter: Adapter = adapter) -> None:
            weights = adapter.weights_sha256
            Adapter.objects.filter(pk=adapter.pk).delete()
            remove_unused_weights(weights)
            connections.close_all()

        deleting = threading.Thread(target=delete)
        deleting.start()
        import_adapter(source=ZipSource(path, "jazz.zip"))
        deleting.join(timeout=30)
        assert all(weights_file(row).is_file() for row in Adapter.objects.all())
        Adapter.objects.all().delete()


def test_a_process_that_was_killed_leaves_what_a_later_import_sweeps(
    db: None, home: Path, tmp_path: Path
) -> None:
    stale, fresh = home / "incoming" / "stale", home / "incoming" / "fresh"
    for folder in (stale, fresh):
        folder.mkdir(parents=True)
        (folder / WEIGHTS).write_bytes(b"half")
    upload = home / "incoming" / "tmp123.upload.zip"
    upload.write_bytes(b"half")
    outside = tmp_path / "outside"
    outside.mkdir()
    link = home / "incoming" / "link"
    link.symlink_to(outside)
    long_ago = time.time() - 2 * store.STALE_SECONDS
    for path in (stale, upload, outside):
        os.utime(path, (long_ago, long_ago))
    os.utime(link, (long_ago, long_ago), follow_symlinks=False)
    import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip")))
    assert not stale.exists()
    assert not upload.exists()
    assert not link.is_symlink()
    assert outside.is_dir()
    assert fresh.is_dir()


# --- what goes wrong ---


def test_a_full_disk_is_a_sentence(
    db: None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(importing, "keep_weights", full)
    refusal = refused(ZipSource(write_zip(tmp_path / "a.zip")))
    assert refusal.code == "DISK_FULL"
    assert "Free some space" in refusal.message
    assert left_in(home) == []
    assert not Adapter.objects.exists()


def test_a_disk_that_is_truly_full_is_a_sentence(tmp_path: Path) -> None:
    """On a file system of its own, where one can be mounted; what is half written is gone afterwards."""
    script = """
        set -e
        mount -t tmpfs -o size=1m none "$1"
        exec "$2" - "$1" <<'END'
import sys, pathlib, zipfile
from adapters.format.errors import AdapterRefused
from adapters.importing import archive, store
folder = pathlib.Path(sys.argv[1])
try:
    with store.arriving(folder / "incoming") as into:
        archive.unpack_zip(pathlib.Path(sys.argv[1] + ".zip"), into, max_bytes=10**8)
except AdapterRefused as refused:
    print(refused.code, [p.name for p in (folder / "incoming").iterdir()])
END
    """
    mount = tmp_path / "disk"
    mount.mkdir()
    noise = os.urandom(3_000_000)
    (tmp_path / "disk.zip").write_bytes(zipped({**adapter_files(), WEIGHTS: noise}))
    ended = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "bash", "-c", script, "bash", str(mount), sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if ended.returncode != 0 and "AdapterRefused" not in ended.stderr and "Traceback" not in ended.stderr:
        # No right to mount here: the errors of a device that is always full are the next best.
        with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
        return
    assert ended.stdout.strip() == "DISK_FULL []", ended.stderr


def test_too_little_room_is_told_before_anything_is_copied(
    db: None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RESERVE_BYTES", 10**18)
    refusal = refused(FolderSource(write_folder(tmp_path / "a")))
    assert refusal.code == "DISK_FULL"
    assert "Free" in refusal.message
    assert left_in(home) == []


def test_a_row_that_cannot_be_saved_leaves_no_file(
    db: None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the database went away")

    monkeypatch.setattr(Adapter, "save", fail)
    with pytest.raises(RuntimeError):
        import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip")))
    assert left_in(home) == []


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({CONFIG: b"{}"}, "NO_ADAPTER"),
        ({CONFIG: b"{}", "adapter_model.bin": b"\x80\x02"}, "PICKLE_REFUSED"),
        ({**adapter_files(), WEIGHTS: adapter_files()[WEIGHTS][:-9]}, "WEIGHTS_TRUNCATED"),
        ({WEIGHTS: adapter_files()[WEIGHTS]}, "NO_CONFIG"),
        ({"config.json": b"{}", **{f"model-0000{n}-of-00002.safetensors": b"" for n in (1, 2)}}, "FULL_CHECKPOINT"),
        ({"a.gguf": b"GGUF", "b.safetensors": b"", "c.safetensors": b""}, "NOT_WEIGHTS"),
        ({CONFIG: b"{}", "a.safetensors": b"", "b.safetensors": b""}, "NO_ADAPTER"),
        ({f"checkpoint-{n}/{name}": body for n in (1, 2) for name, body in adapter_files().items()}, "NO_ADAPTER"),
        ({**adapter_files(), CONFIG: json.dumps(lora_config(peft_type="IA3")).encode()}, "ADAPTER_KIND_UNSUPPORTED"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_folder_of_something_else_is_named(
    files: dict[str, bytes], code: str, db: None, home: Path, tmp_path: Path
) -> None:
    refusal = refused(FolderSource(write_folder(tmp_path / "a", files)))
    assert refusal.code == code, refusal.message
    assert left_in(home) == []


def test_a_folder_that_is_not_there_is_refused(db: None, tmp_path: Path) -> None:
    assert refused(FolderSource(tmp_path / "none")).code == "FOLDER_NOT_FOUND"


def test_a_pipe_in_place_of_the_weights_is_not_waited_for(db: None, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    assert refused(FolderSource(folder)).code == "NOT_A_FILE"


def test_a_folder_of_the_hubs_cache_is_imported_through_its_links(db: None, tmp_path: Path) -> None:
    blobs = write_folder(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in (CONFIG, WEIGHTS):
        (snapshot / name).symlink_to(blobs / name)
    assert import_adapter(source=FolderSource(snapshot)).created


def test_a_folder_over_the_limit_is_refused(db: None, home: Path, tmp_path: Path, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_adapter_mb": 1})
    files = {**adapter_files(), WEIGHTS: os.urandom(1_000_001)}
    refusal = refused(FolderSource(write_folder(tmp_path / "a", files)))
    assert refusal.code == "ADAPTER_TOO_LARGE"
    assert "MUSICGEN_MAX_ADAPTER_MB" in refusal.message
    assert left_in(home) == []


# --- the hub ---

REPO = "someone/my_jazz-adapter"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
        monkeypatch.delenv(name)
    for module in (plan, transfer):
        monkeypatch.setattr(module, "PAUSES_SECONDS", (0.01, 0.01))
    monkeypatch.setattr("gated_configs.hub.client.get_token", lambda: os.environ.get("HF_TOKEN"))
    files = {
        **adapter_files(readme="---\nlicense: mit\n---\nWarm jazz.\n"),
        "training_args.bin": b"x",
        "a/b.txt": b"y",
    }
    with FakeHub({REPO: files}) as running:
        for name, value in running.environment(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        yield running


def test_a_repository_is_imported(db: None, hub: FakeHub, home: Path, tmp_path: Path) -> None:
    result = import_adapter(source=HubSource(REPO))
    adapter = result.adapter
    commit = hub.repositories[REPO].refs["main"]
    assert str(adapter) == "My Jazz Adapter v1.0"
    assert (adapter.source, adapter.source_name) == ("hub", f"{REPO}@{commit}")
    assert adapter.description == "Warm jazz."
    assert weights_file(adapter).read_bytes() == adapter_files()[WEIGHTS]
    assert not weights_file(adapter).is_symlink()
    assert hub.fetched_names() == {CONFIG, WEIGHTS, "README.md"}
    assert left_in(home) == [weights_file(adapter).name]
    assert not (tmp_path / "hf").exists(), "the hub's cache is not touched"


def test_the_same_adapter_from_the_hub_and_a_zip_is_one(db: None, hub: FakeHub, tmp_path: Path) -> None:
    first = import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip")))
    assert import_adapter(source=HubSource(REPO)).adapter == first.adapter


def test_another_revision_is_imported(db: None, hub: FakeHub) -> None:
    commit = hub.publish(REPO, adapter_files(seed=5), ref="v2")
    adapter = import_adapter(source=HubSource(REPO, "v2")).adapter
    assert adapter.source_name == f"{REPO}@{commit}"
    assert weights_file(adapter).read_bytes() == adapter_files(seed=5)[WEIGHTS]


def test_a_gated_repository_is_imported_with_a_token(
    db: None, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gate(REPO, allowed={TOKEN})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert import_adapter(source=HubSource(REPO)).created


def _gated(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gate(REPO)


def _no_access(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gate(REPO)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def _bad_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")


def _missing(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub.repositories[REPO]


def _limited(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.limit_rate(retry_after="120")


def _unreachable(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.refuse_connections()


def _offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _login_page(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.send_web_page()


def _trouble(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.answer(503)


def _damaged(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.damage()


def _breaks_off(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.break_off(at=0.0, times=None)


def _publish(files: dict[str, bytes]) -> Any:
    def publish(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.publish(REPO, files)

    return publish


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (_gated, "GATED_NO_TOKEN", "set HF_TOKEN"),
        (_no_access, "GATED_NO_ACCESS", "Ask for access"),
        (_bad_token, "BAD_TOKEN", "Make a new one"),
        (_missing, "ADAPTER_NOT_ON_HUB", "Check the id"),
        (_limited, "RATE_LIMITED", "Try again in"),
        (_unreachable, "HUB_UNREACHABLE", "Check the connection"),
        (_offline, "HUB_UNREACHABLE", "HF_HUB_OFFLINE"),
        (_login_page, "NOT_A_HUB", "asks for a login"),
        (_trouble, "HUB_ERROR", "Try again later"),
        (_damaged, "FILE_CORRUPT", "arrived damaged"),
        (_breaks_off, "INCOMPLETE", "Try again"),
        (_publish({"README.md": b"# Nothing"}), "NO_ADAPTER", "no adapter"),
        (_publish({CONFIG: b"{}", "adapter_model.bin": b"\x80\x02"}), "PICKLE_REFUSED", "adapter_model.bin"),
        (_publish({"config.json": b"{}", "model.safetensors": b"x" * 99}), "FULL_CHECKPOINT", "whole model"),
        (_publish({CONFIG: b" " * 2_000_000, WEIGHTS: b"x"}), "CONFIG_TOO_LARGE", "1 MB"),
        (_publish({f"a/{CONFIG}": b"{}", f"a/{WEIGHTS}": b"x", "b": b""}), "NO_ADAPTER", "deeper"),
        (
            _publish({**adapter_files(), WEIGHTS: b"x" * 2_000_000}),
            "ADAPTER_TOO_LARGE",
            "MUSICGEN_MAX_ADAPTER_MB",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_each_failure_of_the_hub_has_its_own_sentence(
    fault: Any,
    code: str,
    says: str,
    db: None,
    hub: FakeHub,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_adapter_mb": 1})
    fault(hub, monkeypatch)
    refusal = refused(HubSource(REPO))
    assert (refusal.code, says in refusal.message) == (code, True), refusal.message
    assert left_in(home) == []
    assert not Adapter.objects.exists()


def test_of_a_model_nothing_is_fetched_to_see_that_it_is_one(db: None, hub: FakeHub) -> None:
    hub.publish(REPO, {"config.json": b"{}", "model.safetensors": b"x" * 500_000})
    refused(HubSource(REPO))
    assert hub.fetched() == []


def test_a_connection_that_breaks_is_gone_on_with(db: None, hub: FakeHub) -> None:
    hub.break_off(at=0.5)
    assert import_adapter(source=HubSource(REPO)).created


@pytest.mark.parametrize("text", ["no-owner-or-name/", "a/b/c", "../x", "a b/c", "x" * 300])
def test_what_is_no_hub_id_is_said_so(text: str, db: None, hub: FakeHub) -> None:
    refusal = refused(HubSource(text))
    assert refusal.code == "ADAPTER_NOT_ON_HUB"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a/b", ("a/b", "")),
        ("a/b@v2", ("a/b", "v2")),
        ("https://huggingface.co/a/b", ("a/b", "")),
        ("https://elsewhere.example/a/b", ("https://elsewhere.example/a/b", "")),
        ("https://huggingface.co/a/b/tree/main", ("a/b", "main")),
    ],
)
def test_a_hub_id_is_read_in_the_ways_people_write_it(text: str, parsed: tuple[str, str]) -> None:
    assert parse_hub_id(text) == parsed


def test_importing_knows_no_rows() -> None:
    """The readers can be used without a database."""
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; import adapters.importing.archive, adapters.importing.folder;"
            " print(sorted({'django', 'torch', 'numpy', 'safetensors'} & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == "[]"

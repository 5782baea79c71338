"""Downloads from a fake hub, through the real code: what is fetched, what is kept, and where it goes on."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from gated_configs.hub import client
from generation.engine.hub import files_to_fetch
from registry.downloads import (
    DownloadCancelled,
    DownloadFailed,
    download,
    installed_bytes,
    installed_folder,
    plan_download,
    remove_installed,
    transfer,
)
from registry.downloads.cache import cache_folder, size_of
from registry.downloads.files import wanted_files
from registry.downloads.transfer import RESERVE_BYTES
from tests.conftest import ROOT, wait_until
from tests.hub import FakeHub, blob_hashes
from tests.hub.fake_hub import TOKEN
from tests.registry.downloads.caller import FILES, READ, REPO, TOTAL, WEIGHTS, Caller, safetensors

# --- planning ---


def test_the_rule_is_the_one_of_the_engine() -> None:
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    old_parts = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    indexes = ["model.safetensors.index.json", "pytorch_model.bin.index.json"]
    for names in (
        FILES,
        [name for name in FILES if name != WEIGHTS],
        [*parts, *old_parts, *indexes, "config.json"],
        [*old_parts, *indexes, "vocab.txt", "flax_model.msgpack", "model.fp16.safetensors"],
        [],
    ):
        assert wanted_files(names) == files_to_fetch(names)


def test_a_plan_says_everything_before_it_starts(caller: Caller, fake: FakeHub) -> None:
    plan = caller.plan()
    commit = fake.repositories[REPO].refs["main"]
    assert (plan.repo_id, plan.revision, plan.folder.name) == (REPO, commit, commit)
    assert {file.name for file in plan.files} == READ
    assert plan.files[-1].name == WEIGHTS
    assert plan.files[-1].sha256 == blob_hashes(FILES[WEIGHTS])[1]
    config = next(file for file in plan.files if file.name == "config.json")
    assert (config.sha256, config.git_sha1) == (None, blob_hashes(FILES["config.json"])[0])
    assert (plan.total_bytes, plan.missing_bytes) == (TOTAL, TOTAL)
    assert not any(file.present for file in plan.files)
    assert plan.free_disk_bytes > 0
    assert not caller.cache.exists()
    assert [request.method for request in fake.requests] == ["GET"]
    assert TOKEN not in repr(plan)


def test_a_plan_counts_what_is_there(caller: Caller) -> None:
    caller.download()
    plan = caller.plan()
    assert all(file.present for file in plan.files)
    assert plan.missing_bytes == 0


def test_a_branch_a_tag_and_a_commit(caller: Caller, fake: FakeHub) -> None:
    old = fake.repositories[REPO].refs["main"]
    new = fake.publish(REPO, {**FILES, "config.json": b'{"model_type": "musicgen", "new": 1}'}, ref="next")
    assert caller.plan(revision=old).revision == old
    assert caller.plan(revision="next").revision == new
    caller.download(caller.plan(revision="next"))
    assert caller.installed("next") == caller.installed(new)
    assert caller.installed("main") is None
    # The weights are the same in both: they are there already.
    assert caller.plan().missing_bytes == len(FILES["config.json"])


# --- fetching ---


def test_it_fetches_what_is_read_and_nothing_else(caller: Caller, fake: FakeHub) -> None:
    assert caller.installed() is None
    folder = caller.download()
    assert {each.name for each in folder.iterdir()} == READ
    assert all((folder / name).read_bytes() == FILES[name] for name in READ)
    assert fake.fetched_names() == READ - {"empty.txt"}
    assert caller.heard[0] == (0, TOTAL)
    assert caller.heard[-1] == (TOTAL, TOTAL)
    assert caller.heard == sorted(caller.heard)
    assert caller.installed() == folder
    assert caller.installed(folder.name) == folder
    assert not list(caller.cache.rglob("*.incomplete"))


def test_the_second_time_it_asks_nobody(caller: Caller, fake: FakeHub) -> None:
    plan = caller.plan()
    folder = caller.download(plan)
    fake.refuse_connections()
    assert caller.download(plan) == folder
    assert caller.heard[-1] == (TOTAL, TOTAL)


@pytest.mark.slow
def test_transformers_finds_it_in_the_cache(tmp_path: Path) -> None:
    from tests.engine.dwarf import build_dwarf

    with FakeHub({REPO: build_dwarf(tmp_path / "dwarf")}) as fake:
        caller = Caller(fake, tmp_path / "home" / "hub")
        plan = caller.plan()
        folder = caller.download(plan)
        assert caller.verify(folder, plan)[-1] == 1.0
        environment = {**os.environ, **fake.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    load = (
        "from transformers import AutoProcessor, MusicgenForConditionalGeneration as M;"
        f"M.from_pretrained({REPO!r}, local_files_only=True); AutoProcessor.from_pretrained({REPO!r});"
        "from generation.engine.checkpoint import load_checkpoint;"
        f"print(load_checkpoint({REPO!r}, device='cpu').revision)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", load], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.strip() == plan.revision


def test_the_library_finds_nothing_left_to_fetch(
    caller: Caller, fake: FakeHub, environment: dict[str, str]
) -> None:
    folder = caller.download()
    fake.forget_requests()
    code = (
        "from huggingface_hub import snapshot_download;"
        f"print(snapshot_download({REPO!r}, allow_patterns={sorted(READ)!r}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout.strip() == str(folder), ended.stderr[-2000:]
    assert fake.fetched() == []


def test_the_library_s_own_download_counts_as_installed(caller: Caller, environment: dict[str, str]) -> None:
    code = f"from huggingface_hub import snapshot_download; snapshot_download({REPO!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True)
    assert caller.installed() is not None
    assert caller.plan().missing_bytes == 0
    assert caller.download() == caller.installed()


def test_importing_it_is_light() -> None:
    code = "import sys, registry.downloads; print({'torch', 'transformers', 'django'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


# --- going on ---


def test_a_broken_connection_goes_on_by_range(caller: Caller, fake: FakeHub) -> None:
    fake.break_off(at=0.5, times=1)
    folder = caller.download()
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    first, second = fake.fetched(WEIGHTS)
    assert first.range is None
    assert second.range == f"bytes={first.sent_bytes}-"
    assert first.sent_bytes + second.sent_bytes == len(FILES[WEIGHTS])
    assert caller.heard == sorted(caller.heard)


def test_tries_that_got_further_do_not_count(caller: Caller, fake: FakeHub) -> None:
    for tenth in range(1, 10):
        fake.break_off(at=tenth / 10, times=1)
    folder = caller.download()
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert len(fake.fetched(WEIGHTS)) == 10
    assert sum(request.sent_bytes for request in fake.fetched(WEIGHTS)) == len(FILES[WEIGHTS])


def test_a_later_call_goes_on_where_the_last_one_ended(caller: Caller, fake: FakeHub) -> None:
    fake.break_off(at=0.5, times=None)
    with pytest.raises(DownloadFailed) as failure:
        caller.download()
    assert failure.value.error_code == "INCOMPLETE"
    assert "goes on from there" in str(failure.value)
    assert caller.installed() is None
    there = caller.part().stat().st_size
    assert there == len(FILES[WEIGHTS]) // 2
    fake.heal()
    fake.forget_requests()
    plan = caller.plan()
    assert plan.missing_bytes == len(FILES[WEIGHTS]) - there
    caller.heard.clear()
    folder = caller.download(plan)
    assert caller.heard[0] == (TOTAL - plan.missing_bytes, TOTAL)
    assert caller.heard == sorted(caller.heard)
    assert [request.range for request in fake.fetched()] == [f"bytes={there}-"]
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_file_that_had_all_arrived_is_not_asked_for(caller: Caller, fake: FakeHub) -> None:
    plan = caller.plan()
    plan.storage.joinpath("blobs").mkdir(parents=True)
    caller.part().write_bytes(FILES[WEIGHTS])
    caller.download(plan)
    assert WEIGHTS not in fake.fetched_names()


def test_what_this_call_received_is_not_read_again(
    caller: Caller, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tenth in (3, 6, 9):
        fake.break_off(at=tenth / 10, times=1)
    read: list[Path] = []
    monkeypatch.setattr(transfer, "hash_file", lambda path, hasher, on_block: read.append(path))
    folder = caller.download()
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert read == []


def test_a_hub_without_ranges_starts_over(caller: Caller, fake: FakeHub) -> None:
    fake.break_off(at=0.5, times=1)
    fake.ignore_ranges()
    folder = caller.download()
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert fake.fetched(WEIGHTS)[1].sent_bytes == len(FILES[WEIGHTS])


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * len(FILES[WEIGHTS]), b"x" * 500_000])
def test_wrong_bytes_left_behind_are_thrown_away(caller: Caller, fake: FakeHub, left: bytes) -> None:
    plan = caller.plan()
    plan.storage.joinpath("blobs").mkdir(parents=True)
    caller.part().write_bytes(left)
    folder = caller.download(plan)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_web_page_in_the_middle_does_not_cost_what_is_there(caller: Caller, fake: FakeHub) -> None:
    fake.break_off(at=0.5, times=None)
    with pytest.raises(DownloadFailed):
        caller.download()
    there = caller.part().stat().st_size
    fake.heal()
    fake.send_web_page(path="/store/")
    with pytest.raises(DownloadFailed) as failure:
        caller.download()
    assert failure.value.error_code == "NOT_A_HUB"
    assert caller.part().stat().st_size == there


# --- stopping ---


def test_cancel_stops_at_once_and_can_go_on(caller: Caller, fake: FakeHub) -> None:
    fake.slow(100_000, path=r"/store/.*safetensors")
    asked_at: list[float] = []

    def stop_when() -> bool:
        if not asked_at and caller.heard and caller.heard[-1][0] > 50_000:
            asked_at.append(time.monotonic())
        return bool(asked_at)

    caller.stop_when = stop_when
    with pytest.raises(DownloadCancelled):
        caller.download()
    assert time.monotonic() - asked_at[0] < 1.0
    there = caller.part().stat().st_size
    assert 0 < there < len(FILES[WEIGHTS])
    assert caller.installed() is None
    caller.stop_when = lambda: False
    fake.heal()
    fake.forget_requests()
    folder = caller.download()
    assert fake.fetched(WEIGHTS)[0].range == f"bytes={there}-"
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_cancel_does_not_wait_for_a_hub_that_stalls(caller: Caller, fake: FakeHub) -> None:
    plan = caller.plan()
    fake.slow(0.5, path=r"/store/.*safetensors")  # one byte, then nothing for as long as anybody waits
    began = time.monotonic()
    caller.stop_when = lambda: time.monotonic() - began > 0.5
    with pytest.raises(DownloadCancelled):
        caller.download(plan)
    assert time.monotonic() - began < 1.5


def test_cancel_is_heard_in_a_pause(caller: Caller, fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSES_SECONDS", (60.0,))
    plan = caller.plan()
    fake.answer(500)
    began = time.monotonic()
    caller.stop_when = lambda: time.monotonic() - began > 0.3
    with pytest.raises(DownloadCancelled):
        caller.download(plan)
    assert time.monotonic() - began < 1.5


def test_a_process_that_was_killed_is_gone_on_with(
    caller: Caller, fake: FakeHub, tmp_path: Path, environment: dict[str, str]
) -> None:
    fake.slow(200_000, path=r"/store/.*safetensors")
    code = (
        "from registry.downloads import *;"
        f"download(plan_download({REPO!r}), on_bytes=lambda *_: None, should_stop=lambda: False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    wait_until(
        lambda: (size_of(caller.part()) or 0) > 20_000,
        seconds=30,
        what="some bytes",
    )
    process.kill()
    process.wait()
    there = caller.part().stat().st_size
    assert there < len(FILES[WEIGHTS])
    assert caller.installed() is None
    fake.heal()
    fake.forget_requests()
    folder = caller.download()
    assert fake.fetched(WEIGHTS)[0].range == f"bytes={there}-"
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


# --- two at a time ---


def test_a_second_caller_waits_and_shares_the_progress(caller: Caller, fake: FakeHub) -> None:
    plan = caller.plan()
    fake.slow(400_000, path=r"safetensors")
    second = Caller(fake, caller.cache)
    threads = [threading.Thread(target=each.download, args=(plan,)) for each in (caller, second)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(timeout=20)
    assert caller.heard[-1] == second.heard[-1] == (TOTAL, TOTAL)
    assert len(fake.fetched(WEIGHTS)) == 1
    # Whoever waits sees the bytes of the other arrive.
    assert all(any(TOTAL * 0.2 < done < TOTAL * 0.9 for done, _ in each.heard) for each in (caller, second))


def test_a_second_caller_that_waits_can_cancel(caller: Caller, fake: FakeHub) -> None:
    plan = caller.plan()
    fake.slow(75_000, path=r"safetensors")
    thread = threading.Thread(target=caller.download, args=(plan,))
    thread.start()
    wait_until(lambda: bool(size_of(caller.part())), seconds=20, what="the first one's first bytes")
    second = Caller(fake, caller.cache)
    began = time.monotonic()
    second.stop_when = lambda: time.monotonic() - began > 0.5
    with pytest.raises(DownloadCancelled):
        second.download(plan)
    assert thread.is_alive()
    thread.join(timeout=20)
    assert caller.heard[-1] == (TOTAL, TOTAL)


# --- taking out ---


def test_removing_frees_what_was_said(caller: Caller, fake: FakeHub) -> None:
    fake.publish("studio/other", FILES)
    other = caller.download(caller.plan("studio/other"))
    caller.download()
    fake.publish(REPO, {**FILES, WEIGHTS: safetensors(seed=2)})
    fake.break_off(at=0.5, times=None)
    with pytest.raises(DownloadFailed):
        caller.download()  # leaves a part of the new weights
    said = installed_bytes(REPO, cache=caller.cache)
    assert said > TOTAL + len(FILES[WEIGHTS]) * 0.4
    assert remove_installed(REPO, cache=caller.cache) == said
    assert caller.installed() is None
    assert installed_bytes(REPO, cache=caller.cache) == 0
    assert remove_installed(REPO, cache=caller.cache) == 0
    assert [each.name for each in caller.cache.glob("models--*")] == ["models--studio--other"]
    assert installed_folder("studio/other", cache=caller.cache) == other


def test_a_removal_that_fails_in_the_middle_leaves_nothing_that_looks_installed(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = caller.plan()
    folder = caller.download(plan)
    real = shutil.rmtree

    def refuse(path: Any, *args: Any, **kwargs: Any) -> None:
        if Path(path) == plan.storage:
            raise PermissionError("in use")
        real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.raises(OSError, match="in use"):
            remove_installed(REPO, cache=caller.cache)
    assert not folder.exists()
    assert caller.installed() is None
    assert remove_installed(REPO, cache=caller.cache) >= TOTAL
    assert not plan.storage.exists()


def test_what_is_not_there_takes_nothing(cache: Path) -> None:
    for repo_id in (REPO, "no id at all", "../../etc"):
        assert installed_folder(repo_id, cache=cache) is None
        assert installed_bytes(repo_id, cache=cache) == 0
        assert remove_installed(repo_id, cache=cache) == 0


def test_a_snapshot_that_lost_a_file_is_not_installed(caller: Caller) -> None:
    folder = caller.download()
    (folder / "generation_config.json").unlink()
    assert caller.installed() is None
    caller.download()
    assert caller.installed() == folder
    # A file of another size, as a broken disk leaves it, is none.
    (folder / WEIGHTS).resolve().write_bytes(b"short")
    assert caller.installed() is None
    caller.download()
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_plan_made_by_hand_writes_no_listing(caller: Caller) -> None:
    plan = dataclasses.replace(caller.plan(), listing={})
    folder = caller.download(plan)
    assert not (plan.storage / "trees").exists()
    assert caller.installed() == folder  # by what a checkpoint must have
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").unlink()
    assert caller.installed() is None


def test_where_links_are_impossible(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = caller.download()
    assert not (folder / WEIGHTS).is_symlink()
    assert caller.installed() == folder
    assert TOTAL <= installed_bytes(REPO, cache=caller.cache) < TOTAL * 1.5
    assert remove_installed(REPO, cache=caller.cache) > TOTAL
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr("registry.downloads.cache._LARGE_BYTES", 1000)
    folder = caller.download()
    assert caller.installed() == folder
    assert TOTAL <= installed_bytes(REPO, cache=caller.cache) < TOTAL * 1.5
    plan = caller.plan()
    assert plan.missing_bytes == 0
    assert caller.download(plan) == folder


# --- surroundings ---


def test_the_environment_is_read_at_the_call(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fake.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    plan = plan_download(REPO, "")
    assert plan.folder.is_relative_to(tmp_path / "home" / "hub")
    download(plan, on_bytes=lambda done, total: None, should_stop=lambda: False)
    assert installed_folder(REPO, "") == plan.folder
    monkeypatch.delenv("HF_HUB_CACHE")
    assert cache_folder() == tmp_path / "home" / "hub"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert installed_folder(REPO, "") == plan.folder
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE is set"):
        plan_download(REPO, "")


def test_the_token_goes_to_the_hub_alone(caller: Caller, fake: FakeHub) -> None:
    caller.download(caller.plan(token=TOKEN), token=TOKEN)
    to_store = [request for request in fake.requests if request.is_of_store]
    to_hub = [request for request in fake.requests if not request.is_of_store]
    assert to_store
    assert not any("authorization" in request.headers for request in to_store)
    assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in to_hub)
    assert not any("authorization" in line.read_text("latin-1") for line in caller.cache.rglob("*.json"))


def test_a_renamed_model_is_followed_with_the_token(caller: Caller, fake: FakeHub) -> None:
    fake.gate(REPO, allowed={TOKEN})
    fake.rename(REPO, "studio/renamed")
    folder = caller.download(caller.plan(token=TOKEN), token=TOKEN)
    assert caller.installed() == folder
    assert folder.parent.parent.name == "models--studio--dwarf"


@pytest.mark.parametrize(
    ("address", "is_ours"),
    [
        ("https://hub.example/x", True),
        ("https://HUB.example:443/x", True),
        ("http://hub.example/x", False),
        ("https://hub.example:8443/x", False),
        ("https://cdn.hub.example/x", False),
        ("https://hub.example.evil.test/x", False),
        ("https://hub.example@evil.test/x", False),
    ],
)
def test_which_server_is_the_hub_s_own(address: str, is_ours: bool) -> None:
    assert client.is_same_server(httpx2.URL(address), httpx2.URL("https://hub.example")) is is_ours
    assert client.is_same_server(httpx2.URL("https://hub.example"), httpx2.URL("http://hub.example"))


def test_the_disk_is_asked_first(caller: Caller, fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**12, free=free))

    leave(RESERVE_BYTES + TOTAL - 1)
    plan = caller.plan()
    assert plan.free_disk_bytes == RESERVE_BYTES + TOTAL - 1
    with pytest.raises(DownloadFailed) as failure:
        caller.download(plan)
    assert failure.value.error_code == "DISK_FULL"
    assert "Free" in str(failure.value)
    assert fake.fetched() == []
    assert not caller.cache.exists()
    leave(RESERVE_BYTES + TOTAL)
    caller.download(plan)
    leave(0)
    caller.download(plan)  # nothing is missing: nothing is needed

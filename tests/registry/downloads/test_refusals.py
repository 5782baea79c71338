"""Everything a hub, a network or a disk may do wrong ends in a code of its own and a sentence that says what to do."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.downloads import DownloadFailed, plan, plan_download
from tests.hub import FakeHub
from tests.hub.fake_hub import TOKEN
from tests.registry.downloads.caller import FILES, REPO, TOTAL, WEIGHTS, Caller

Break = Callable[[FakeHub], Any]

#: What happens to the listing: name, fault, error code, words of the sentence.
AT_THE_LISTING: list[tuple[str, Break, str, str]] = [
    ("429 for long", lambda hub: hub.limit_rate(retry_after="90"), "RATE_LIMITED", "Try again in 1"),
    ("429 for ever", lambda hub: hub.limit_rate(retry_after=None), "RATE_LIMITED", "a few minutes"),
    ("429 and nonsense", lambda hub: hub.limit_rate(retry_after="soon"), "RATE_LIMITED", "a few minutes"),
    ("500", lambda hub: hub.answer(500), "HUB_ERROR", "trouble answering (500). Try again later"),
    ("503", lambda hub: hub.answer(503, body=b"<html>"), "HUB_ERROR", "(503)"),
    ("a web page", lambda hub: hub.send_web_page(), "NOT_A_HUB", "asks for a login"),
    ("not JSON", lambda hub: hub.answer(200, body=b"hello"), "NOT_A_HUB", "Check HF_ENDPOINT"),
    ("a list", lambda hub: hub.answer(200, body=b"[]"), "NOT_A_HUB", "is not a model hub"),
    ("no files", lambda hub: hub.answer(200, body=b'{"sha": "x"}'), "NOT_A_HUB", "is not a model hub"),
    ("deep JSON", lambda hub: hub.answer(200, body=b"[" * 200_000), "NOT_A_HUB", "is not a model hub"),
    ("nobody there", lambda hub: hub.refuse_connections(), "HUB_UNREACHABLE", "cannot be reached. Check"),
    (
        "circles",
        lambda hub: hub.answer(302, headers={"Location": "/again"}),
        "HUB_ERROR",
        "sent us in circles",
    ),
    (
        "a file",
        lambda hub: hub.answer(302, headers={"Location": "file:///etc/passwd"}),
        "HUB_ERROR",
        "not safe to follow",
    ),
    (
        "compressed",
        lambda hub: hub.answer(200, headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b"),
        "HUB_ERROR",
        "changes what it sends",
    ),
    (
        "no address",
        lambda hub: hub.answer(302, headers={"Location": "http://host:port/"}),
        "HUB_ERROR",
        "cannot be followed",
    ),
    ("410", lambda hub: hub.answer(410), "HUB_ERROR", "(410)"),
    ("404", lambda hub: hub.answer(404), "MODEL_NOT_FOUND", "has no model"),
]

#: What happens to a file after a plan that was sound.
AT_A_FILE: list[tuple[str, Break, str, str]] = [
    ("429", lambda hub: hub.limit_rate(), "RATE_LIMITED", "Try again in 30"),
    ("500", lambda hub: hub.answer(500), "HUB_ERROR", "trouble answering (500)"),
    ("500 of the store", lambda hub: hub.answer(500, path="/store/"), "HUB_ERROR", "(500)"),
    ("403 of the store", lambda hub: hub.answer(403, path="/store/"), "HUB_ERROR", "The store that holds"),
    ("a web page", lambda hub: hub.send_web_page(), "NOT_A_HUB", "asks for a login"),
    ("a page of the store", lambda hub: hub.send_web_page(path="/store/"), "NOT_A_HUB", "login"),
    ("wrong bytes", lambda hub: hub.damage(), "FILE_CORRUPT", "arrived damaged and was thrown away"),
    ("wrong small file", lambda hub: hub.damage(path="config"), "FILE_CORRUPT", "thrown away"),
    ("a short file", lambda hub: hub.shorten(), "INCOMPLETE", "sent less of model.safetensors than it lists"),
    ("breaks off", lambda hub: hub.break_off(times=None), "INCOMPLETE", "broke off. Try again: it goes on"),
    ("breaks at once", lambda hub: hub.break_off(at=0, times=None), "INCOMPLETE", "broke off"),
    ("nobody there", lambda hub: hub.refuse_connections(), "HUB_UNREACHABLE", "cannot be reached"),
    (
        "the file is gone",
        lambda hub: hub.answer(404, path=r"resolve.*\.json", headers={"X-Error-Code": "EntryNotFound"}),
        "HUB_ERROR",
        "The hub refused studio/dwarf (404)",
    ),
    (
        "a part unasked",
        lambda hub: hub.answer(206, path="config", body=FILES["config.json"]),
        "HUB_ERROR",
        "unasked",
    ),
    (
        "too much",
        lambda hub: hub.answer(200, path="/store/", body=FILES[WEIGHTS] + b"x"),
        "FILE_CORRUPT",
        "thrown away",
    ),
]


def refused(failure: pytest.ExceptionInfo[DownloadFailed], error_code: str, words: str) -> None:
    assert failure.value.error_code == error_code, (str(failure.value), failure.value.detail)
    assert words in str(failure.value)
    assert str(failure.value).endswith((".", "files."))
    assert "signature" not in failure.value.detail
    assert TOKEN not in failure.value.detail + str(failure.value)


@pytest.mark.parametrize(
    ("fault", "error_code", "words"),
    [case[1:] for case in AT_THE_LISTING],
    ids=[c[0] for c in AT_THE_LISTING],
)
def test_a_fault_at_the_listing(
    caller: Caller, fake: FakeHub, fault: Break, error_code: str, words: str
) -> None:
    fault(fake)
    with pytest.raises(DownloadFailed) as failure:
        caller.plan()
    refused(failure, error_code, words)
    assert not caller.cache.exists()


@pytest.mark.parametrize(
    ("fault", "error_code", "words"), [case[1:] for case in AT_A_FILE], ids=[c[0] for c in AT_A_FILE]
)
def test_a_fault_at_a_file_and_what_is_left_of_it(
    caller: Caller, fake: FakeHub, fault: Break, error_code: str, words: str
) -> None:
    sound = caller.plan()
    fault(fake)
    with pytest.raises(DownloadFailed) as failure:
        caller.download(sound)
    refused(failure, error_code, words)
    # Nothing looks installed, and nothing wrong has got its final name.
    assert caller.installed() is None
    assert not sound.folder.exists()
    if error_code == "FILE_CORRUPT":
        name = failure.value.detail.split(":")[0]
        etag = next(file.etag for file in sound.files if file.name == name)
        assert not list(sound.storage.glob(f"blobs/{etag}*"))
    if error_code != "HUB_UNREACHABLE":
        fake.heal()
        folder = caller.download()
        assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
        assert caller.heard[-1] == (TOTAL, TOTAL)


def test_a_file_without_end_does_not_fill_the_disk(caller: Caller, fake: FakeHub) -> None:
    sound = caller.plan()
    fake.answer(200, path="/store/", body=FILES[WEIGHTS] * 30)
    with pytest.raises(DownloadFailed) as failure:
        caller.download(sound)
    assert "longer than the hub lists" in failure.value.detail


@pytest.mark.parametrize(
    "fault",
    [
        lambda hub: hub.answer(500, times=2),
        lambda hub: hub.answer(503, path="/store/", times=3),
        lambda hub: hub.answer(403, path="/store/", times=1),
        lambda hub: hub.limit_rate(retry_after="0", times=2),
        lambda hub: hub.limit_rate(retry_after=None, times=1),
        lambda hub: hub.break_off(at=0, times=3),
        lambda hub: hub.break_off(path="config", times=1),
    ],
)
def test_what_passes_by_itself_is_waited_for(caller: Caller, fake: FakeHub, fault: Break) -> None:
    fault(fake)
    folder = caller.download(caller.plan())
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert fake.faults[0].times == 0


def test_a_pause_as_long_as_the_hub_asks_for(
    caller: Caller, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(
        "gated_configs.hub.client._pause", lambda seconds, should_stop: pauses.append(seconds)
    )
    monkeypatch.setattr(plan, "PAUSES_SECONDS", (1.0, 2.0, 4.0, 8.0))
    fake.limit_rate(retry_after="7", times=1)
    caller.plan()
    assert pauses == [7.0]
    pauses.clear()
    fake.answer(500)
    with pytest.raises(DownloadFailed):
        caller.plan()
    assert pauses == [1.0, 2.0, 4.0, 8.0]


# --- who may read ---


def test_a_gated_model_without_a_token(caller: Caller, fake: FakeHub) -> None:
    fake.gate(REPO)
    with pytest.raises(DownloadFailed) as failure:
        caller.plan()
    refused(failure, "GATED_NO_TOKEN", f"Ask for access on {fake.endpoint}/{REPO}, set HF_TOKEN")
    assert fake.fetched() == []


def test_a_gated_model_without_access(caller: Caller, fake: FakeHub) -> None:
    fake.gate(REPO)
    with pytest.raises(DownloadFailed) as failure:
        caller.plan(token=TOKEN)
    refused(failure, "GATED_NO_ACCESS", "has no access to studio/dwarf yet. Ask for access")


def test_a_gated_model_with_access(caller: Caller, fake: FakeHub) -> None:
    fake.gate(REPO, allowed={TOKEN})
    folder = caller.download(caller.plan(token=TOKEN), token=TOKEN)
    assert caller.installed() == folder


def test_access_that_ends_between_plan_and_download(caller: Caller, fake: FakeHub) -> None:
    sound = caller.plan()
    fake.gate(REPO)
    with pytest.raises(DownloadFailed) as failure:
        caller.download(sound)
    refused(failure, "GATED_NO_TOKEN", "is gated")
    with pytest.raises(DownloadFailed) as failure:
        caller.download(sound, token=TOKEN)
    refused(failure, "GATED_NO_ACCESS", "no access")


def test_a_bad_token(caller: Caller, fake: FakeHub) -> None:
    with pytest.raises(DownloadFailed) as failure:
        caller.plan(token="hf_old")
    refused(failure, "BAD_TOKEN", "does not accept the token in HF_TOKEN")
    with pytest.raises(DownloadFailed) as failure:
        caller.plan(token="hf_schlüssel")
    refused(failure, "BAD_TOKEN", "characters that no token has")


def test_a_hub_that_calls_a_gated_model_401_whatever_the_token(caller: Caller, fake: FakeHub) -> None:
    fake.answer(401, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(DownloadFailed) as failure:
        caller.plan(token=TOKEN)
    refused(failure, "BAD_TOKEN", "does not accept the token")


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_model_that_is_not_there(caller: Caller, token: str | None) -> None:
    with pytest.raises(DownloadFailed) as failure:
        caller.plan("nobody/nothing", token=token)
    refused(failure, "MODEL_NOT_FOUND", "no model nobody/nothing for you to see")


@pytest.mark.parametrize("repo_id", ["not an id", "../../etc/passwd", "a/b/c", "", "a/" + "b" * 200])
def test_what_cannot_be_an_id_is_not_asked_for(caller: Caller, fake: FakeHub, repo_id: str) -> None:
    with pytest.raises(DownloadFailed) as failure:
        caller.plan(repo_id)
    refused(failure, "MODEL_NOT_FOUND", "Write it as owner/name")
    assert fake.requests == []


def test_a_revision_that_is_not_there(caller: Caller) -> None:
    for revision in ("v9", "0" * 40):
        with pytest.raises(DownloadFailed) as failure:
            caller.plan(revision=revision)
        refused(failure, "REVISION_NOT_FOUND", f"no revision '{revision}'")


@pytest.mark.parametrize("revision", ["..", "../main", "a//b", "/etc", "a b", "main/", "-x", "x" * 300])
def test_what_cannot_be_a_revision_is_not_asked_for(caller: Caller, fake: FakeHub, revision: str) -> None:
    with pytest.raises(DownloadFailed) as failure:
        caller.plan(revision=revision)
    refused(failure, "REVISION_NOT_FOUND", "Write a branch, a tag or a commit hash")
    assert fake.requests == []
    assert caller.installed(revision) is None


@pytest.mark.parametrize(
    "endpoint", ["huggingface.co", "ftp://hub", "http://", "http://host:port", "file:///etc"]
)
def test_an_endpoint_that_is_no_address(endpoint: str, cache: Path) -> None:
    with pytest.raises(DownloadFailed) as failure:
        plan_download(REPO, "", endpoint=endpoint, cache=cache)
    refused(failure, "HUB_UNREACHABLE", "HF_ENDPOINT is not a web address")


# --- what a listing may say ---


def listing(**changes: Any) -> bytes:
    file = {"rfilename": "config.json", "size": 2, "blobId": "0" * 40}
    weights = {"rfilename": WEIGHTS, "size": 9, "blobId": "1" * 40, "lfs": {"sha256": "2" * 64, "size": 9}}
    told = {"sha": "a" * 40, "siblings": [{**file, **changes}, weights]}
    return json.dumps(told).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"size": None},
        {"size": 2.5},
        {"size": True},
        {"size": 10**15},
        {"blobId": "../../../escape"},
        {"blobId": None},
        {"lfs": {"sha256": "../x", "size": 2}},
        {"lfs": {"sha256": "0" * 64, "size": 3}},
        {"lfs": "yes"},
        {"rfilename": 7},
    ],
)
def test_a_listing_that_lies_is_refused(caller: Caller, fake: FakeHub, changes: dict[str, Any]) -> None:
    fake.answer(200, body=listing(**changes))
    with pytest.raises(DownloadFailed) as failure:
        caller.plan()
    refused(failure, "NOT_A_HUB", "is not a model hub")


def test_the_same_listing_without_lies_is_taken(caller: Caller, fake: FakeHub) -> None:
    fake.answer(200, body=listing())
    assert [file.name for file in caller.plan().files] == ["config.json", WEIGHTS]


def test_another_commit_than_the_one_asked_for(caller: Caller, fake: FakeHub) -> None:
    fake.answer(200, body=listing())
    with pytest.raises(DownloadFailed) as failure:
        caller.plan(revision="b" * 40)
    refused(failure, "NOT_A_HUB", "is not a model hub")


def test_names_that_are_paths_are_never_read(caller: Caller, fake: FakeHub) -> None:
    told = json.loads(listing())
    for name in ("../x.json", "a/b.json", "a\\b.json", "C:x.json", "x\n.json", "\0.json", "..\\config.json"):
        told["siblings"].append({"rfilename": name, "size": 2, "blobId": "3" * 40})
    fake.answer(200, body=json.dumps(told).encode())
    assert [file.name for file in caller.plan().files] == ["config.json", WEIGHTS]


@pytest.mark.parametrize("bound", ["MAX_LISTING_BYTES", "MAX_LISTED_FILES", "MAX_WANTED_FILES"])
def test_a_listing_has_bounds(caller: Caller, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(plan, bound, 4)
    with pytest.raises(DownloadFailed) as failure:
        caller.plan()
    refused(failure, "NOT_A_HUB", "is not a model hub")


def test_a_repository_without_weights(caller: Caller, fake: FakeHub) -> None:
    fake.publish("studio/words", {"config.json": b"{}", "README.md": b"words"})
    with pytest.raises(DownloadFailed) as failure:
        caller.plan("studio/words")
    refused(failure, "WRONG_ARCHITECTURE", "Choose a MusicGen model")


# --- the disk ---


@pytest.mark.parametrize(
    ("number", "error_code", "words"),
    [
        (errno.ENOSPC, "DISK_FULL", "became full while studio/dwarf was fetched. Free some space"),
        (errno.EDQUOT, "DISK_FULL", "became full"),
        (errno.EIO, "STORAGE_ERROR", "cannot be stored: Input/output error. Check the folder"),
    ],
)
def test_a_disk_that_fails_in_the_middle(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, number: int, error_code: str, words: str
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, errno_text(number))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(DownloadFailed) as failure:
            caller.download()
    refused(failure, error_code, words)
    assert caller.installed() is None
    assert caller.download() == caller.installed()


def errno_text(number: int) -> str:
    return {errno.EIO: "Input/output error"}.get(number, "No space left on device")


def test_a_cache_that_cannot_be_written(caller: Caller) -> None:
    sound = caller.plan()
    caller.cache.write_text("a file where the folder should be")
    with pytest.raises(DownloadFailed) as failure:
        caller.download(sound)
    refused(failure, "STORAGE_ERROR", "cannot be stored")

"""Checking a folder before it is loaded: what is whole passes, what is not is named, and no file is run."""

from __future__ import annotations

import io
import json
import math
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.downloads import DownloadCancelled, DownloadFailed, hashes, verify_checkpoint
from registry.downloads.checkpoint import check_safetensors_header
from tests.conftest import ROOT
from tests.hub import FakeHub
from tests.registry.downloads.caller import FILES, READ, TOTAL, WEIGHTS, Caller, safetensors

DEMO = ROOT / "registry" / "checkpoints" / "musicgen-demo"


def check(folder: Path) -> None:
    verify_checkpoint(folder, on_fraction=lambda fraction: None, should_stop=lambda: False)


def refusal(folder: Path) -> DownloadFailed:
    with pytest.raises(DownloadFailed) as failure:
        check(folder)
    assert str(failure.value).endswith(".")
    return failure.value


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of the user's own, outside any cache."""
    folder = tmp_path / "my-model"
    folder.mkdir()
    for name in READ:
        (folder / name).write_bytes(FILES[name])
    return folder


def test_a_real_checkpoint_passes(tmp_path: Path) -> None:
    check(DEMO)
    assert {each.name for each in DEMO.iterdir()} >= {"config.json", WEIGHTS}


def test_every_cut_of_a_real_checkpoint_is_seen(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "cut"))
    whole = (folder / WEIGHTS).read_bytes()
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:length])
        assert refusal(folder).error_code == "FILE_CORRUPT"
    (folder / WEIGHTS).write_bytes(whole + b"x")
    assert refusal(folder).error_code == "FILE_CORRUPT"


@pytest.mark.parametrize(
    ("name", "content", "error_code", "words"),
    [
        ("config.json", b'{"model_type": "llama"}', "WRONG_ARCHITECTURE", "but of type 'llama'"),
        ("config.json", b"{", "FILE_CORRUPT", "config.json of my-model is damaged"),
        ("config.json", b"[" * 100_000, "FILE_CORRUPT", "config.json of my-model is damaged"),
        ("config.json", b"[]", "FILE_CORRUPT", "config.json of my-model is damaged"),
        ("config.json", None, "INCOMPLETE", "my-model lacks config.json"),
        (WEIGHTS, None, "INCOMPLETE", "lacks its weights"),
        (WEIGHTS, b"\xff" * 100, "FILE_CORRUPT", "Put a sound copy"),
        (WEIGHTS, b"<!doctype html>" * 100, "FILE_CORRUPT", "Put a sound copy"),
    ],
)
def test_what_is_wrong_is_named(
    own: Path, name: str, content: bytes | None, error_code: str, words: str
) -> None:
    (own / name).unlink()
    if content is not None:
        (own / name).write_bytes(content)
    failure = refusal(own)
    assert failure.error_code == error_code, failure.detail
    assert words in str(failure)
    assert (own / name).exists() == (content is not None)  # a folder of the user's own is left as it is


def test_without_a_tokenizer(own: Path) -> None:
    check(own)
    (own / "tokenizer.json").unlink()
    check(own)
    (own / "spiece.model").unlink()
    assert "lacks its tokenizer" in str(refusal(own))


def test_weights_in_parts(own: Path) -> None:
    (own / WEIGHTS).unlink()
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": parts[0], "b": parts[1]}}
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    (own / parts[0]).write_bytes(safetensors(100))
    assert refusal(own).error_code == "INCOMPLETE"
    (own / parts[1]).write_bytes(safetensors(100)[:-1])
    assert refusal(own).error_code == "FILE_CORRUPT"
    (own / parts[1]).write_bytes(safetensors(100))
    check(own)
    index["weight_map"]["c"] = "../my-model/" + parts[0]
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refusal(own).error_code == "INCOMPLETE"


def test_bin_weights_are_looked_at_and_never_unpickled(own: Path) -> None:
    (own / WEIGHTS).unlink()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    weights = own / "pytorch_model.bin"
    weights.write_bytes(archive.getvalue())
    check(own)
    weights.write_bytes(archive.getvalue()[:-30])
    assert refusal(own).error_code == "FILE_CORRUPT"
    weights.write_bytes(pickle.dumps(Bomb()))
    check(own)


class Bomb:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("it was unpickled",)


# --- with a plan ---


def test_what_was_hashed_on_its_way_is_not_hashed_again(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = caller.plan()
    folder = caller.download(plan)
    hashed: list[str] = []
    original = "registry.downloads.checkpoint.hash_file"
    monkeypatch.setattr(original, lambda path, hasher, on_block: hashed.append(path.name))
    fractions = caller.verify(folder, plan)
    assert hashed == []
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert fractions == sorted(fractions)


def test_what_another_process_left_is_hashed_once(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = caller.plan()
    folder = caller.download(plan)
    monkeypatch.setattr("registry.downloads.hashes._proved", {})
    calls: list[str] = []
    real = hashes.hash_file

    def counting(path: Path, hasher: Any, on_block: Any) -> None:
        calls.append(path.name)
        real(path, hasher, on_block)

    monkeypatch.setattr("registry.downloads.checkpoint.hash_file", counting)
    caller.verify(folder, plan)
    assert set(calls) == READ
    calls.clear()
    caller.verify(folder, plan)
    assert calls == []


def test_damage_on_the_disk_is_found_removed_and_repaired(caller: Caller, fake: FakeHub) -> None:
    plan = caller.plan()
    folder = caller.download(plan)
    blob = (folder / WEIGHTS).resolve()
    damaged = bytearray(FILES[WEIGHTS])
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    caller.verify(folder)  # its header is sound: without a plan nothing more is known
    assert caller.installed() == folder
    with pytest.raises(DownloadFailed) as failure:
        caller.verify(folder, plan)
    assert failure.value.error_code == "FILE_CORRUPT"
    assert "was removed. Try again: it is fetched anew" in str(failure.value)
    assert not blob.exists()
    assert caller.installed() is None
    fake.forget_requests()
    assert caller.plan().missing_bytes == len(FILES[WEIGHTS])
    caller.download()
    assert fake.fetched_names() == {WEIGHTS}
    caller.verify(folder, plan)


def test_a_cut_file_of_the_cache_is_taken_out_even_without_a_plan(caller: Caller) -> None:
    folder = caller.download()
    (folder / WEIGHTS).resolve().write_bytes(FILES[WEIGHTS][:5000])
    with pytest.raises(DownloadFailed, match="studio/dwarf is damaged and was removed"):
        caller.verify(folder)
    caller.download()
    caller.verify(folder)


def test_checking_can_be_stopped(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = caller.plan()
    folder = caller.download(plan)
    monkeypatch.setattr("registry.downloads.hashes._proved", {})
    asked = iter([False, True])
    caller.stop_when = lambda: next(asked)
    with pytest.raises(DownloadCancelled):
        caller.verify(folder, plan)


def test_wrong_model_on_the_hub(caller: Caller, fake: FakeHub) -> None:
    fake.publish("studio/codec", {**FILES, "config.json": b'{"model_type": "encodec"}'})
    plan = caller.plan("studio/codec")
    folder = caller.download(plan)
    with pytest.raises(DownloadFailed, match="studio/codec is not a MusicGen model") as failure:
        caller.verify(folder, plan)
    assert failure.value.error_code == "WRONG_ARCHITECTURE"
    assert caller.heard[-1][0] == caller.heard[-1][1] > TOTAL - 10


# --- headers ---


def file_of(header: object, body_bytes: int = 0) -> io.BytesIO:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return io.BytesIO(len(content).to_bytes(8, "little") + content + b"\0" * body_bytes)


def tensor(dtype: str, shape: list[Any], first: Any, last: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    "header",
    [
        {},
        [],
        {"__metadata__": {}},
        {"a": tensor("F32", [2], 0, 7)},
        {"a": tensor("F32", [2], 0, 4)},
        {"a": tensor("F32", [2], 4, 12)},
        {"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 2, 6)},
        {"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 8, 12)},
        {"a": tensor("F32", [-1], 0, 4)},
        {"a": tensor("F32", [1.0], 0, 4)},
        {"a": tensor("F32", ["1"], 0, 4)},
        {"a": tensor("NEW", [1], 4, 0)},
        {"a": {"dtype": "F32"}},
        {"a": 7},
        b"not json",
        b"\xff\xfe",
        b"{" * 1000,
    ],
)
def test_an_impossible_header_is_refused(header: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, RecursionError)):
        check_safetensors_header(file_of(header))


@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "BOOL"]), st.lists(st.integers(0, 5))),
        min_size=1,
        max_size=6,
    )
)
def test_headers_as_the_library_writes_them_pass(shapes: list[tuple[str, list[int]]]) -> None:
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "BOOL": 1}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for number, (dtype, shape) in enumerate(shapes):
        length = sizes[dtype] * math.prod(shape)
        header[f"t{number}"] = tensor(dtype, list(shape), end, end + length)
        end += length
    file = file_of(header)
    assert check_safetensors_header(file) == len(file.getvalue()) + end

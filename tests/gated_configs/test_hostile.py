"""Hostile and mistaken submissions: each its own refusal, soon, and nothing that they name is imported, opened or asked.

Time is counted in seconds of processor, this process's and the calculator's, since tests run side by side.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gated_configs.memory import describe, shared_calculator
from gated_configs.models import RateLimit, UserModelConfig
from tests.gated_configs.hostile import (
    HOSTILE_IDS,
    LLAMA,
    TRAP,
    Hostile,
    all_hostile,
    harmless,
    too_long_to_compute,
)
from tests.memory.samples import Sample, all_samples

pytestmark = pytest.mark.django_db

SUBMIT = "/api/models/config/submit"
MOST_SECONDS = 2.0
HOSTILE = all_hostile()
CODES = {
    "INVALID_CONFIG": 400,
    "CONFIG_TOO_LARGE": 413,
    "UNSUPPORTED_ARCHITECTURE": 422,
    "LIMIT_EXCEEDED": 422,
}


class Traps:
    """A folder with a module and files, and a port, that nobody has any business to touch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / f"{TRAP}.py").write_text("Config = Model = Tokenizer = Pipeline = float16 = None\n")
        (folder / "config.json").write_text(json.dumps(LLAMA))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(0)
        self.port = self.listener.getsockname()[1]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watch = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._watch >= 0
        opened = 0x20  # IN_OPEN, of whatever process
        assert self._libc.inotify_add_watch(self._watch, os.fsencode(folder), opened) >= 0

    def sprung(self) -> list[str]:
        """What was touched since the last time: names of files, and connections."""
        found = []
        try:
            events = os.read(self._watch, 1 << 16)
        except BlockingIOError:
            events = b""
        while events:
            length = struct.unpack_from("iIII", events)[3]
            name, events = events[16 : 16 + length].rstrip(b"\0").decode(), events[16 + length :]
            # A folder on the path is listed by every search for a module; it is what lies in it that counts.
            found += [name] if name else []
        try:
            self.listener.accept()[0].close()
            found.append("a connection")
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        os.close(self._watch)
        self.listener.close()


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traps]:
    """Traps on the import path of this process and of the calculator, which is started anew to have it there."""
    laid = Traps(tmp_path_factory.mktemp("traps"))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(laid.folder) + (os.pathsep + before if before else "")
    sys.path.insert(0, str(laid.folder))
    shared_calculator().close()
    describe(LLAMA)
    yield laid
    sys.path.remove(str(laid.folder))
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    shared_calculator().close()
    laid.close()


def spent_seconds() -> float:
    """Seconds of processor that this process and the calculator's have taken so far."""
    pid = shared_calculator().process_id
    spent = time.process_time()
    if pid is not None:
        times = psutil.Process(pid).cpu_times()
        spent += times.user + times.system + times.children_user + times.children_system
    return spent


def post(client: Client, body: str) -> tuple[int, dict[str, Any]]:
    """Submit, in time. Seconds of a calculator that is replaced in the middle are not counted."""
    RateLimit.objects.all().delete()
    before, pid = spent_seconds(), shared_calculator().process_id
    answer = client.post(SUBMIT, body, content_type="application/json")
    if pid == shared_calculator().process_id:
        assert spent_seconds() - before < MOST_SECONDS
    return answer.status_code, answer.json()


def assert_refused(answer: tuple[int, dict[str, Any]]) -> None:
    """One of the refusals that a config can get, in whole sentences."""
    status, refusal = answer
    assert status == CODES[refusal["error_code"]]
    assert refusal["success"] is False
    assert refusal["message"] == refusal["error"]
    assert re.search(r"[.?!]$", refusal["message"])
    assert len(refusal["message"]) < 4000
    assert "Traceback" not in refusal["message"]
    assert not UserModelConfig.objects.exists()


def test_there_are_at_least_two_hundred() -> None:
    assert len(HOSTILE) >= 200
    assert len({hostile.problem or hostile.code for hostile in HOSTILE}) >= 25


@pytest.mark.parametrize("hostile", HOSTILE, ids=[f"{each.group}-{each.name}" for each in HOSTILE])
def test_a_hostile_config_gets_its_own_refusal(hostile: Hostile, client: Client, traps: Traps) -> None:
    modules = set(sys.modules)
    status, refusal = post(client, hostile.body)
    assert_refused((status, refusal))
    assert (status, refusal["error_code"]) == (hostile.status, hostile.code), refusal["message"]
    if hostile.problem is not None:
        assert refusal["problems"][0] == hostile.problem, refusal["message"]
    assert hostile.says in refusal["message"]
    assert traps.sprung() == []
    assert TRAP not in sys.modules
    assert not {name for name in set(sys.modules) - modules if name.startswith(("torch", "transformers"))}


@pytest.mark.parametrize(("name", "config"), harmless(), ids=[name for name, _ in harmless()])
def test_what_names_code_counts_as_without_it(
    name: str, config: dict[str, Any], client: Client, traps: Traps
) -> None:
    # The trap's own places: its folder instead of any, and its port instead of any host.
    written = json.dumps(config).replace(f"/tmp/{TRAP}", str(traps.folder))
    modules = set(sys.modules)
    status, answer = post(client, f'{{"model_uri": "someone/model", "config": {written}}}')
    assert status == 200, answer
    assert answer["validation"] == {
        "valid": True,
        "model_type": "decoder-only",
        "attention_type": "gqa",
        "parameter_count": describe(LLAMA).parameters.total,
    }
    assert traps.sprung() == []
    assert not {
        each for each in set(sys.modules) - modules if each.startswith((TRAP, "torch", "transformers"))
    }


def test_nothing_is_fetched_for_a_config(
    client: Client, traps: Traps, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{traps.port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    config = {
        **LLAMA,
        "_name_or_path": f"{address}/someone/model",
        "auto_map": {"AutoConfig": f"{address}/code.py"},
        "text_config": {**LLAMA, "_name_or_path": "someone/other"},
        "backbone": "someone/backbone",
        "use_pretrained_backbone": True,
    }
    status, _ = post(client, json.dumps({"model_uri": "someone/model", "config": config}))
    assert status in {200, 400, 422}
    assert traps.sprung() == []


def test_the_traps_would_spring(traps: Traps) -> None:
    """What the other tests rest on: a module that is imported, a file that is read, a connection that is made."""
    assert f"/{traps.folder.name}" in " ".join(
        psutil.Process(shared_calculator().process_id).environ().values()
    )
    subprocess.run([sys.executable, "-c", f"import {TRAP}"], check=True, cwd=traps.folder.parent)
    assert f"{TRAP}.py" in traps.sprung()
    (traps.folder / "config.json").read_bytes()
    assert traps.sprung() == ["config.json"]
    with socket.create_connection(("127.0.0.1", traps.port)):
        assert traps.sprung() == ["a connection"]
    assert traps.sprung() == []


@pytest.mark.parametrize(
    ("name", "config"), too_long_to_compute(), ids=[name for name, _ in too_long_to_compute()]
)
def test_what_would_take_too_long_is_stopped(name: str, config: dict[str, Any], client: Client) -> None:
    answer = post(client, json.dumps({"model_uri": "someone/model", "config": config}))
    if answer[0] != 200:
        assert_refused(answer)
    assert describe(LLAMA).parameters.total > 0


@pytest.mark.parametrize("model_uri", HOSTILE_IDS, ids=range(len(HOSTILE_IDS)))
def test_a_hostile_id_is_refused(model_uri: str, client: Client, traps: Traps) -> None:
    status, refusal = post(client, json.dumps({"model_uri": model_uri, "config": LLAMA}))
    assert (status, refusal["error_code"], refusal["success"]) == (400, "INVALID_MODEL_ID", False)
    for route, field in (("validate", "model_url"), ("calculate", "model_id")):
        answer = client.post(f"/api/models/{route}", json.dumps({field: model_uri}), "application/json")
        assert answer.status_code == (400 if len(model_uri) < 60_000 else 413)
    assert traps.sprung() == []
    assert not UserModelConfig.objects.exists()


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([TRAP, "auto", "full_attention", "gqa", "silu"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


@given(sample=st.sampled_from(all_samples()), choice=st.randoms(use_true_random=False), value=ANYTHING)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_field_may_hold_anything(
    sample: Sample, choice: Any, value: Any, client: Client, traps: Traps
) -> None:
    """A real config with one field replaced, at the top or in a part: computed or refused, and never worse."""
    UserModelConfig.objects.all().delete()
    config = json.loads(json.dumps(sample.config))
    place = config
    while (
        inner := [entry for entry in place.values() if isinstance(entry, dict) and entry]
    ) and choice.random() < 0.5:
        place = choice.choice(inner)
    place[choice.choice(list(place))] = value
    answer = post(client, json.dumps({"model_uri": "someone/model", "config": config}))
    if answer[0] != 200:
        assert_refused(answer)
    assert traps.sprung() == []


@pytest.mark.parametrize("sample", all_samples(), ids=lambda sample: sample.model_id)
def test_every_sample_is_accepted(sample: Sample, client: Client) -> None:
    status, answer = post(client, json.dumps({"model_uri": sample.model_id, "config": sample.config}))
    assert (status, answer["success"]) == (200, True), answer["message"]
    assert answer["model_id"] == sample.model_id
    assert answer["validation"]["valid"] is True
    if sample.params is not None:
        counts = {
            answer["validation"]["parameter_count"],
            *(c.value for c in describe(sample.config).parameters.counts),
        }
        assert counts & sample.counts

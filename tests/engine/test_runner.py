"""A real runner in a process of its own, driven over its pipes."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch

from generation.engine import runner as runner_module
from generation.engine.checkpoint import LoadedModel
from generation.engine.protocol import (
    CHECKPOINT_NOT_FOUND,
    INVALID_REQUEST,
    OUT_OF_MEMORY,
    Load,
    LoadFailed,
    LoadFinished,
    LoadProgress,
    Refused,
    RequestFailed,
    RequestFinished,
    RequestProgress,
    Started,
    Unload,
    decode_event,
)
from generation.engine.runner import LONGEST_LINE_BYTES, Runner, prepare
from tests.engine.conftest import DEMO, ROOT, RunnerProcess, cancel, generate

ENDLESS = 1_200.0  # seconds of audio: no test waits for its end

StartRunner = Callable[..., RunnerProcess]


@pytest.fixture(scope="module")
def runner(start_runner: StartRunner, mono: Path) -> RunnerProcess:
    """A runner with the mono dwarf, shared by the tests that leave it usable."""
    runner = start_runner()
    runner.load(mono)
    return runner


def test_it_starts_and_loads_and_says_what(runner: RunnerProcess) -> None:
    events = [decode_event(line) for line in runner.lines]
    started, loaded = events[0], next(event for event in events if isinstance(event, LoadFinished))
    assert isinstance(started, Started)
    assert started.pid == runner.process.pid
    assert started.versions["torch"] == torch.__version__
    assert {"python", "transformers"} <= started.versions.keys()
    progress = events[1 : events.index(loaded)]
    assert [event.stage for event in progress if isinstance(event, LoadProgress)] == [
        "reading weights",
        *["reading weights"] * (len(progress) - 2),
        "preparing",
    ]
    assert (loaded.device, loaded.device_name, loaded.dtype) == ("cpu", "CPU", "float32")
    assert (loaded.sample_rate, loaded.frame_rate, loaded.channels, loaded.codebooks) == (800, 50, 1, 4)
    assert (loaded.model_type, loaded.revision) == ("musicgen", None)
    assert loaded.parameters > 10_000
    assert loaded.weight_bytes > 4 * loaded.parameters
    assert loaded.memory_bytes > loaded.weight_bytes
    assert loaded.seconds > 0


@pytest.mark.parametrize(
    ("asked_for", "worth", "threads"),
    [(None, 20_000_000, 1), (None, 0, 2), ("2", 20_000_000, 2)],
    ids=["small", "large", "told"],
)
def test_a_small_model_gets_one_thread_unless_told(
    mono_model: LoadedModel, monkeypatch: pytest.MonkeyPatch, asked_for: str | None, worth: int, threads: int
) -> None:
    monkeypatch.setattr("generation.engine.runner.PARAMETERS_WORTH_THREADS", worth)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked_for:
        monkeypatch.setenv("OMP_NUM_THREADS", asked_for)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prepare(dataclasses.replace(mono_model, network=copy.deepcopy(mono_model.network)))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_it_holds_one_model(runner: RunnerProcess, mono: Path) -> None:
    runner.send(Load(checkpoint=str(mono)))
    assert "this runner has its model" in runner.wait_for(Refused).message


def test_a_request_reports_itself_and_ends_in_a_file(runner: RunnerProcess, tmp_path: Path) -> None:
    runner.send(generate(tmp_path / "a.wav", "first", duration_seconds=20.0))
    progress = []
    while isinstance(event := runner.next_event(), RequestProgress):
        progress.append((time.monotonic(), event))
    assert isinstance(event, RequestFinished)
    assert (event.request, event.cancelled, event.frames, event.duration_seconds) == (
        "first",
        False,
        1000,
        20.0,
    )
    assert event.output == str(tmp_path / "a.wav")
    assert soundfile.info(event.output).frames == 16_000
    assert event.seconds.generate > 0

    stages = [each.stage for _, each in progress]
    assert stages == sorted(stages, key=["encoding", "generating", "decoding"].index)
    assert (progress[0][1].stage, progress[0][1].frames_done) == ("encoding", 0)
    assert [each.frames_done for _, each in progress] == sorted(each.frames_done for _, each in progress)
    assert {each.frames_total for _, each in progress} == {1000}
    assert progress[-1][1].frames_done == 1000
    elapsed = progress[-1][0] - progress[0][0]
    assert 4 <= len(progress) <= 10 * elapsed + 6


def test_cancel_keeps_what_was_made(runner: RunnerProcess, tmp_path: Path) -> None:
    runner.send(generate(tmp_path / "a.wav", duration_seconds=ENDLESS))
    runner.wait_for(RequestProgress, lambda event: event.frames_done > 20)
    asked = time.monotonic()
    runner.send(cancel())
    finished = runner.wait_for(RequestFinished)
    assert time.monotonic() - asked < 5
    assert finished.cancelled
    assert finished.frames > 20
    assert finished.output is not None
    assert soundfile.info(finished.output).frames == finished.frames * 16
    assert finished.duration_seconds == pytest.approx(finished.frames / 50)


def test_requests_are_made_side_by_side_and_cancelled_one_by_one(
    runner: RunnerProcess, tmp_path: Path
) -> None:
    runner.send(generate(tmp_path / "a.wav", "first", duration_seconds=ENDLESS))
    runner.send(generate(tmp_path / "b.wav", "second", duration_seconds=ENDLESS))
    begun: set[str] = set()
    while begun != {"first", "second"}:
        begun.add(runner.wait_for(RequestProgress, lambda event: event.frames_done > 0).request)
    runner.send(generate(tmp_path / "c.wav", "short"))
    assert runner.wait_for(RequestFinished).request == "short"
    runner.send(cancel("second"))
    runner.send(cancel("never seen"))
    ended = runner.wait_for(RequestFinished)
    assert (ended.request, ended.cancelled, ended.output) == ("second", True, str(tmp_path / "b.wav"))
    runner.send(cancel("first"))
    assert runner.wait_for(RequestFinished).request == "first"


def test_garbage_is_refused_and_harmless(runner: RunnerProcess, tmp_path: Path) -> None:
    garbage = [
        b"",
        b"hello",
        b"\xff\xfe\x00",
        b"{}",
        b'{"command": "dance"}',
        b"[" * 50_000,
        b"x" * (LONGEST_LINE_BYTES + 1_000_000),
    ]
    for line in garbage:
        runner.send_line(line)
        assert runner.next_event().NAME == "refused"
    runner.send(generate(tmp_path / "a.wav"))
    assert runner.wait_for(RequestFinished).frames == 25


def test_an_id_in_use_is_refused(runner: RunnerProcess, tmp_path: Path) -> None:
    runner.send(generate(tmp_path / "a.wav", duration_seconds=ENDLESS))
    runner.send(generate(tmp_path / "b.wav"))
    assert "'a' is waiting or running already" in runner.wait_for(Refused).message
    runner.send(cancel())
    assert runner.wait_for(RequestFinished).cancelled
    runner.send(generate(tmp_path / "b.wav"))
    assert not runner.wait_for(RequestFinished).cancelled


def test_failed_requests_leave_it_usable(runner: RunnerProcess, tmp_path: Path) -> None:
    runner.send(generate(tmp_path / "a.wav", duration_seconds=0.0))
    failed = runner.wait_for(RequestFailed)
    assert (failed.request, failed.error_code) == ("a", INVALID_REQUEST)
    runner.send(generate(tmp_path / "a.wav", duration_seconds=1e15))
    assert runner.wait_for(RequestFailed).error_code == OUT_OF_MEMORY
    runner.send(generate(tmp_path / "a.wav"))
    assert runner.wait_for(RequestFinished).frames == 25


def test_ctrl_c_in_the_terminal_of_its_parent_is_not_its_own(runner: RunnerProcess, tmp_path: Path) -> None:
    os.kill(runner.process.pid, signal.SIGINT)
    runner.send(generate(tmp_path / "a.wav"))
    assert runner.wait_for(RequestFinished).frames == 25


def test_the_same_seed_gives_the_same_bytes_in_another_process(
    runner: RunnerProcess, start_runner: StartRunner, mono: Path, tmp_path: Path
) -> None:
    runner.send(generate(tmp_path / "a.wav", seed=77, duration_seconds=3.0))
    runner.wait_for(RequestFinished)

    other = start_runner()
    other.load(mono)
    other.send(generate(tmp_path / "x.wav", "x", prompt="something before it", seed=1))
    other.send(generate(tmp_path / "b.wav", seed=77, duration_seconds=3.0))
    other.wait_for(RequestFinished, lambda event: event.request == "a")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()

    # The parent goes in the middle of a step.
    other.send(generate(tmp_path / "c.wav", duration_seconds=ENDLESS))
    other.wait_for(RequestProgress, lambda event: event.frames_done > 0)
    asked = time.monotonic()
    assert other.close() == 0
    assert time.monotonic() - asked < 2
    assert not (tmp_path / "c.wav").exists()


NOISE = """
import os, sys, threading, time

def make_noise():
    while "generation.engine.runner" not in sys.modules:
        time.sleep(0.001)
    while True:
        print("noise from Python", flush=True)
        os.write(1, b"noise from C, without a line end")
        os.system("echo noise from a child")
        time.sleep(0.05)

if "-m" in sys.orig_argv:
    threading.Thread(target=make_noise, daemon=True).start()
"""


def test_prints_of_libraries_do_not_reach_the_stream(
    start_runner: StartRunner, mono: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOISE)
    runner = start_runner({"PYTHONPATH": str(tmp_path)})
    runner.load(mono)  # reads every line as an event
    runner.send(generate(tmp_path / "a.wav", duration_seconds=ENDLESS))
    runner.wait_for(RequestProgress, lambda event: event.frames_done > 20)

    # Unload drops what is running, at once.
    asked = time.monotonic()
    runner.send(Unload())
    assert runner.process.wait(timeout=10) == 0
    assert time.monotonic() - asked < 2
    assert not (tmp_path / "a.wav").exists()
    assert all(decode_event(line) for line in runner.lines)
    noise = runner.stderr.read_bytes()
    assert all(words in noise for words in (b"from Python", b"from C", b"from a child"))


def test_a_failed_load_ends_it(start_runner: StartRunner, tmp_path: Path) -> None:
    runner = start_runner()
    runner.send(generate(tmp_path / "a.wav"))
    failed = runner.wait_for(RequestFailed)
    assert (failed.error_code, failed.message) == (
        INVALID_REQUEST,
        "No model is loaded. Send a load command first.",
    )
    runner.send(Load(checkpoint=str(tmp_path / "none")))
    assert runner.wait_for(LoadFailed).error_code == CHECKPOINT_NOT_FOUND
    assert runner.process.wait(timeout=10) == 1


def test_what_fails_while_a_model_is_prepared_is_told(mono: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: LoadedModel) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runner_module, "prepare", fail)
    events = io.BytesIO()
    assert not Runner(io.BytesIO(), events)._load(Load(checkpoint=str(mono), device="cpu"))
    failed = decode_event(events.getvalue().splitlines()[-1])
    assert isinstance(failed, LoadFailed)
    assert failed.error_code == OUT_OF_MEMORY
    assert "not enough memory to load the model" in failed.message


PARENT = """
import subprocess, sys, time
runner = subprocess.Popen([sys.executable, "-m", "generation.engine"], stdin=subprocess.PIPE)
for line in sys.argv[1:]:
    runner.stdin.write(line.encode() + b"\\n")
runner.stdin.flush()
time.sleep(600)
"""


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    commands = [
        Load(checkpoint=str(DEMO), device="cpu").encode(),
        generate(tmp_path / "a.wav", duration_seconds=ENDLESS).encode(),
    ]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *commands], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    try:
        for line in parent.stdout:
            event = decode_event(line)
            if isinstance(event, RequestProgress) and event.frames_done > 0:
                break
    finally:
        parent.kill()
        parent.wait()
    killed = time.monotonic()
    for line in parent.stdout:  # the pipe's end is the end of the runner, which alone still holds it
        decode_event(line)
    assert time.monotonic() - killed < 2

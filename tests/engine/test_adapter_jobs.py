"""Jobs with adapters in a real runner: each from the exact base, with failures and cancels between them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.company import render
from generation.engine.protocol import (
    ADAPTER_BROKEN,
    ADAPTER_NO_EFFECT,
    NON_FINITE,
    AdapterUse,
    Generate,
    Prove,
    Proved,
    RequestFailed,
    RequestFinished,
    RequestProgress,
)
from generation.runners import Runner
from tests.engine.adapter_files import Make
from tests.engine.conftest import ROOT, RunnerProcess, cancel, generate

StartRunner = Callable[..., RunnerProcess]

#: The lists of adapters that jobs of the long test alternate between: kind and strength of each.
LISTS: list[list[tuple[str, float]]] = [
    [("decoder", 1.0)],
    [],
    [("dora", 0.7)],
    [("saved", 1.0), ("decoder", 0.5)],
    [("decoder", 0.0)],
]


@pytest.fixture(scope="module")
def runner(start_runner: StartRunner, mono: Path) -> RunnerProcess:
    """A runner with the mono dwarf, left usable by every test."""
    runner = start_runner()
    runner.load(mono)
    return runner


def uses_of(make: Make, mono: Path, wanted: list[tuple[str, float]]) -> list[AdapterUse]:
    return [make(mono, kind).use(strength) for kind, strength in wanted]


def take_of(runner: RunnerProcess, command: Generate) -> bytes:
    """The bytes of the take that the runner makes of a command."""
    runner.send(command)
    finished = runner.wait_for(RequestFinished, lambda event: event.request == command.request)
    assert not finished.cancelled
    return Path(command.output).read_bytes()


def solo_take(mono: Path, command: Generate) -> bytes:
    """What a model that was just loaded, and does nothing else, makes of a command."""
    render(
        load_checkpoint(str(mono), device="cpu"),
        command,
        on_stage=lambda stage, done, total: None,
        should_stop=lambda: False,
    )
    return Path(command.output).read_bytes()


def test_a_hundred_jobs_equal_their_solo_runs_and_memory_stays(
    runner: RunnerProcess, mono: Path, make: Make, tmp_path: Path
) -> None:
    commands = [
        generate(
            tmp_path / "take.wav",
            f"list {number}",
            adapters=uses_of(make, mono, wanted),
            duration_seconds=0.2,
        )
        for number, wanted in enumerate(LISTS)
    ]
    solo = [solo_take(mono, command) for command in commands]
    # Strength 0 is the base bit for bit, and every other list is another take.
    assert solo[4] == solo[1]
    assert len(set(solo)) == 4

    process = psutil.Process(runner.process.pid)
    resident: list[int] = []
    for number in range(100):
        choice = (number * 7 + number // 5) % len(LISTS)  # each list after each other
        assert take_of(runner, commands[choice]) == solo[choice]
        resident.append(process.memory_info().rss)
    assert max(resident[80:]) - max(resident[20:40]) < 2_000_000


def test_a_failed_attach_fails_only_its_job(
    runner: RunnerProcess, mono: Path, make: Make, tmp_path: Path
) -> None:
    plain = generate(tmp_path / "plain.wav", "plain")
    adapted = generate(tmp_path / "adapted.wav", "adapted", adapters=uses_of(make, mono, LISTS[0]))
    wanted = solo_take(mono, plain), solo_take(mono, adapted)
    sound = make(mono, "dora")
    broken = make(mono, "decoder").rewritten(
        tmp_path / "broken", lambda tensors: {name: each[:, :1] * 1.0 for name, each in tensors.items()}
    )
    assert take_of(runner, adapted) == wanted[1]
    runner.send(generate(tmp_path / "none.wav", "broken", adapters=[sound.use(), broken.use()]))
    failed = runner.wait_for(RequestFailed)
    assert (failed.request, failed.error_code) == ("broken", ADAPTER_BROKEN)
    assert "'broken' is broken" in failed.message
    assert not (tmp_path / "none.wav").exists()
    assert take_of(runner, plain) == wanted[0]
    assert take_of(runner, adapted) == wanted[1]


def test_a_cancelled_job_leaves_the_base(
    runner: RunnerProcess, mono: Path, make: Make, tmp_path: Path
) -> None:
    plain = generate(tmp_path / "plain.wav", "plain")
    wanted = solo_take(mono, plain)
    endless = generate(tmp_path / "a.wav", duration_seconds=36_000.0, adapters=uses_of(make, mono, LISTS[3]))
    runner.send(endless)
    runner.wait_for(RequestProgress, lambda event: event.frames_done > 5)
    runner.send(cancel())
    assert runner.wait_for(RequestFinished).cancelled
    assert take_of(runner, plain) == wanted


def test_output_that_is_no_number_names_the_strength(
    mono_model: LoadedModel, mono: Path, make: Make, tmp_path: Path, runner: RunnerProcess
) -> None:
    loud = make(mono, "heads").rewritten(
        tmp_path / "loud", lambda tensors: {name: each * 1e30 for name, each in tensors.items()}
    )
    runner.send(generate(tmp_path / "a.wav", adapters=[loud.use()]))
    failed = runner.wait_for(RequestFailed)
    assert (failed.error_code, "lower strength" in failed.message) == (NON_FINITE, True)


def test_it_proves_between_jobs(runner: RunnerProcess, mono: Path, make: Make, tmp_path: Path) -> None:
    plain = generate(tmp_path / "plain.wav", "plain")
    wanted = solo_take(mono, plain)
    runner.send(Prove(request="proof", adapter=make(mono, "whole").use()))
    proof = runner.wait_for(Proved)
    assert (proof.request, proof.tensors_matched) == ("proof", proof.tensors_expected)
    assert proof.logit_change > 0
    assert (proof.logit_change_at_zero, proof.logit_change_after) == (0.0, 0.0)
    assert take_of(runner, plain) == wanted


def test_the_studios_end_of_a_runner_asks_for_a_proof(mono: Path, make: Make, tmp_path: Path) -> None:
    silent = make(mono, "decoder").rewritten(
        tmp_path / "silent", lambda tensors: {name: each * 0 for name, each in tensors.items()}
    )

    async def scenario() -> None:
        runner = Runner()
        await runner.start()
        try:
            await runner.load(
                checkpoint=str(mono), device="cpu", dtype="auto", on_progress=lambda stage, fraction: None
            )
            proof = await runner.prove(Prove(request="1", adapter=make(mono, "dora").use()))
            assert isinstance(proof, Proved)
            assert proof.logit_change > 0
            failed = await runner.prove(Prove(request="2", adapter=silent.use()))
            assert isinstance(failed, RequestFailed)
            assert (failed.request, failed.error_code) == ("2", ADAPTER_NO_EFFECT)
            assert not runner.is_generating
        finally:
            await runner.end()

    asyncio.run(scenario())


BEFORE_AND_AFTER = """
import dataclasses, json, socket, sys

def forbidden(*arguments):
    raise AssertionError(f"connects to {arguments}")

socket.socket.connect = socket.getaddrinfo = forbidden
from generation.engine.protocol import Prove, decode_command
from generation.engine.adapters.attach import Attachment
from generation.engine.adapters.proof import prove
from generation.engine.checkpoint import load_checkpoint
import generation.engine.runner
model = load_checkpoint(sys.argv[1], device="cpu")
Attachment().model_for(model, [])
before = "peft" in sys.modules
proof = prove(model, decode_command(sys.argv[2]), Attachment())
print(json.dumps([before, "peft" in sys.modules, "django" in sys.modules, proof.logit_change > 0]))
"""


def test_peft_is_imported_with_the_first_adapter_and_never_connects(
    mono: Path, make: Make, tmp_path: Path
) -> None:
    adapter = make(mono, "embeddings").reconfigured(
        tmp_path / "Jazz", base_model_name_or_path="facebook/musicgen-small"
    )
    command = Prove(request="a", adapter=adapter.use()).encode()
    answer = subprocess.run(
        [sys.executable, "-c", BEFORE_AND_AFTER, str(mono), command],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert answer.stdout.split("\n")[-2] == "[false, true, false, true]"

"""Adapters through the real engine: proven when it is idle or before their first use, attached for one job, and gone.

One engine serves the whole module, so that every test also shows that the base is as it was.
"""

import asyncio
import os
import signal
from typing import Any

import pytest
import soundfile
from django.contrib.auth.models import User

from adapters.models import Adapter, AdapterProof, ProofStatus
from generation import audio_files
from generation.models import EngineHost, JobStatus, Take
from generation.services.adapters import delete_adapter, remove_deleted_weights
from generation.services.hosts import request_free_memory
from generation.services.job_adapters import AdapterWish
from generation.services.refusals import GenerationRefused
from generation.services.submission import GenerationRequest, submit_job
from registry.models import ModelConfig
from tests.adapters import made
from tests.adapters.conftest import AdapterOn, CheckpointOf
from tests.conftest import wait_until
from tests.generation.adapting import bring_in, dwarf_model, failure
from tests.generation.test_dispatcher import PATIENCE, Engine, engine, until, until_ended
from tests.media_files import take_file, weights_file
from tests.slow_model import standing_still

__all__ = ["engine"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(autouse=True)
def _uses_engine(engine: Engine) -> None:
    """Every test of this module."""


def wanting(model: ModelConfig, *adapters: tuple[Adapter, float | None], **fields: Any) -> GenerationRequest:
    """A request for two tenths of a second with these adapters."""
    wishes = tuple(AdapterWish(adapter.pk, strength) for adapter, strength in adapters)
    values: dict[str, Any] = {"prompt": "slow piano", "duration_seconds": 0.2, "seed": 7, **fields}
    return GenerationRequest(model_id=model.pk, adapters=wishes, **values)


def take_of(owner: User, request: GenerationRequest) -> Take:
    """What the engine makes of it."""
    return until_ended(submit_job(owner=owner, request=request)).takes.get()


def samples_of(take: Take) -> bytes:
    """The sound alone; the file also holds the recipe."""
    return bytes(soundfile.read(take_file(take), dtype="int16")[0].tobytes())


def test_an_adapter_is_attached_for_its_job_alone(
    owner: User, mono: ModelConfig, jazz: Adapter, funk: Adapter
) -> None:
    base = take_of(owner, wanting(mono))
    played = take_of(owner, wanting(mono, (jazz, 0.8)))
    again = take_of(owner, wanting(mono))
    silent = take_of(owner, wanting(mono, (jazz, 0.0)))
    both = take_of(owner, wanting(mono, (jazz, 0.8), (funk, None)))
    same = take_of(owner, wanting(mono, (jazz, 0.8)))
    sounds = [samples_of(take) for take in (base, played, again, silent, both, same)]
    assert sounds[0] == sounds[2] == sounds[3], "without it, and at strength 0, it is the base"
    assert sounds[1] == sounds[5] != sounds[0]
    assert sounds[4] not in sounds[:4]
    assert both.recipe["adapters"] == [
        {"id": jazz.pk, "name": "Jazz", "version": "1.0", "sha256": jazz.sha256, "strength": 0.8},
        {"id": funk.pk, "name": "Funk", "version": "1.0", "sha256": funk.sha256, "strength": 0.7},
    ]
    assert audio_files.read_recipe(take_file(both)) == both.recipe
    assert base.recipe["adapters"] == []
    assert both.adapter_lines == ["Jazz v1.0 0.8", "Funk v1.0 0.7"]
    assert both.recipe_line.endswith(' --adapter "Jazz v1.0:0.8" --adapter "Funk v1.0:0.7"')


def test_an_idle_engine_proves_what_was_imported(mono: ModelConfig, owner: User, jazz: Adapter) -> None:
    take_of(owner, wanting(mono))  # the model is loaded
    wait_until(lambda: jazz.proofs.exists(), seconds=PATIENCE, what="its proof")
    proof = jazz.proofs.get()
    assert (proof.model, proof.status, proof.revision) == (mono, ProofStatus.PASSED, "")
    assert proof.tensors_matched == proof.tensors_expected == jazz.tensor_count
    assert proof.logit_change is not None
    assert proof.logit_change > 0
    assert (proof.logit_change_at_zero, proof.logit_change_after, proof.is_restored) == (0.0, 0.0, True)
    assert (proof.device, proof.dtype) == ("cpu", "float32")


def test_an_adapter_for_a_model_that_is_not_loaded_is_proven_once_the_engine_has_rested(
    engine: Engine, mono: ModelConfig, checkpoint_of: CheckpointOf, adapter_on: AdapterOn
) -> None:
    wide = dwarf_model("wide", checkpoint_of("wide"))
    adapter = bring_in(adapter_on("wide", "decoder"), "Wide Jazz", base_model=wide.pk)
    assert engine.pid_of(wide.pk) is None
    wait_until(lambda: adapter.proofs.exists(), seconds=PATIENCE, what="its proof")
    assert (adapter.proofs.get().model, adapter.proofs.get().status) == (wide, ProofStatus.PASSED)
    assert ModelConfig.objects.get(is_active=True) == mono
    wait_until(lambda: engine.pid_of(mono.pk) is not None, seconds=PATIENCE, what="the active model's load")
    engine.dispatcher._pool.touch(engine.dispatcher._pool.loaded(wide.pk))
    asyncio.run_coroutine_threadsafe(engine.dispatcher._beat(), engine._loop).result(timeout=30)
    assert EngineHost.objects.get(pk=engine.dispatcher.host).model_id == mono.pk, "pages name the active one"


def test_an_unproven_adapter_is_proven_before_its_first_use(
    engine: Engine, owner: User, mono: ModelConfig, jazz: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_of(owner, wanting(mono))
    # Nor does an engine at rest prove it a moment before the job comes.
    monkeypatch.setattr(engine.dispatcher._proofs, "prove_next", nothing_to_prove)
    runner = engine.dispatcher._pool.loaded(mono.pk)
    wait_until(engine.dispatcher._no_job.is_set, seconds=PATIENCE, what="the end of what it had begun")
    with standing_still(runner.pid):
        AdapterProof.objects.all().delete()
        job = submit_job(owner=owner, request=wanting(mono, (jazz, 1.0)))
        until(job, lambda row: row.status == JobStatus.RUNNING, "starting")
    until_ended(job)
    assert jazz.proofs.get().status == ProofStatus.PASSED


async def nothing_to_prove(**_: float) -> bool:
    """What an engine answers that has nothing to prove by itself."""
    return False


def test_a_runner_killed_while_it_proves_costs_nothing_but_time(
    engine: Engine, owner: User, mono: ModelConfig, adapter_on: AdapterOn
) -> None:
    take_of(owner, wanting(mono))
    held = engine.pid_of(mono.pk)
    assert held is not None
    with standing_still(held):
        adapter = bring_in(adapter_on("mono", "rslora"), "Unproven", base_model=mono.pk)
        wait_until(
            lambda: engine.dispatcher._pool.loaded(mono.pk).is_busy, seconds=PATIENCE, what="the proof"
        )
        os.kill(held, signal.SIGKILL)
    wait_until(lambda: engine.pid_of(mono.pk) != held, seconds=PATIENCE, what="its end")
    assert not adapter.proofs.exists(), "a death says nothing about the adapter"
    take_of(owner, wanting(mono, (adapter, 1.0)))
    assert adapter.proofs.get().status == ProofStatus.PASSED


@pytest.fixture
def misfit(mono: ModelConfig, checkpoint_of: CheckpointOf, adapter_on: AdapterOn) -> Adapter:
    """An adapter whose row says less than its file: it seems to fit, and the engine finds that it does not."""
    adapter = bring_in(adapter_on("wide", "whole"), "Misfit")
    Adapter.objects.filter(pk=adapter.pk).update(hidden_size=None, ffn_dim=None, heads=None, base_model=None)
    return Adapter.objects.get(pk=adapter.pk)


def test_a_failed_proof_fails_its_job_alone_and_locks_the_adapter(
    owner: User, mono: ModelConfig, misfit: Adapter
) -> None:
    base = take_of(owner, wanting(mono))
    queued = submit_job(owner=owner, request=wanting(mono, (misfit, 1.0)))
    until(queued, lambda row: row.status == JobStatus.FAILED, "failing")
    code, sentence = failure(queued)
    assert code == "ADAPTER_MISMATCH"
    assert sentence.startswith("Adapter 'Misfit v1.0' cannot be used. ")
    proof = misfit.proofs.get(model=mono)
    assert (proof.status, proof.error_code) == (ProofStatus.FAILED, "ADAPTER_MISMATCH")
    with pytest.raises(GenerationRefused, match="was tried with Dwarf Mono") as refused:
        submit_job(owner=owner, request=wanting(mono, (misfit, 1.0)))
    assert refused.value.first.code == "ADAPTER_NOT_PROVEN"
    assert proof.error_message in str(refused.value)
    assert samples_of(take_of(owner, wanting(mono))) == samples_of(base)


@pytest.mark.parametrize("accident", ["gone", "changed"])
def test_a_file_that_is_gone_or_changed_breaks_the_adapter_and_nothing_else(
    owner: User, mono: ModelConfig, adapter_on: AdapterOn, accident: str
) -> None:
    # One of its own: the engine need not have read it yet.
    recipe = made.Recipe(seed=41 if accident == "gone" else 42)
    adapter = bring_in(adapter_on("mono", recipe), f"Unlucky {accident}", base_model=mono.pk)
    base = take_of(owner, wanting(mono))
    take_of(owner, wanting(mono, (adapter, 1.0)))
    with_it = weights_file(adapter).read_bytes()
    try:
        if accident == "gone":
            weights_file(adapter).unlink()
        else:
            weights_file(adapter).write_bytes(with_it[:-4] + b"abcd")
        forget_adapters(owner, mono)
        job = submit_job(owner=owner, request=wanting(mono, (adapter, 1.0)))
        until(job, lambda row: row.status == JobStatus.FAILED, "failing")
        code, _ = failure(job)
        assert code == {"gone": "ADAPTER_NOT_FOUND", "changed": "ADAPTER_BROKEN"}[accident]
        adapter.refresh_from_db()
        assert (adapter.is_broken, adapter.broken_code) == (True, code)
        with pytest.raises(GenerationRefused, match="is broken") as refused:
            submit_job(owner=owner, request=wanting(mono, (adapter, 1.0)))
        assert refused.value.first.code == "ADAPTER_BROKEN"
        assert samples_of(take_of(owner, wanting(mono))) == samples_of(base)
    finally:
        weights_file(adapter).write_bytes(with_it)


def forget_adapters(owner: User, model: ModelConfig) -> None:
    """End the model's runner, and with it what it had read."""
    request_free_memory()
    wait_until(
        lambda: (
            not EngineHost.objects.filter(free_memory_requested=True).exists()
            and model.pk not in [each["model_id"] for row in EngineHost.objects.all() for each in row.runners]
        ),
        seconds=PATIENCE,
        what="the end of its runner",
    )


def test_a_deleted_adapter_leaves_its_running_job_alone_and_then_its_file_goes(
    engine: Engine, owner: User, mono: ModelConfig, adapter_on: AdapterOn
) -> None:
    adapter = bring_in(adapter_on("mono", made.Recipe(seed=43)), "Short lived", base_model=mono.pk)
    expected = samples_of(take_of(owner, wanting(mono, (adapter, 0.9))))
    path = weights_file(adapter)
    with standing_still(engine.pid_of(mono.pk)):
        running = submit_job(owner=owner, request=wanting(mono, (adapter, 0.9)))
        # Another strength is another network: it cannot be made beside the first.
        waiting = submit_job(owner=owner, request=wanting(mono, (adapter, 0.8)))
        until(running, lambda row: row.status == JobStatus.RUNNING and row.stage != "starting", "being made")
        removal = delete_adapter(adapter)
        assert (removal.cancelled_jobs, removal.running_jobs, removal.takes, removal.freed_bytes) == (
            1,
            1,
            1,
            0,
        )
        assert path.exists()
        assert remove_deleted_weights() == 0, "it is being used"
    take = until_ended(running).takes.get()
    assert samples_of(take) == expected
    assert take.recipe["adapters"][0]["name"] == "Short lived"
    waiting.refresh_from_db()
    assert (waiting.status, waiting.error_code) == ("cancelled", "ADAPTER_DELETED")
    assert waiting.error_message == "The adapter 'Short lived v1.0' was deleted."
    wait_until(lambda: not path.exists(), seconds=30, what="the end of its file")


def test_twenty_jobs_that_alternate_leave_no_trace(
    owner: User, mono: ModelConfig, jazz: Adapter, funk: Adapter
) -> None:
    """Through the queue: each equals its own solo run."""
    choices: list[tuple[tuple[Adapter, float | None], ...]] = [
        (),
        ((jazz, 1.0),),
        ((funk, 0.5),),
        ((jazz, 0.3), (funk, 1.0)),
    ]
    alone = [samples_of(take_of(owner, wanting(mono, *choice, seed=3))) for choice in choices]
    assert len(set(alone)) == len(choices)
    queued = [
        submit_job(owner=owner, request=wanting(mono, *choices[number % 4], seed=3)) for number in range(20)
    ]
    for number, job in enumerate(queued):
        assert samples_of(until_ended(job).takes.get()) == alone[number % 4], number

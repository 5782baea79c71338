"""Proofs of adapters: attach one to a loaded model, measure what it changes, and keep what came out.

Nothing is used unproven: a job proves what it needs before it renders, and an idle engine what was just imported.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from django.db import IntegrityError
from django.db.models import Q

from adapters.models import Adapter, AdapterProof, AdapterQuerySet, ProofStatus
from adapters.services import proofs
from generation import installation
from generation.database import in_database, written
from generation.engine import protocol
from generation.runner_pool import RunnerPool
from generation.runners import LoadRefused, Runner, RunnerDied
from generation.services.job_adapters import use_of
from registry.downloads import DownloadFailed
from registry.media import MediaAway
from registry.models import ModelConfig
from registry.services import list_models, note_architecture

logger = logging.getLogger(__name__)

#: Failures that show that an adapter does not work with a model, or with none: kept as a failed proof. Any other, such
#: as too little memory, says nothing about it.
ADAPTERS_FAULT: Final = proofs.FILE_CODES | {
    protocol.ADAPTER_MISMATCH,
    protocol.ADAPTER_UNSUPPORTED,
    protocol.ADAPTER_NO_EFFECT,
}
#: An idle engine looks for something to prove this often, in seconds; one that has been idle for a while, less often.
LOOK_EVERY: Final = 2.0
LOOK_RARELY_EVERY: Final = 10.0
RARELY_AFTER: Final = 60.0
#: It loads a model for nothing but a proof once it has been idle for so long, in seconds.
LOAD_AFTER: Final = 10.0


class NotProven(RuntimeError):
    """The adapter cannot be used with the model. `str()` is the sentence for people; the runner stays usable."""

    def __init__(self, adapter: Adapter, error_code: str, message: str, detail: str = "") -> None:
        self.error_code = error_code
        self.detail = detail
        super().__init__(f"Adapter '{adapter}' cannot be used. {message}")


async def require_proofs(runner: Runner, model: ModelConfig, adapters: Iterable[Adapter]) -> None:
    """Prove on a loaded model what is not proven on it yet. Raises NotProven for the first that fails, RunnerDied."""
    for adapter in adapters:
        proof = await in_database(_known_proof)(adapter, model, runner)
        if proof is None:
            proof = await prove(runner, model, adapter)
        if proof.status == ProofStatus.FAILED:
            raise NotProven(adapter, proof.error_code, proof.error_message)


async def prove(runner: Runner, model: ModelConfig, adapter: Adapter) -> AdapterProof:
    """Prove one adapter on a loaded model and keep the result, good or bad.

    Raises NotProven, and keeps nothing, where it failed for another reason than the adapter's; RunnerDied, MediaAway.
    """
    use = await written(use_of)(adapter)
    command = protocol.Prove(request=f"prove-{adapter.pk}-{secrets.token_hex(4)}", adapter=use)
    answer = await runner.prove(command)
    if isinstance(answer, protocol.RequestFailed) and answer.error_code not in ADAPTERS_FAULT:
        raise NotProven(adapter, answer.error_code, answer.message, answer.detail)
    try:
        proof = await in_database(_record)(runner, model, adapter, answer)
    except IntegrityError as problem:
        raise NotProven(adapter, "ADAPTER_DELETED", "It was deleted.") from problem
    logger.info("%s on %s: %s", adapter, model.display_name, proof.status)
    return proof


def _known_proof(adapter: Adapter, model: ModelConfig, runner: Runner) -> AdapterProof | None:
    return (
        AdapterProof.objects.filter(adapter=adapter, model=model, revision=runner.revision or "")
        .exclude(status=ProofStatus.WAITING)
        .first()
    )


def _record(
    runner: Runner, model: ModelConfig, adapter: Adapter, answer: protocol.Proved | protocol.RequestFailed
) -> AdapterProof:
    assert runner.loaded is not None
    device, dtype = runner.loaded.device, runner.loaded.dtype
    revision = runner.revision or ""
    if isinstance(answer, protocol.RequestFailed):
        return proofs.record_failure(
            adapter=adapter,
            model=model,
            code=answer.error_code,
            message=answer.message,
            revision=revision,
            device=device,
            dtype=dtype,
        )
    measurement = proofs.Measurement(
        tensors_expected=answer.tensors_expected,
        tensors_matched=answer.tensors_matched,
        logit_change=answer.logit_change,
        logit_change_at_zero=answer.logit_change_at_zero,
        logit_change_after=answer.logit_change_after,
        seconds=answer.seconds,
        device=device,
        dtype=dtype,
    )
    return proofs.record_proof(adapter=adapter, model=model, measurement=measurement, revision=revision)


@dataclass
class IdleProofs:
    """What an engine proves while it has nothing else to do. One adapter at a time, so that a job waits for one at most."""

    pool: RunnerPool
    stopping: asyncio.Event
    # What failed for another reason than the adapter's: tried again by the job that needs it, not over and over here.
    _put_off: set[tuple[int, str]] = field(default_factory=set)
    _looked_at: float = 0.0

    async def prove_next(self, *, idle_seconds: float) -> bool:
        """Prove one adapter that nobody has proven. False when there is none to prove now."""
        every = LOOK_RARELY_EVERY if idle_seconds > RARELY_AFTER else LOOK_EVERY
        if time.monotonic() - self._looked_at < every:
            return False
        loaded = {runner.model_id for runner in self.pool.living()}
        may_load = idle_seconds > LOAD_AFTER and not self.pool.is_resting
        wanted = await in_database(self._next)(loaded, may_load)
        if wanted is None:
            self._looked_at = time.monotonic()
            return False
        adapter, model = wanted
        work = asyncio.create_task(self._prove(adapter, model))
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except MediaAway as problem:
            self._looked_at = time.monotonic()
            logger.warning("%s could not be proven: %s", adapter, problem.in_full)
            return False
        except (NotProven, RunnerDied, LoadRefused, DownloadFailed) as problem:
            self._put_off.add((adapter.pk, model.pk))
            logger.warning("%s could not be proven on %s: %s", adapter, model, problem)
        finally:
            work.cancel()
            stop.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)
        return True

    async def _prove(self, adapter: Adapter, model: ModelConfig) -> None:
        runner = await self.pool.get(model, on_progress=lambda stage, fraction: None, is_busy=True)
        try:
            await prove(runner, model, adapter)
        finally:
            runner.let_go()

    def _next(self, loaded: set[str], may_load: bool) -> tuple[Adapter, ModelConfig] | None:
        """On a loaded model whatever fits it; else, on an installed one with room beside, what was never proven anywhere."""
        models = [model for model in list_models() if model.is_playable]
        for model in models:
            # One that an admin added: its files say how it is built, before anybody loads it.
            if model.family is None and (folder := installation.installed_folder(model)):
                note_architecture(model, folder)
        for model in models:
            if model.pk in loaded and (adapter := self._first(proofs.unproven_on(model), model)):
                return adapter, model
        if not may_load:
            return None
        settled = AdapterProof.objects.exclude(status=ProofStatus.WAITING)
        never = Adapter.objects.sound().exclude(pk__in=settled.values("adapter"))
        if not never.exists():
            return None
        there = [model for model in models if installation.installed_folder(model) is not None]
        # On its own base before any other that is built the same way.
        for only_own in (True, False):
            for model in there:
                own = Q(base_model=model) if only_own else Q()
                adapter = self._first(never.compatible_with(model).filter(own), model)
                if adapter is not None and self.pool.fits_beside(model):
                    return adapter, model
        return None

    def _first(self, adapters: AdapterQuerySet, model: ModelConfig) -> Adapter | None:
        """The newest of them; somebody may be waiting for it."""
        newest = adapters.select_related("base_model").order_by("-pk")
        return next((each for each in newest if (each.pk, model.pk) not in self._put_off), None)

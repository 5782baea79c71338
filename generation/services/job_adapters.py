"""The adapters of a job: which may be asked for, what is kept of them, and how the engine is told.

Whether an adapter fits a model is decided in `adapters`; here it becomes a refusal with a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from adapters.format.compatibility import Judgement
from adapters.models import Adapter, ProofStatus
from adapters.services.local_weights import local_weights
from adapters.services.proofs import proof_for
from generation.engine.protocol import AdapterUse
from generation.models import Job, JobAdapter
from generation.services.parameters import STRENGTH, check_number
from generation.services.refusals import GenerationRefused, Refusal
from registry.models import ModelConfig

#: Adapters that one job may stack.
MAX_ADAPTERS: Final = 8
_MAX_ID: Final = 2**63 - 1


@dataclass(frozen=True)
class AdapterWish:
    """An adapter as somebody asks for it. Without a strength its default one counts."""

    id: int
    strength: float | None = None


@dataclass(frozen=True)
class ChosenAdapter:
    """An adapter that a job may use, and how strongly."""

    adapter: Adapter
    strength: float


class AdapterGone(RuntimeError):
    """An adapter of the job was deleted before the engine had read it. `str()` is the sentence for people."""

    def __init__(self, used: JobAdapter) -> None:
        super().__init__(f"The adapter '{used.label}' was deleted.")


def check_adapters(wishes: Sequence[AdapterWish], model: ModelConfig | None) -> list[ChosenAdapter] | Refusal:
    """The adapters of a request, in its order, or the refusal of the first that cannot be used.

    Without a model, which is then refused for itself, only what concerns the adapters alone is checked.
    """
    if len(wishes) > MAX_ADAPTERS:
        return Refusal(
            f"A job can use {MAX_ADAPTERS} adapters at most, and this one names {len(wishes)}. Take some out.",
            "TOO_MANY_ADAPTERS",
            {"adapters": len(wishes), "max_adapters": MAX_ADAPTERS},
        )
    rows = Adapter.objects.select_related("base_model").in_bulk(
        [wish.id for wish in wishes if 0 < wish.id <= _MAX_ID]
    )
    chosen: dict[int, ChosenAdapter] = {}
    for wish in wishes:
        adapter = rows.get(wish.id)
        if adapter is None:
            return Refusal(
                f"There is no adapter with the number {wish.id}. It may have been deleted: choose another.",
                "ADAPTER_NOT_FOUND",
                {"adapter_id": wish.id},
            )
        if wish.id in chosen:
            return Refusal(
                f"Adapter '{adapter}' is named twice. Name it once, with the strength that it should have.",
                "ADAPTER_TWICE",
                {"adapter_id": wish.id},
            )
        refusal = _refusal_of(adapter, model)
        if refusal is not None:
            return refusal
        wanted = adapter.default_strength if wish.strength is None else wish.strength
        strength = check_number(wanted, STRENGTH, "strength")
        if isinstance(strength, Refusal):
            return Refusal(
                f"{adapter}: {strength.message}", strength.code, {**strength.facts, "adapter_id": wish.id}
            )
        chosen[wish.id] = ChosenAdapter(adapter, float(strength))
    return list(chosen.values())


def _refusal_of(adapter: Adapter, model: ModelConfig | None) -> Refusal | None:
    """Why the adapter cannot be used with the model; None when it can."""
    if adapter.is_broken:
        return Refusal(
            f"Adapter '{adapter}' is broken: {adapter.broken_reason}",
            "ADAPTER_BROKEN",
            {"adapter_id": adapter.pk, "reason": adapter.broken_reason},
        )
    if model is None:
        return None
    judgement = adapter.judge(model)
    facts = {
        "adapter_id": adapter.pk,
        "model_id": model.pk,
        "required_model_id": judgement.required_model_id or None,
        "reason": judgement.reason,
    }
    if not judgement.is_usable:
        return Refusal(_misfit(adapter, model, judgement), "ADAPTER_INCOMPATIBLE", facts)
    proof = proof_for(adapter, model)
    if proof is not None and proof.status == ProofStatus.FAILED:
        return Refusal(
            f"Adapter '{adapter}' was tried with {model.display_name} and does not work: {proof.error_message}",
            "ADAPTER_NOT_PROVEN",
            {**facts, "reason": proof.error_message},
        )
    return None


def _misfit(adapter: Adapter, model: ModelConfig, judgement: Judgement) -> str:
    if not judgement.required_model_id:
        reason = judgement.reason[:1].lower() + judgement.reason[1:]
        return f"Adapter '{adapter.name}' does not fit {model.display_name}: {reason}."
    there = f"{model.display_name} is active" if model.is_active else f"the job asks for {model.display_name}"
    return f"Adapter '{adapter.name}' requires {judgement.required_model_name}, but {there}"


def store_adapters(job: Job, chosen: Iterable[ChosenAdapter]) -> None:
    """Keep what the job uses, as it is now."""
    JobAdapter.objects.bulk_create(
        JobAdapter(
            job=job,
            adapter=each.adapter,
            position=position,
            name=each.adapter.name,
            version=each.adapter.version,
            sha256=each.adapter.sha256,
            weights_sha256=each.adapter.weights_sha256,
            strength=each.strength,
        )
        for position, each in enumerate(chosen)
    )


def wishes_of(job: Job) -> tuple[AdapterWish, ...]:
    """The adapters of an earlier job, to be asked for again. One that was deleted and imported again counts as the same.

    Raises GenerationRefused for one that is gone.
    """
    wishes = []
    for used in job.adapters.all():
        adapter_id = used.adapter_id or (
            Adapter.objects.filter(sha256=used.sha256).order_by("pk").values_list("pk", flat=True).first()
        )
        if adapter_id is None:
            sentence = f"Adapter '{used.label}' was deleted. Import it again, or start a new job without it."
            raise GenerationRefused({"adapters": Refusal(sentence, "ADAPTER_NOT_FOUND")})
        wishes.append(AdapterWish(adapter_id, used.strength))
    return tuple(wishes)


def use_of(adapter: Adapter, strength: float = 1.0) -> AdapterUse:
    """How a runner is told of an adapter. Its weights may have to be fetched: not on an event loop.

    Raises MediaAway, OSError.
    """
    return AdapterUse(
        path=str(local_weights(adapter.weights_sha256)),
        sha256=adapter.weights_sha256,
        config=json.dumps(adapter.config, sort_keys=True, separators=(",", ":")),
        strength=strength,
        name=str(adapter),
    )


def adapters_of(job: Job) -> list[tuple[JobAdapter, Adapter]]:
    """What a job that is about to be rendered uses, in order. Raises AdapterGone."""
    found = []
    for used in job.adapters.select_related("adapter", "adapter__base_model"):
        if used.adapter is None:
            raise AdapterGone(used)
        found.append((used, used.adapter))
    return found

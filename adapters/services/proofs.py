"""Proofs that adapters work: recorded as the engine measures them, asked for, and which are still due.

What must be true of a proof that passed stands here and, as a constraint, in the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Exists, OuterRef

from adapters.events import AdaptersChanged
from adapters.models import Adapter, AdapterProof, AdapterQuerySet, ProofStatus
from registry.events import send_on_commit
from registry.models import ModelConfig

TENSORS_UNMATCHED: Final = "ADAPTER_MISMATCH"
NO_EFFECT: Final = "ADAPTER_NO_EFFECT"
NOT_RESTORED: Final = "ADAPTER_NOT_RESTORED"

#: Failures that are the file's and no model's: with them the adapter is broken everywhere.
FILE_CODES: Final = frozenset({"ADAPTER_BROKEN", "ADAPTER_NOT_FOUND"})


@dataclass(frozen=True)
class Measurement:
    """What the engine measured on a fixed input. Logit changes are means of absolute differences to the base."""

    tensors_expected: int
    tensors_matched: int
    logit_change: float
    logit_change_at_zero: float
    logit_change_after: float
    seconds: float | None = None
    device: str = ""
    dtype: str = ""


def record_proof(
    *, adapter: Adapter, model: ModelConfig, measurement: Measurement, revision: str = ""
) -> AdapterProof:
    """Write down what was measured, passed or failed; a later proof of the same revision replaces an earlier one."""
    code, message = _judge(measurement)
    changes = {
        name: value if math.isfinite(value) else None
        for name in ("logit_change", "logit_change_at_zero", "logit_change_after")
        for value in [getattr(measurement, name)]
    }
    return _write(
        adapter,
        model,
        revision,
        status=ProofStatus.FAILED if code else ProofStatus.PASSED,
        tensors_expected=measurement.tensors_expected,
        tensors_matched=measurement.tensors_matched,
        **changes,
        is_restored=measurement.logit_change_after == 0.0,
        device=measurement.device,
        dtype=measurement.dtype,
        seconds=measurement.seconds,
        error_code=code,
        error_message=message,
    )


def record_failure(
    *,
    adapter: Adapter,
    model: ModelConfig,
    code: str,
    message: str,
    revision: str = "",
    device: str = "",
    dtype: str = "",
    seconds: float | None = None,
) -> AdapterProof:
    """Write down that the engine refused the adapter, with its code and sentence.

    For refusals that are the adapter's: a runner that crashed or ran out of memory proves nothing. A file that is
    gone or was changed makes the adapter broken for every model.
    """
    if code in FILE_CODES:
        mark_broken(adapter, code=code, reason=message)
    return _write(
        adapter,
        model,
        revision,
        status=ProofStatus.FAILED,
        tensors_expected=None,
        tensors_matched=None,
        logit_change=None,
        logit_change_at_zero=None,
        logit_change_after=None,
        is_restored=None,
        device=device,
        dtype=dtype,
        seconds=seconds,
        error_code=code,
        error_message=message,
    )


def proof_for(adapter: Adapter, model: ModelConfig) -> AdapterProof | None:
    """The newest proof of an adapter on a model, whatever its outcome."""
    return AdapterProof.objects.filter(adapter=adapter, model=model).order_by("-updated_at", "-id").first()


def proofs_on(model: ModelConfig) -> dict[int, AdapterProof]:
    """The newest proof on a model of each adapter that has one, by the adapter's key."""
    newest = AdapterProof.objects.filter(model=model).order_by("updated_at", "id")
    return {proof.adapter_id: proof for proof in newest}


def failed_on(model: ModelConfig) -> list[int]:
    """Keys of the adapters whose newest proof on a model failed: their files fit it, and they cannot be used."""
    return [pk for pk, proof in proofs_on(model).items() if proof.status == ProofStatus.FAILED]


def failed_pairs() -> frozenset[tuple[int, str]]:
    """Keys of every adapter and model whose newest proof together failed."""
    proofs = AdapterProof.objects.order_by("updated_at", "id").values_list("adapter_id", "model_id", "status")
    newest = {(adapter, model): status for adapter, model, status in proofs}
    return frozenset(pair for pair, status in newest.items() if status == ProofStatus.FAILED)


def unproven_on(model: ModelConfig) -> AdapterQuerySet:
    """Adapters that fit a model as far as files tell, and were neither proven nor refused on it yet."""
    settled = AdapterProof.objects.filter(adapter=OuterRef("pk"), model=model).exclude(
        status=ProofStatus.WAITING
    )
    return Adapter.objects.compatible_with(model).filter(~Exists(settled))


def mark_broken(adapter: Adapter, *, code: str, reason: str) -> bool:
    """No model can use the adapter any more, and why. False where it was broken before."""
    reason = reason[: Adapter._meta.get_field("broken_reason").max_length]
    if Adapter.objects.sound().filter(pk=adapter.pk).update(broken_code=code, broken_reason=reason) != 1:
        return False
    adapter.broken_code, adapter.broken_reason = code, reason
    send_on_commit(AdaptersChanged())
    return True


def mark_sound(adapter: Adapter) -> None:
    """Its file is back as it was imported: usable again, and proofs that failed for its file's sake are due anew."""
    Adapter.objects.filter(pk=adapter.pk).update(broken_code="", broken_reason="")
    adapter.broken_code = adapter.broken_reason = ""
    AdapterProof.objects.filter(adapter=adapter, error_code__in=FILE_CODES).delete()
    send_on_commit(AdaptersChanged())


def _judge(measured: Measurement) -> tuple[str, str]:
    """The code and the sentence of what is wrong; both empty where the proof passed."""
    expected, matched = measured.tensors_expected, measured.tensors_matched
    if expected < 1 or matched != expected:
        return TENSORS_UNMATCHED, (
            f"Only {matched} of its {expected} tensors found their place in the model. It was made for another one."
        )
    if not (math.isfinite(measured.logit_change) and measured.logit_change > 0.0):
        return (
            NO_EFFECT,
            "It changes nothing in what the model plays. It was not trained, or for another model.",
        )
    if measured.logit_change_at_zero != 0.0:
        return (
            NOT_RESTORED,
            "At strength 0 the model did not play as without it. Report this with the adapter's name.",
        )
    if measured.logit_change_after != 0.0:
        return (
            NOT_RESTORED,
            "After it was taken off, the model did not play as before. Report this with the adapter's name.",
        )
    return "", ""


def _write(adapter: Adapter, model: ModelConfig, revision: str, **facts: Any) -> AdapterProof:
    proof, _ = AdapterProof.objects.update_or_create(
        adapter=adapter, model=model, revision=revision, defaults=facts, create_defaults=facts
    )
    send_on_commit(AdaptersChanged())
    return proof

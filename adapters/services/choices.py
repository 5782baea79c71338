"""What a form offers: every adapter with whether it can be used on a model, why not, and what would unlock it.

One list, in the order in which people see it: usable ones first, then the locked ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapters.format.compatibility import Judgement, Verdict
from adapters.models import Adapter, AdapterProof, ProofStatus
from adapters.services.proofs import failed_pairs, proofs_on
from registry.models import ModelConfig


@dataclass(frozen=True)
class AdapterChoice:
    """One adapter as a form offers it for a model. `unlock_model` is a playable model that it works with, if locked."""

    adapter: Adapter
    judgement: Judgement
    proof: AdapterProof | None
    unlock_model: ModelConfig | None

    @property
    def is_usable(self) -> bool:
        """Whether a job on the model may use it: its files fit, and no proof failed."""
        return self.judgement.is_usable and not self.has_failed

    @property
    def has_failed(self) -> bool:
        """Whether its proof on the model failed."""
        return self.proof is not None and self.proof.status == ProofStatus.FAILED

    @property
    def is_proven(self) -> bool:
        """Whether its proof on the model passed."""
        return self.proof is not None and self.proof.status == ProofStatus.PASSED

    @property
    def reason(self) -> str:
        """In a few words why it is locked, or how it fits."""
        if self.judgement.is_usable and self.has_failed and self.proof is not None:
            return f"Failed its proof on this model: {self.proof.error_message}"
        return self.judgement.reason


def choice_for(adapter: Adapter, model: ModelConfig) -> AdapterChoice:
    """One adapter on one model."""
    return _choice(adapter, model, proofs_on(model).get(adapter.pk), _playable(), failed_pairs())


def usable_for(model: ModelConfig) -> list[AdapterChoice]:
    """Every adapter for a model: usable ones first, each group by name."""
    proofs = proofs_on(model)
    playable, failed = _playable(), failed_pairs()
    adapters = Adapter.objects.select_related("base_model")
    choices = [_choice(adapter, model, proofs.get(adapter.pk), playable, failed) for adapter in adapters]
    # The table is ordered by name, and sorting keeps that order within each group.
    return sorted(choices, key=lambda choice: not choice.is_usable)


def _playable() -> list[ModelConfig]:
    return list(ModelConfig.objects.playable())


def _choice(
    adapter: Adapter,
    model: ModelConfig,
    proof: AdapterProof | None,
    playable: list[ModelConfig],
    failed: frozenset[tuple[int, str]],
) -> AdapterChoice:
    judgement = adapter.judge(model)
    choice = AdapterChoice(adapter=adapter, judgement=judgement, proof=proof, unlock_model=None)
    if choice.is_usable or judgement.verdict is Verdict.BROKEN:
        return choice
    # Where its proof failed it would be locked again after the switch.
    others = [each for each in playable if each.pk != model.pk and (adapter.pk, each.pk) not in failed]
    return AdapterChoice(
        adapter=adapter, judgement=judgement, proof=proof, unlock_model=_unlocking(adapter, others)
    )


def _unlocking(adapter: Adapter, others: list[ModelConfig]) -> ModelConfig | None:
    """The playable model that it should rather be used with: the one that fits best, in people's order."""
    fits = {each.pk: verdict for each in others if (verdict := adapter.judge(each)).is_usable}
    order = [Verdict.EXACT, Verdict.SAME_ARCHITECTURE, Verdict.UNKNOWN_BASE]
    return min(
        (each for each in others if each.pk in fits),
        key=lambda each: order.index(fits[each.pk].verdict),
        default=None,
    )

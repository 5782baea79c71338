"""What the adapters pages show: the list with verdicts, one adapter with its proof, and what hangs on it.

Reads rows, writes none. Every sentence is ready to print.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Count, Max

from adapters.format.compatibility import Verdict
from adapters.models import Adapter, AdapterProof, ProofStatus
from adapters.services.choices import AdapterChoice, choice_for, usable_for
from gated_configs.wording import plain_number, spoken_bytes, spoken_seconds
from generation import settings_page
from generation.adapter_pages.access import may_change
from generation.adapter_pages.trial_card import trial_card
from generation.installation import installed_folder
from generation.models import AdapterTrial, JobAdapter, Take
from generation.partials import reading
from generation.services.adapters import dependents_of
from registry.models import ModelConfig
from registry.services import list_models

#: Said instead of the files' verdict where the proof failed.
NOT_PROVEN: Final = "not_proven"
#: Long enough to hear a style, short enough to wait for three.
USUAL_TRIAL_SECONDS: Final = 8.0
#: Comparisons that the page of an adapter links to, beside the one it shows.
EARLIER_TRIALS: Final = 5
#: Takes that an adapter's page shows; the library has them all.
TAKES_SHOWN: Final = 8

_PROOF_WORDS: Final = {
    ProofStatus.PASSED: ("proven", "good", "i-check"),
    ProofStatus.FAILED: ("failed", "bad", "i-warn"),
    ProofStatus.WAITING: ("waiting", "", ""),
}


@dataclass(frozen=True)
class OtherModel:
    """An installed model beside the active one, and whether an adapter works with it."""

    model_name: str
    is_usable: bool
    title: str


@dataclass(frozen=True)
class AdapterRow:
    """One line of the list."""

    adapter: Adapter
    label: str
    facts: str
    verdict: str
    reason: str
    is_usable: bool
    others: list[OtherModel]
    proof_word: str
    takes_count: int


@dataclass(frozen=True)
class ProofCard:
    """A proof in words. `state` is passed, failed or waiting."""

    model_name: str
    state: str
    word: str
    tone: str
    icon: str
    lines: list[str]
    sentence: str


@dataclass(frozen=True)
class ModelVerdict:
    """The verdict on an adapter for one installed model."""

    model: ModelConfig
    verdict: str
    reason: str
    is_usable: bool


@dataclass(frozen=True)
class AdapterPage:
    """One adapter, whole."""

    adapter: Adapter
    label: str
    verdict: str
    standing: str
    is_usable: bool
    unlock_model: ModelConfig | None
    trigger_words: list[str]
    proofs: list[ProofCard]
    proof_outlook: str
    models: list[ModelVerdict]
    elsewhere: str
    facts: list[tuple[str, str]]
    takes: list[Take]
    takes_count: int


def installed_models() -> list[ModelConfig]:
    """Models that this machine has and can play, in the order in which people see them."""
    return [model for model in list_models() if model.is_playable and installed_folder(model) is not None]


def active_model() -> ModelConfig | None:
    """The active model, None where there is none."""
    return ModelConfig.objects.filter(is_active=True).first()


def adapter_rows(adapters: Iterable[Adapter], user: Any) -> tuple[list[AdapterRow], list[ModelConfig]]:
    """Lines for those adapters, and the other installed models they speak of."""
    model = active_model()
    others = [other for other in installed_models() if other != model]
    by_model = {
        each.pk: {choice.adapter.pk: choice for choice in usable_for(each)}
        for each in ([model] if model is not None else []) + others
    }
    shown = list(adapters)
    proofs = _newest_proofs(shown)
    counts = _take_counts(user)
    rows = []
    for adapter in shown:
        choice = by_model[model.pk][adapter.pk] if model is not None else None
        facts = [f"rank {adapter.rank}", spoken_bytes(adapter.file_bytes)]
        if base := _base_words(adapter):
            facts.insert(0, f"for {base}")
        rows.append(
            AdapterRow(
                adapter=adapter,
                label=str(adapter),
                facts=" · ".join(facts),
                verdict=verdict_of(choice),
                reason=_reason(choice),
                is_usable=choice is not None and choice.is_usable,
                others=[_other(by_model[other.pk][adapter.pk], other) for other in others],
                proof_word=_proof_word(model, proofs[adapter.pk]),
                takes_count=counts.get(adapter.pk, 0),
            )
        )
    return rows, others


def verdict_of(choice: AdapterChoice | None) -> str:
    """The verdict from the files, overruled by a proof that failed: no match means no use."""
    if choice is None:
        return str(Verdict.INCOMPATIBLE)
    if choice.judgement.is_usable and not choice.is_usable:
        return NOT_PROVEN
    return str(choice.judgement.verdict)


def _reason(choice: AdapterChoice | None) -> str:
    if choice is None:
        return "No model is active"
    return "" if choice.is_usable and choice.judgement.verdict == Verdict.EXACT else choice.reason


def _other(choice: AdapterChoice, model: ModelConfig) -> OtherModel:
    return OtherModel(model.display_name, choice.is_usable, choice.reason)


def _newest_proofs(adapters: Iterable[Adapter]) -> dict[int, list[AdapterProof]]:
    """By adapter, the newest proof on each model."""
    pks = [adapter.pk for adapter in adapters]
    found: dict[int, dict[str, AdapterProof]] = {pk: {} for pk in pks}
    proofs = AdapterProof.objects.filter(adapter__in=pks).select_related("model")
    for proof in proofs.order_by("updated_at", "id"):
        found[proof.adapter_id][proof.model_id] = proof
    return {pk: list(by_model.values()) for pk, by_model in found.items()}


def _proof_word(model: ModelConfig | None, proofs: list[AdapterProof]) -> str:
    """Of the active model where that has one, else of any."""
    for proof in proofs:
        if proof.model == model and proof.status != ProofStatus.WAITING:
            return "proven" if proof.status == ProofStatus.PASSED else "failed"
    passed = [proof for proof in proofs if proof.status == ProofStatus.PASSED]
    return f"proven on {passed[0].model.display_name}" if passed else "not yet"


def _base_words(adapter: Adapter) -> str:
    """The base model as people know it; as the file names it where the registry does not know it."""
    if adapter.base_model is not None:
        return adapter.base_model.display_name
    return adapter.base_model_name.rstrip("/").rsplit("/", 1)[-1]


def _take_counts(user: Any) -> dict[int, int]:
    """How many kept takes of this person each adapter had a part in."""
    counted = (
        JobAdapter.objects.filter(adapter__isnull=False, job__takes__in=Take.objects.for_user(user).kept())
        .values("adapter_id")
        .annotate(takes=Count("job__takes", distinct=True))
    )
    return {entry["adapter_id"]: entry["takes"] for entry in counted.order_by()}


def adapter_page(adapter: Adapter, user: Any, trial: AdapterTrial | None = None) -> AdapterPage:
    """Everything the page of one adapter says. The takes of the comparison that it shows are not listed again."""
    model = active_model()
    installed = installed_models()
    choice = choice_for(adapter, model) if model is not None else None
    proofs = _newest_proofs([adapter])[adapter.pk]
    takes = Take.objects.for_user(user).kept().made_with(adapter.pk).order_by("-id")
    listed = takes.exclude(job__trial=trial) if trial is not None else takes
    elsewhere = [
        other.display_name
        for other in list_models()
        if other.is_playable and other not in installed and adapter.judge(other).is_usable
    ]
    return AdapterPage(
        adapter=adapter,
        label=str(adapter),
        verdict=verdict_of(choice),
        standing=_standing_words(choice, model),
        is_usable=choice is not None and choice.is_usable,
        unlock_model=choice.unlock_model if choice is not None else None,
        trigger_words=[words.strip() for words in adapter.trigger_words.split(",") if words.strip()],
        proofs=[proof_card(proof) for proof in sorted(proofs, key=lambda proof: proof.model != model)],
        proof_outlook=_outlook(adapter, installed),
        models=[_model_verdict(choice_for(adapter, other), other) for other in installed],
        elsewhere=", ".join(elsewhere),
        facts=_facts(adapter),
        takes=list(listed[:TAKES_SHOWN]),
        takes_count=takes.count(),
    )


def _standing_words(choice: AdapterChoice | None, model: ModelConfig | None) -> str:
    if choice is None or model is None:
        return "No model is active."
    if choice.is_usable and choice.judgement.verdict == Verdict.EXACT:
        return f"Made for {model.display_name}, which is active."
    reason = choice.reason if choice.reason.endswith(".") else f"{choice.reason}."
    if choice.is_usable:
        return f"Works with {model.display_name}. {reason}"
    return (
        reason if choice.judgement.verdict == Verdict.BROKEN else f"{reason} {model.display_name} is active."
    )


def _model_verdict(choice: AdapterChoice, model: ModelConfig) -> ModelVerdict:
    return ModelVerdict(model, verdict_of(choice), _reason(choice), choice.is_usable)


def _outlook(adapter: Adapter, installed: list[ModelConfig]) -> str:
    if any(adapter.judge(model).is_usable for model in installed):
        return "The engine does it when it is idle, at the latest before the first take."
    return "That needs a model it works with, and none is installed here."


def proof_card(proof: AdapterProof) -> ProofCard:
    """A proof in words."""
    status = ProofStatus(proof.status)
    word, tone, icon = _PROOF_WORDS[status]
    lines: list[str] = []
    sentence = ""
    if status == ProofStatus.PASSED:
        lines = [
            f"{proof.tensors_matched} of {proof.tensors_expected} tensors matched.",
            f"It changes the output: {_figure(proof.logit_change)} mean logit change at strength 1, none at 0.",
            "Afterwards the model was exactly what it had been.",
        ]
        where = " · ".join(part for part in (proof.device.upper(), proof.dtype) if part)
        took = f" in {spoken_seconds(max(0.1, proof.seconds))}" if proof.seconds else ""
        sentence = f"Measured on a fixed input{took}{f' ({where})' if where else ''}."
    elif status == ProofStatus.FAILED:
        sentence = proof.error_message
        if proof.tensors_expected and proof.tensors_matched is not None:
            lines = [f"{proof.tensors_matched} of {proof.tensors_expected} tensors matched."]
    else:
        sentence = "The engine does it when it is idle, at the latest before the first take."
    return ProofCard(proof.model.display_name, str(status), word, tone, icon, lines, sentence)


def _figure(value: float | None) -> str:
    """Two figures that matter: 0.42, 1.3, 0.00071."""
    return f"{value:.2g}" if value is not None else "unknown"


def _facts(adapter: Adapter) -> list[tuple[str, str]]:
    return [
        ("Rank", str(adapter.rank)),
        ("Alpha", plain_number(adapter.alpha)),
        ("Variants", ", ".join(adapter.variants) or "plain LoRA"),
        ("Made for", _made_for(adapter)),
        ("Tensors", str(adapter.tensor_count)),
        ("Size", spoken_bytes(adapter.file_bytes)),
        ("Usual strength", plain_number(adapter.default_strength)),
        (
            "From",
            f"{adapter.get_source_display()}{f' · {adapter.source_name}' if adapter.source_name else ''}",
        ),
        (
            "Imported",
            f"{adapter.created_at:%-d %b %Y}{f' by {adapter.imported_by}' if adapter.imported_by else ''}",
        ),
        ("Identity", adapter.sha256[:12]),
    ]


def _made_for(adapter: Adapter) -> str:
    if adapter.base_model is not None:
        return adapter.base_model.display_name
    return adapter.base_model_name or "not said"


def trial_context(user: Any, adapter: Adapter, trial: AdapterTrial | None) -> dict[str, Any]:
    """What the comparison's part of the page needs; `trial` is the one that is shown."""
    read_at = reading()
    earlier = AdapterTrial.objects.for_user(user).filter(adapter=adapter)
    if trial is not None:
        earlier = earlier.exclude(pk=trial.pk)
    return {
        "read_at": read_at,
        "adapter": adapter,
        "trial": trial_card(trial) if trial is not None else None,
        "earlier_trials": list(earlier[:EARLIER_TRIALS]),
    }


def page_context(user: Any, adapter: Adapter, trial: AdapterTrial | None) -> dict[str, Any]:
    """What the page of one adapter needs."""
    return {
        **trial_context(user, adapter, trial),
        "page": adapter_page(adapter, user, trial),
        "try_form": {"values": _trial_start(adapter, trial), "errors": {}, "refusal": ""},
        "can_change": may_change(user),
        "can_switch": settings_page.may_switch(user),
        "switch_card": settings_page.shown_switch(),
    }


def _trial_start(adapter: Adapter, trial: AdapterTrial | None) -> dict[str, str]:
    """The form of a comparison as it starts: the one that is shown, to be changed a little, else the usual."""
    if trial is not None:
        return {
            "prompt": trial.prompt,
            "duration_seconds": plain_number(trial.duration_seconds),
            "seed": str(trial.seed),
        }
    model = active_model()
    seconds = min(USUAL_TRIAL_SECONDS, model.default_duration_seconds if model else USUAL_TRIAL_SECONDS)
    return {"prompt": adapter.trigger_words, "duration_seconds": plain_number(seconds), "seed": ""}


def stamp() -> str:
    """Changes whenever a list of adapters may look different: a page that holds an older one reads itself again."""
    newest = [
        rows.aggregate(newest=Max("updated_at"), rows=Count("pk"))
        for rows in (Adapter.objects.all(), AdapterProof.objects.all())
    ]
    parts = [f"{entry['rows']}:{entry['newest'].timestamp()}" if entry["newest"] else "0" for entry in newest]
    active = ModelConfig.objects.filter(is_active=True).values_list("pk", flat=True).first()
    return " ".join([active or "", *parts])


def depends_on(adapter: Adapter) -> list[str]:
    """What deleting it touches, in sentences."""
    found = dependents_of(adapter)
    takes, waiting, running = found.takes, found.queued_jobs, found.running_jobs
    sentences = []
    if takes:
        stay = "stays" if takes == 1 else "stay"
        sentences.append(f"{_count(takes, 'take')} made with it {stay}; its name and hash are in the recipe.")
    if waiting:
        need = "needs" if waiting == 1 else "need"
        sentences.append(f"{_count(waiting, 'job')} in the queue {need} it and will be cancelled.")
    if running:
        sentences.append("The job that is using it now will finish.")
    if found.trials:
        go = "goes" if found.trials == 1 else "go"
        sentences.append(f"{_count(found.trials, 'comparison')} {go} with it; the takes stay.")
    shares = Adapter.objects.filter(weights_sha256=adapter.weights_sha256).exclude(pk=adapter.pk)
    other = shares.first()
    if other is not None:
        sentences.append(f"Its weights stay on disk, because {other} uses the same ones.")
    else:
        sentences.append(
            f"{spoken_bytes(adapter.file_bytes)} on disk will be freed. To use it again, import it again."
        )
    return sentences


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

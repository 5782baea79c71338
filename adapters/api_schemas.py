"""Shapes of the adapters' part of the JSON API, and of the commands' --json. No logic beyond reading rows."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ninja import Schema
from pydantic import ConfigDict, Field, StrictFloat

from adapters.models import Adapter, AdapterProof
from registry.api_schemas import BaseModelOut
from registry.models import ModelConfig


class VerdictOut(Schema):
    """Whether an adapter works with a model, from its files alone."""

    model_id: str
    verdict: Literal["exact", "same_architecture", "unknown_base", "incompatible", "broken"]
    is_usable: bool
    reason: str = Field(description="In a few words, such as Requires MusicGen Large.")
    field: str | None = Field(description="What differs, when it is incompatible: hidden_size, layers, ...")
    required_model_id: str | None = Field(
        description="The model it was made for, where that is known and another one."
    )

    @classmethod
    def of(cls, adapter: Adapter, model: ModelConfig) -> VerdictOut:
        """Judge an adapter for a model."""
        judgement = adapter.judge(model)
        return cls(
            model_id=model.pk,
            verdict=judgement.verdict.value,
            is_usable=judgement.is_usable,
            reason=judgement.reason,
            field=judgement.field or None,
            required_model_id=judgement.required_model_id or None,
        )


class ProofOut(Schema):
    """What the engine measured when it attached an adapter to a model. Changes are means of absolute differences."""

    model_id: str
    status: Literal["waiting", "passed", "failed"]
    tensors_expected: int | None
    tensors_matched: int | None
    logit_change: float | None = Field(description="Of the logits at strength 1, against the base.")
    logit_change_at_zero: float | None = Field(description="At strength 0: 0 when it is right.")
    logit_change_after: float | None = Field(description="After detaching: 0 when the base is restored.")
    is_restored: bool | None
    revision: str
    device: str
    dtype: str
    seconds: float | None
    error: str | None
    error_code: str | None
    updated_at: datetime

    @classmethod
    def of(cls, proof: AdapterProof) -> ProofOut:
        """Read a row."""
        return cls(
            model_id=proof.model_id,
            status=proof.status,  # type: ignore[arg-type]  # a TextChoices value
            tensors_expected=proof.tensors_expected,
            tensors_matched=proof.tensors_matched,
            logit_change=proof.logit_change,
            logit_change_at_zero=proof.logit_change_at_zero,
            logit_change_after=proof.logit_change_after,
            is_restored=proof.is_restored,
            revision=proof.revision,
            device=proof.device,
            dtype=proof.dtype,
            seconds=proof.seconds,
            error=proof.error_message or None,
            error_code=proof.error_code or None,
            updated_at=proof.updated_at,
        )


class AdapterOut(Schema):
    """One adapter: what people say of it, what its files tell, and how it stands to a model."""

    id: int
    label: str = Field(description="Name and version, as in My Jazz Adapter v1.0.")
    name: str
    version: str
    description: str
    trigger_words: str
    default_strength: float = Field(description="From 0 to 2; 1 is what it was trained for.")
    base_model: str | None = Field(
        description="Hugging Face id of its base, or what its files call it; null when unknown."
    )
    base_model_config: BaseModelOut | None = Field(description="Its base, where the studio knows it.")
    verdict: VerdictOut | None = Field(description="For the model that was asked for, else the active one.")
    proofs: list[ProofOut]
    rank: int
    alpha: float
    variants: list[str] = Field(description="rsLoRA, DoRA, saved modules and the like.")
    tensor_count: int
    file_bytes: int
    sha256: str = Field(description="Of weights and config together: the adapter's identity.")
    weights_sha256: str
    notes: list[str] = Field(description="What was repaired or left out at import.")
    is_broken: bool
    broken_code: str | None
    broken_reason: str | None
    source: Literal["folder", "zip", "hub", "shipped"]
    source_name: str
    imported_by: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, adapter: Adapter, model: ModelConfig | None) -> AdapterOut:
        """Read a row and judge it for a model. Reads the base, the importer and the proofs beside it."""
        base = adapter.base_model
        return cls(
            id=adapter.pk,
            label=str(adapter),
            name=adapter.name,
            version=adapter.version,
            description=adapter.description,
            trigger_words=adapter.trigger_words,
            default_strength=adapter.default_strength,
            base_model=(base.hf_model_id if base is not None else adapter.base_model_name) or None,
            base_model_config=BaseModelOut.of(base) if base is not None else None,
            verdict=VerdictOut.of(adapter, model) if model is not None else None,
            proofs=[ProofOut.of(proof) for proof in adapter.proofs.all()],
            rank=adapter.rank,
            alpha=adapter.alpha,
            variants=adapter.variants,
            tensor_count=adapter.tensor_count,
            file_bytes=adapter.file_bytes,
            sha256=adapter.sha256,
            weights_sha256=adapter.weights_sha256,
            notes=adapter.notes,
            is_broken=adapter.is_broken,
            broken_code=adapter.broken_code or None,
            broken_reason=adapter.broken_reason or None,
            source=adapter.source,  # type: ignore[arg-type]  # a TextChoices value
            source_name=adapter.source_name,
            imported_by=adapter.imported_by.get_username() if adapter.imported_by is not None else None,
            created_at=adapter.created_at,
            updated_at=adapter.updated_at,
        )


class AdaptersOut(Schema):
    """Adapters, by name."""

    adapters: list[AdapterOut]
    total: int
    current_model: str | None


class ImportOut(Schema):
    """What an import answers. `created` is false where the same adapter was there already."""

    created: bool
    adapter: AdapterOut


class AdapterWording(Schema):
    """What people may say of an adapter."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        None, description="Without one it is called after its folder, zip or repository."
    )
    version: str | None = Field(None, description="Any text; 1.0 without one.")
    description: str | None = None
    trigger_words: str | None = Field(None, description="Words it was trained to answer to, for the prompt.")
    default_strength: StrictFloat | None = Field(None, description="0 to 2. Default 1.")
    base_model: str | None = Field(
        None,
        description="Model id or Hugging Face id, where the files do not name the base or name it wrongly.",
    )


class ImportIn(AdapterWording):
    """Where an adapter is: on the hub, or in a folder of the studio's machine (local mode only). One of the two."""

    hf_model_id: str | None = Field(None, description="As owner/name.", examples=["someone/my-jazz-adapter"])
    revision: str | None = Field(None, description="Branch, tag or commit; the newest without one.")
    folder: str | None = Field(None, description="An absolute path. Local mode only.")


class ZipFields(AdapterWording):
    """The fields beside the file of an upload, where every value is text."""

    default_strength: float | None = None


__all__ = [
    "AdapterOut",
    "AdapterWording",
    "AdaptersOut",
    "ImportIn",
    "ImportOut",
    "ProofOut",
    "VerdictOut",
    "ZipFields",
]

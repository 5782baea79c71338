"""Shapes that every part of the JSON API shares. They live below every app that has routes."""

from __future__ import annotations

from typing import Annotated

from ninja import Schema
from pydantic import Field, PlainSerializer, WithJsonSchema

from gated_configs.api_schemas import ErrorOut
from registry.models import ModelConfig, whole_if_equal

__all__ = ["BaseModelOut", "ErrorOut", "ModelFacts", "PlainNumber"]

#: 30 and 2.5 in JSON, never 30.0: limits are mostly whole.
PlainNumber = Annotated[float, PlainSerializer(whole_if_equal), WithJsonSchema({"type": "number"})]


class ModelFacts(Schema):
    """What decides what can be made with a model."""

    id: str
    display_name: str
    hf_model_id: str
    max_duration_seconds: PlainNumber = Field(
        description="Longest take in one piece, the operator's override included."
    )
    max_extended_seconds: PlainNumber | None = Field(
        description="Longest take in overlapping windows of `max_duration_seconds`; null where there are none."
    )
    recommended_duration_seconds: PlainNumber
    tokens_per_second: int = Field(description="Frames of the codec for each second of audio.")
    vram_requirement_gb: PlainNumber = Field(description="Memory it needs, in GB of 10^9 bytes.")
    sample_rate: int
    channels: int
    codebooks: int
    follows_melody: bool = Field(description="Whether a take can follow the melody of a clip: `melody_clip`.")
    licence: str = Field(description="Licence of the weights.")
    is_active: bool = Field(description="Whether new jobs use it by default.")
    is_playable: bool
    unplayable_reason: str


class BaseModelOut(ModelFacts):
    """A model as an adapter's base."""

    @classmethod
    def of(cls, model: ModelConfig) -> BaseModelOut:
        """Read a row."""
        facts = model.as_dict()
        return cls(**{name: facts[name] for name in cls.model_fields})

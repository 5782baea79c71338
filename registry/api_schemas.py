"""Shapes that every part of the JSON API shares. They live below every app that has routes."""

from __future__ import annotations

from ninja import Schema
from pydantic import ConfigDict, Field

from registry.models import ModelConfig


class ErrorOut(Schema):
    """The one shape of every refusal: a sentence for people, a code for scripts, and the figures it rests on."""

    model_config = ConfigDict(extra="allow")

    error: str = Field(description="A sentence that says what is wrong and what to do.")
    error_code: str = Field(description="A constant for scripts, such as DURATION_TOO_LONG.")
    errors: dict[str, str] | None = Field(
        None, description="The sentence for each refused field, by the field's name."
    )


class BaseModelOut(Schema):
    """A model as an adapter's base: what decides what can be made with it."""

    id: str
    display_name: str
    hf_model_id: str
    max_duration_seconds: float = Field(description="Longest take, the operator's override included.")
    recommended_duration_seconds: float
    tokens_per_second: int = Field(description="Frames of the codec for each second of audio.")
    vram_requirement_gb: float = Field(description="Memory it needs, in GB of 10^9 bytes.")
    sample_rate: int
    channels: int
    codebooks: int
    licence: str = Field(description="Licence of the weights.")
    is_active: bool = Field(description="Whether new jobs use it by default.")
    is_playable: bool
    unplayable_reason: str

    @classmethod
    def of(cls, model: ModelConfig) -> BaseModelOut:
        """Read a row."""
        facts = model.as_dict()
        return cls(**{name: facts[name] for name in cls.model_fields})

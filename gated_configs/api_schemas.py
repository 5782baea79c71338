"""Shapes of what the memory part of the JSON API is asked, and of its answers about configs. No logic.

Answers with figures are in `api_figures`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import BeforeValidator, ConfigDict, Field

from gated_configs.services.analysis import MOST_COLUMNS, MOST_ROWS
from gated_configs.services.comparison import MOST_MODELS
from gated_configs.services.model_ids import MAX_CHARACTERS
from gated_configs.services.questions import MOST_CARDS, MOST_SECONDS, MOST_SEQUENCES, MOST_TOKENS, Question


def _as_float(value: Any) -> Any:
    # A whole number of seconds is a number too; a truth value or a text is not.
    return float(value) if type(value) is int and abs(value) < 2**53 else value


Whole = Annotated[int, Field(strict=True)]
Seconds = Annotated[
    float, BeforeValidator(_as_float), Field(strict=True, gt=0, le=MOST_SECONDS, allow_inf_nan=False)
]
FormatName = Annotated[str, Field(max_length=80)]
ModelText = Annotated[
    str, Field(max_length=MAX_CHARACTERS, description="An id such as owner/name, or the address of its page.")
]
SourceName = Literal["own", "shared", "builtin", "hub"]


class ErrorOut(Schema):
    """The one shape of every refusal: a sentence for people, a code for scripts, and the figures it rests on."""

    model_config = ConfigDict(extra="allow")

    error: str = Field(description="A sentence that says what is wrong and what to do.")
    error_code: str = Field(description="A constant for scripts, such as DURATION_TOO_LONG.")
    errors: dict[str, str] | None = Field(
        None, description="The sentence for each refused field, by the field's name."
    )


# --- What is asked ---


class ValidateIn(Schema):
    """A model to look up."""

    model_url: ModelText


class QuestionIn(Schema):
    """What every question may say; what is left out is left to the model."""

    precision: FormatName | None = Field(
        None, description="Format of the weights: fp32, bf16, fp16, fp8, int8, int4, nf4, stored, ..."
    )
    cache_precision: FormatName | None = Field(None, description="Format of the cache; follows the weights.")
    activation_precision: FormatName | None = Field(
        None, description="fp32, bf16 or fp16; follows the weights."
    )
    batch_size: Whole = Field(
        1, ge=1, le=MOST_SEQUENCES, description="Sequences, or variations of a take, at once."
    )
    seq_length: Whole | None = Field(
        None, ge=1, le=MOST_TOKENS, description="Tokens of prompt and answer together."
    )
    duration_seconds: Seconds | None = Field(
        None, description="Length of a take, for models that make music."
    )
    guidance: bool = Field(True, description="Classifier-free guidance: music runs every take twice.")
    encoder_tokens: Whole | None = Field(None, ge=0, le=MOST_TOKENS, description="What an encoder reads.")
    tensor_parallel: Whole = Field(
        1, ge=1, le=MOST_CARDS, description="Cards that share a model; the figures are for each."
    )
    gpu: FormatName | None = Field(
        None, description='A card of the list, such as rtx-4090, or "this" for the studio\'s own machine.'
    )

    def question(self) -> Question:
        """The same as a question of the services."""
        return Question(**{name: getattr(self, name) for name in QuestionIn.model_fields})


class CalculateIn(QuestionIn):
    """One model and one question."""

    model_id: ModelText


class AnalyzeIn(QuestionIn):
    """One model over a grid."""

    model_id: ModelText
    batch_sizes: list[Annotated[Whole, Field(ge=1, le=MOST_SEQUENCES)]] | None = Field(
        None, min_length=1, max_length=MOST_ROWS
    )
    seq_lengths: list[Annotated[Whole, Field(ge=1, le=MOST_TOKENS)]] | None = Field(
        None, min_length=1, max_length=MOST_COLUMNS, description="Columns of the grid, in tokens."
    )
    durations_seconds: list[Seconds] | None = Field(
        None, min_length=1, max_length=MOST_COLUMNS, description="Columns of the grid for music."
    )


class CompareIn(QuestionIn):
    """Several models and one question."""

    models: list[ModelText] = Field(min_length=1, max_length=MOST_MODELS)


class SubmitIn(Schema):
    """A config for a model. Read from the text of the request itself, so that nothing in it is lost."""

    model_uri: ModelText
    config: dict[str, Any] | str = Field(
        description="The config.json, as an object or as the text of the file."
    )


# --- What is answered ---


class ValidateOut(Schema):
    """Whether a model's config is at hand, and what to do when it is not."""

    valid: bool
    error: str | None
    error_code: str | None
    model_id: str | None
    requires_config: bool
    config_submission_url: str | None
    source: SourceName | None = Field(description="Where its config comes from.")
    reason: str | None = Field(None, description="Finer than the code: GATED_NO_TOKEN or GATED_NO_ACCESS.")
    next_step: str | None = Field(None, description="What to do, in a sentence.")
    model_page: str | None = Field(None, description="The model's page on the hub.")
    errors: dict[str, str] | None = None


class SubmittedModelOut(Schema):
    """What was computed from a submitted config."""

    valid: bool
    model_type: str
    attention_type: str
    parameter_count: int


class SubmitOut(Schema):
    """A config that was saved."""

    success: Literal[True]
    message: str
    model_id: str
    validation: SubmittedModelOut


class SubmitRefusedOut(ErrorOut):
    """A config that was not saved, and why."""

    success: Literal[False]
    message: str
    required_fields: list[str] = Field(description="What a config of this family must hold.")
    missing_fields: list[str]


class ConfigCheckOut(Schema):
    """Whether a config is saved that this person gets."""

    has_config: bool
    model_id: str
    submitted_at: datetime | None
    is_verified: bool = Field(description="Whether an admin found it right.")


class ConfigOut(Schema):
    """A model's config and what was read from it."""

    model_id: str
    model_type: str
    attention_type: str
    parameter_count: int
    architecture: dict[str, Any] = Field(description="Parameters by part, caches by layer, shapes and notes.")
    config: dict[str, Any] = Field(description="NaN and infinities in fields that are not used become null.")
    source: SourceName
    source_detail: str = Field(description="The same as a sentence, with version or commit.")

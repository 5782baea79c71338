"""Exact memory figures from a model's config.json. Knows nothing of Django; config in, plain dataclasses out.

Importing this package imports neither torch nor transformers: building happens in a child process.
"""

from __future__ import annotations

from typing import Any

from gated_configs.memory.architecture import Architecture, Count, LayerState, Music, Parameters, Quantisation
from gated_configs.memory.cards import CARDS, Card, find_card
from gated_configs.memory.child import Calculator, config_hash, shared_calculator
from gated_configs.memory.dtypes import ACTIVATION_FORMATS, CACHE_FORMATS, WEIGHT_FORMATS
from gated_configs.memory.errors import (
    CalculatorError,
    CalculatorUnavailable,
    DoesNotFit,
    InvalidConfig,
    LimitExceeded,
    Problem,
    UnsupportedArchitecture,
)
from gated_configs.memory.estimate import ActivationRange, MemoryEstimate, estimate
from gated_configs.memory.families import known_families, required_fields
from gated_configs.memory.request import MAX_DURATION_SECONDS, Request, default_request
from gated_configs.memory.solve import (
    CardFit,
    fit_on,
    largest_batch,
    longest_context,
    longest_take,
    smallest_card,
)
from gated_configs.memory.validation import ValidConfig, check_config, read_config


def describe(config: dict[str, Any]) -> Architecture:
    """What a parsed config says about its model: checked, built in the child process, and remembered.

    Raises InvalidConfig, UnsupportedArchitecture, LimitExceeded or CalculatorUnavailable, each with a sentence.
    """
    return shared_calculator().describe(check_config(config).config)


def describe_text(text: str | bytes) -> Architecture:
    """The same for the text of a config.json."""
    return shared_calculator().describe(read_config(text).config)


__all__ = [
    "ACTIVATION_FORMATS",
    "CACHE_FORMATS",
    "CARDS",
    "MAX_DURATION_SECONDS",
    "WEIGHT_FORMATS",
    "ActivationRange",
    "Architecture",
    "Calculator",
    "CalculatorError",
    "CalculatorUnavailable",
    "Card",
    "CardFit",
    "Count",
    "DoesNotFit",
    "InvalidConfig",
    "LayerState",
    "LimitExceeded",
    "MemoryEstimate",
    "Music",
    "Parameters",
    "Problem",
    "Quantisation",
    "Request",
    "UnsupportedArchitecture",
    "ValidConfig",
    "check_config",
    "config_hash",
    "default_request",
    "describe",
    "describe_text",
    "estimate",
    "find_card",
    "fit_on",
    "known_families",
    "largest_batch",
    "longest_context",
    "longest_take",
    "read_config",
    "required_fields",
    "shared_calculator",
    "smallest_card",
]

"""Rows of the registry: the models that can be played, and each switch from one to another."""

from registry.models.model_config import ModelConfig, ModelConfigQuerySet, whole_if_equal
from registry.models.model_switch import SWITCH_TRANSITIONS, ModelSwitch, SwitchStage

__all__ = [
    "SWITCH_TRANSITIONS",
    "ModelConfig",
    "ModelConfigQuerySet",
    "ModelSwitch",
    "SwitchStage",
    "whole_if_equal",
]

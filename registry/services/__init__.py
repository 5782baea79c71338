"""Verbs of the registry, by noun: models (find, list, sync with the catalogue) and switches (from one to another)."""

from registry.services.architecture import (
    ModelArchitecture,
    architecture_of,
    note_architecture,
    read_architecture,
)
from registry.services.models import (
    ModelNotFound,
    ModelNotPlayable,
    NoActiveModel,
    UnknownLimits,
    activate_model,
    check_limits,
    get_active_model,
    get_max_duration,
    get_model_config,
    list_models,
    sync_catalog,
)
from registry.services.switches import (
    SwitchAnswer,
    SwitchUnderWay,
    cancel_switch,
    last_switch,
    open_switch,
    request_switch,
)

__all__ = [
    "ModelArchitecture",
    "ModelNotFound",
    "ModelNotPlayable",
    "NoActiveModel",
    "SwitchAnswer",
    "SwitchUnderWay",
    "UnknownLimits",
    "activate_model",
    "architecture_of",
    "cancel_switch",
    "check_limits",
    "get_active_model",
    "get_max_duration",
    "get_model_config",
    "last_switch",
    "list_models",
    "note_architecture",
    "open_switch",
    "read_architecture",
    "request_switch",
    "sync_catalog",
]

"""Verbs of the registry, by noun: models (find, list, sync with the catalogue) and switches (from one to another)."""

from registry.services.additions import Addition, NotAddable, add_config, add_model
from registry.services.architecture import (
    ModelArchitecture,
    architecture_of,
    config_in,
    facts_of_config,
    note_architecture,
    note_description,
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
    "Addition",
    "ModelArchitecture",
    "ModelNotFound",
    "ModelNotPlayable",
    "NoActiveModel",
    "NotAddable",
    "SwitchAnswer",
    "SwitchUnderWay",
    "UnknownLimits",
    "activate_model",
    "add_config",
    "add_model",
    "architecture_of",
    "cancel_switch",
    "check_limits",
    "config_in",
    "facts_of_config",
    "get_active_model",
    "get_max_duration",
    "get_model_config",
    "last_switch",
    "list_models",
    "note_architecture",
    "note_description",
    "open_switch",
    "request_switch",
    "sync_catalog",
]

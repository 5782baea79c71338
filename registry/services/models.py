"""Verbs of the registry: find a model, keep the table in step with the catalogue, choose the active one.

It knows nothing of jobs, runners or pages.
"""

from __future__ import annotations

from typing import Any

from django.db import DEFAULT_DB_ALIAS, transaction

from registry.catalog import DEMO_MODEL_ID, MODEL_CONFIGS
from registry.described import seed_descriptions
from registry.models import ModelConfig


class ModelNotFound(LookupError):
    """No model of that id. `str()` is the sentence for people."""

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        super().__init__(
            f"There is no model '{model_id}'. Choose one of: "
            + ", ".join(ModelConfig.objects.values_list("id", flat=True))
            + "."
        )


class ModelNotPlayable(ValueError):
    """The model is listed but cannot be played. `str()` is the sentence for people."""

    def __init__(self, model: ModelConfig) -> None:
        self.model_id = model.id
        super().__init__(f"{model.display_name} cannot be played yet. {model.unplayable_reason}".strip())


class NoActiveModel(LookupError):
    """The table holds no active model. `str()` is the sentence for people."""

    def __init__(self) -> None:
        super().__init__("No model is active. Run `manage.py migrate`, or make one active in the admin.")


def get_model_config(model_id: str) -> ModelConfig:
    """The model of that id or Hugging Face id. Raises ModelNotFound."""
    model = None
    if model_id.isascii() and "\0" not in model_id:  # as all ids are; databases refuse some other text
        model = (
            ModelConfig.objects.filter(pk=model_id).first()
            or ModelConfig.objects.filter(hf_model_id=model_id).first()
        )
    if model is None:
        raise ModelNotFound(model_id)
    return model


def get_max_duration(model_id: str) -> float:
    """Longest take of that model in one piece, in seconds, the environment's override included. Raises ModelNotFound."""
    return get_model_config(model_id).duration_limit_seconds


def list_models() -> list[ModelConfig]:
    """Every model, in the order in which people see them."""
    return list(ModelConfig.objects.all())


def get_active_model() -> ModelConfig:
    """The model that new jobs use by default. Raises NoActiveModel."""
    model = ModelConfig.objects.filter(is_active=True).first()
    if model is None:
        raise NoActiveModel
    return model


def activate_model(model_id: str) -> ModelConfig:
    """Make that model the default for new jobs. Raises ModelNotFound, ModelNotPlayable.

    Jobs already queued keep the model they name.
    """
    with transaction.atomic():
        model = get_model_config(model_id)
        if not model.is_playable:
            raise ModelNotPlayable(model)
        # The constraint allows one active row at any moment, so the old one steps down first.
        ModelConfig.objects.filter(is_active=True).exclude(pk=model.pk).update(is_active=False)
        ModelConfig.objects.filter(pk=model.pk).update(is_active=True)
    model.is_active = True
    return model


def sync_catalog(
    *,
    using: str = DEFAULT_DB_ALIAS,
    table: type[ModelConfig] = ModelConfig,
    catalog: dict[str, dict[str, Any]] = MODEL_CONFIGS,
) -> list[str]:
    """Bring the table up to the catalogue and return a line for each change.

    A field is changed only while it still holds what the catalogue gave it last time: what an admin edited stays.
    Rows that the catalogue no longer names stay too. `table` may be a migration's historical model.
    """
    changes: list[str] = []
    known_fields = {field.name for field in table._meta.concrete_fields}
    with transaction.atomic(using=using):
        for position, entry in enumerate(catalog.values()):
            facts = {name: value for name, value in entry.items() if name in known_fields and name != "id"}
            facts["position"] = position
            changes += _apply_entry(table, using, entry["id"], facts)
        if "architecture" in known_fields:
            seed_descriptions(using=using, table=table)
        rows = table._default_manager.using(using)
        if not rows.filter(is_active=True).exists():
            demo = rows.filter(pk=DEMO_MODEL_ID, is_playable=True)
            if demo.update(is_active=True):
                changes.append(f"{DEMO_MODEL_ID}: made active")
    return changes


def _apply_entry(table: type[ModelConfig], using: str, model_id: str, facts: dict[str, Any]) -> list[str]:
    rows = table._default_manager.using(using)
    row = rows.filter(pk=model_id).first()
    if row is None:
        if rows.filter(hf_model_id=facts["hf_model_id"]).exists():
            return [f"{model_id}: left out, an admin already has {facts['hf_model_id']} under another name"]
        rows.create(pk=model_id, catalog_values=facts, **facts)
        return [f"{model_id}: added"]
    if row.catalog_values == facts:
        return []
    changed = {
        name: value
        for name, value in facts.items()
        if getattr(row, name) != value and row.catalog_values.get(name, ...) == getattr(row, name)
    }
    for name, value in changed.items():
        setattr(row, name, value)
    if row.recommended_duration_seconds > row.max_duration_seconds:
        # An admin edited one of the two and the catalogue moved the other: the longest duration decides.
        row.recommended_duration_seconds = row.max_duration_seconds
        changed["recommended_duration_seconds"] = row.max_duration_seconds
    if row.is_active and not row.is_playable:
        row.is_playable = True
        changed.pop("is_playable", None)
    row.catalog_values = facts
    row.save(using=using, update_fields=[*changed, "catalog_values"])
    return [f"{model_id}: {name} is now {value}" for name, value in changed.items()]


class UnknownLimits(ValueError):
    """A setting limits a model that is not there. `str()` is the sentence for people."""


def check_limits(setting: str, limits: dict[str, float]) -> None:
    """Raise UnknownLimits unless every name is a model's id or Hugging Face id: a typing slip must not go unnoticed."""
    for name in limits:
        try:
            get_model_config(name)
        except ModelNotFound as problem:
            raise UnknownLimits(f"{setting}: {problem}") from problem

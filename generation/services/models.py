"""Models as this machine has them: installed, loaded, removed. Which models there are is the registry's."""

from __future__ import annotations

from typing import Any

from gated_configs.deeds import tell_deed
from generation.installation import installed_folder
from generation.models import Job
from generation.services.hosts import running_host
from registry import downloads
from registry.models import ModelConfig
from registry.services import list_models, open_switch


def loaded_model_ids() -> set[str]:
    """Ids of the models that a living engine holds in memory."""
    host = running_host()
    return {runner["model_id"] for runner in host.runners} if host is not None else set()


def facts_of(model: ModelConfig, loaded: set[str] | None = None) -> dict[str, Any]:
    """What API and commands print of a model, with what is so on this machine."""
    held = loaded_model_ids() if loaded is None else loaded
    return {
        **model.as_dict(),
        "is_installed": installed_folder(model) is not None,
        "is_loaded": model.pk in held,
    }


def list_model_facts() -> list[dict[str, Any]]:
    """The facts of every model, in the order in which people see them."""
    loaded = loaded_model_ids()
    return [facts_of(model, loaded) for model in list_models()]


class RemovalRefused(ValueError):
    """`str()` is the sentence for people."""


def remove_installed_model(model: ModelConfig) -> int:
    """Remove the files of a model that came from the hub. Returns the bytes freed. Raises RemovalRefused."""
    name = model.display_name
    if ModelConfig.objects.filter(pk=model.pk, is_active=True).exists():
        raise RemovalRefused(f"{name} is active and cannot be removed. Switch to another model first.")
    if model.local_path:
        raise RemovalRefused(f"{name} is a folder of its own, which the studio does not remove.")
    switch = open_switch()
    if switch is not None and switch.model_id == model.pk:
        raise RemovalRefused(f"A switch to {name} is under way. Cancel it first.")
    if Job.objects.unfinished().filter(model=model).exists():
        raise RemovalRefused(f"Jobs for {name} are in the queue. Wait for them or cancel them first.")
    host = running_host()
    if host is not None and any(runner["model_id"] == model.pk for runner in host.runners):
        raise RemovalRefused(f"{name} is loaded. Free its memory first.")
    if installed_folder(model) is None and not downloads.installed_bytes(model.hf_model_id):
        raise RemovalRefused(f"{name} is not installed.")
    freed = downloads.remove_installed(model.hf_model_id)
    tell_deed("model.removed", model)
    return freed

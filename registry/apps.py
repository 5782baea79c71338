"""Django app of the models that can be played. It keeps the table in step with the catalogue after each migrate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.apps import apps as installed_apps
from django.conf import settings
from django.db.models.signals import post_migrate

if TYPE_CHECKING:
    from gated_configs.services.questions import Machine


def _sync_after_migrate(sender: AppConfig, *, using: str, apps: Any = installed_apps, **_: Any) -> None:
    # `flush` sends the signal too, without `apps`: the table is then the one of today.
    from registry.services import sync_catalog

    try:
        table = apps.get_model("registry", "ModelConfig")
    except LookupError:  # migrated back to before the table was there
        return
    sync_catalog(using=using, table=table)


def _this_machine() -> Machine | None:
    from gated_configs.services.questions import Machine
    from registry.hardware import read_hardware

    hardware = read_hardware()
    return Machine(hardware.device_name, hardware.total_bytes, hardware.device)


def demo_config() -> dict[str, Any] | None:
    """The config of the demo model that ships with the studio; None where its folder was taken away."""
    from registry.catalog import DEMO_FOLDER

    try:
        config: dict[str, Any] = json.loads(
            (Path(settings.BASE_DIR) / DEMO_FOLDER / "config.json").read_bytes()
        )
    except (OSError, ValueError):
        return None
    return config


class RegistryConfig(AppConfig):
    """Connects the catalogue to `migrate`, and tells the memory pages of this machine and the shipped model."""

    name = "registry"

    def ready(self) -> None:
        """Listen for migrations; answer what lower apps ask for."""
        from gated_configs.services.builtin import register_builtin
        from gated_configs.services.questions import set_machine_reader
        from registry.catalog import DEMO_HF_ID

        post_migrate.connect(_sync_after_migrate, sender=self)
        register_builtin(DEMO_HF_ID, demo_config)
        set_machine_reader(_this_machine)

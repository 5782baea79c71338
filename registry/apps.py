"""Django app of the models that can be played. It keeps the table in step with the catalogue after each migrate."""

from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed_apps
from django.db.models.signals import post_migrate


def _sync_after_migrate(sender: AppConfig, *, using: str, apps: Any = installed_apps, **_: Any) -> None:
    # `flush` sends the signal too, without `apps`: the table is then the one of today.
    from registry.services import sync_catalog

    try:
        table = apps.get_model("registry", "ModelConfig")
    except LookupError:  # migrated back to before the table was there
        return
    sync_catalog(using=using, table=table)


class RegistryConfig(AppConfig):
    """Connects the catalogue to `migrate`, so that a newer release's facts reach an older database."""

    name = "registry"

    def ready(self) -> None:
        """Listen for migrations."""
        post_migrate.connect(_sync_after_migrate, sender=self)

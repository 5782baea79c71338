"""Django app of LoRA adapters. It may import the registry, never generation."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_save


def _link_new_model(*, instance: Any, created: bool, raw: bool = False, **_: Any) -> None:
    # Adapters may arrive before the model that they name as their base.
    from adapters.services import link_bases

    if created and not raw:
        link_bases(instance)


class AdaptersConfig(AppConfig):
    """Tells adapters when the model they were made for is added."""

    name = "adapters"

    def ready(self) -> None:
        """Listen for new models. Migrations save rows of their own class, which this does not hear."""
        from registry.models import ModelConfig

        post_save.connect(_link_new_model, sender=ModelConfig)

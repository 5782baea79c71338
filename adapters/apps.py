"""Django app of LoRA adapters. It may import the registry, never generation."""

from django.apps import AppConfig


class AdaptersConfig(AppConfig):
    """The room that adapters will live in."""

    name = "adapters"

"""Django app of model configs: where a model's config.json comes from and what memory it needs."""

from django.apps import AppConfig


class GatedConfigsConfig(AppConfig):
    """The lowest room: it imports none of the other apps."""

    name = "gated_configs"
    verbose_name = "Model configs"

"""What the hub answered when it was asked for a config: kept with its commit until it expires, and as a fallback."""

from __future__ import annotations

import json
from typing import Any, Final

from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone

from gated_configs.models.saved_config import MAX_ID_CHARACTERS

MAX_ENDPOINT_CHARACTERS: Final = 500


class HubConfig(models.Model):
    """The config.json of one model on one hub."""

    endpoint = models.CharField("hub", max_length=MAX_ENDPOINT_CHARACTERS)
    model_id = models.CharField("model", max_length=MAX_ID_CHARACTERS)
    commit = models.CharField(max_length=64, blank=True)
    content = models.TextField()
    sha256 = models.CharField("SHA-256", max_length=64)
    fetched_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()

    class Meta:
        verbose_name = "config from the hub"
        verbose_name_plural = "configs from the hub"
        ordering = [Lower("model_id"), "endpoint"]
        indexes = [models.Index(fields=["fetched_at"], name="hub_config_age")]
        constraints = [
            models.UniqueConstraint("endpoint", Lower("model_id"), name="one_config_of_a_model_and_hub"),
        ]

    def __str__(self) -> str:
        return self.model_id

    def as_config(self) -> dict[str, Any]:
        """The config, parsed."""
        config: dict[str, Any] = json.loads(self.content)
        return config

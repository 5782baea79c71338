"""A comparison by ear: one prompt and seed with the base alone and with an adapter at two strengths.

Its jobs and takes are ordinary ones; this row only holds them together.
"""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from adapters.models import Adapter
from registry.models import ModelConfig

#: Strengths that are compared, the base first.
TRIAL_STRENGTHS: Final = (0.0, 0.5, 1.0)


class AdapterTrialQuerySet(models.QuerySet["AdapterTrial"]):
    """Trials as people look for them."""

    def for_user(self, user: Any) -> AdapterTrialQuerySet:
        """Trials that this person may see: their own."""
        return self.filter(owner=user)


class AdapterTrial(models.Model):
    """Three jobs that differ in one adapter's strength only. They know their trial; see `Job.trial`."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="trials")
    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="trials")
    model = models.ForeignKey(ModelConfig, on_delete=models.PROTECT, related_name="trials")
    prompt = models.TextField()
    seed = models.PositiveBigIntegerField()
    duration_seconds = models.FloatField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = AdapterTrialQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(duration_seconds__gt=0), name="trial_duration_positive"),
        ]

    def __str__(self) -> str:
        return f"trial {self.pk} of {self.adapter}"

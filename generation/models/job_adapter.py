"""One adapter as a job uses it: a snapshot, so that the job says what it was made with when the adapter is gone.

Order counts: adapters are attached by `position`.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q

from adapters.models import MAX_STRENGTH, Adapter
from generation.models.job import Job
from registry.models import whole_if_equal


class JobAdapter(models.Model):
    """What was attached, and how strongly. `adapter` is empty once that was deleted; its name and hashes stay."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="adapters")
    adapter = models.ForeignKey(Adapter, null=True, on_delete=models.SET_NULL, related_name="job_uses")
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=120)
    version = models.CharField(max_length=40)
    sha256 = models.CharField(max_length=64)
    weights_sha256 = models.CharField(max_length=64)
    strength = models.FloatField()

    class Meta:
        ordering = ["job_id", "position"]
        constraints = [
            models.UniqueConstraint(fields=["job", "position"], name="one_adapter_at_a_position"),
            models.UniqueConstraint(fields=["job", "adapter"], name="an_adapter_once_a_job"),
            models.CheckConstraint(
                condition=Q(strength__gte=0.0) & Q(strength__lte=MAX_STRENGTH),
                name="job_adapter_strength_in_range",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.label} {whole_if_equal(self.strength)}"

    @property
    def label(self) -> str:
        """Name and version as people know them: "My Jazz Adapter v1.0"."""
        return adapter_label(self.name, self.version)

    def as_recipe(self) -> dict[str, Any]:
        """Its part of a take's recipe."""
        return {
            "id": self.adapter_id,
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "strength": self.strength,
        }


def adapter_label(name: str, version: str) -> str:
    """Name and version of an adapter as its own row writes them, also when that row is gone."""
    return str(Adapter(name=name, version=version))

"""One proof that an adapter works with a model: what the engine measured when it attached it.

Knows nothing of how that is measured.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from adapters.models.adapter import Adapter
from registry.models import ModelConfig


class ProofStatus(models.TextChoices):
    """Where a proof stands."""

    WAITING = "waiting", "Waiting"
    PASSED = "passed", "Passed"
    FAILED = "failed", "Failed"


class AdapterProof(models.Model):
    """What happened when an adapter was attached to one revision of a model. Logit changes are means of absolute values."""

    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="proofs")
    model = models.ForeignKey(ModelConfig, on_delete=models.CASCADE, related_name="adapter_proofs")
    revision = models.CharField(max_length=64, blank=True)
    status = models.CharField(max_length=10, choices=ProofStatus.choices, default=ProofStatus.WAITING)

    tensors_expected = models.PositiveIntegerField(null=True, blank=True)
    tensors_matched = models.PositiveIntegerField(null=True, blank=True)
    logit_change = models.FloatField(null=True, blank=True, help_text="At strength 1, against the base.")
    logit_change_at_zero = models.FloatField(null=True, blank=True, help_text="At strength 0; must be 0.")
    logit_change_after = models.FloatField(null=True, blank=True, help_text="After detaching; must be 0.")
    is_restored = models.BooleanField(null=True, blank=True)
    device = models.CharField(max_length=40, blank=True)
    dtype = models.CharField(max_length=20, blank=True)
    seconds = models.FloatField(null=True, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta:
        verbose_name = "proof"
        ordering = ["-updated_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["adapter", "model", "revision"], name="one_proof_of_a_revision"),
            models.CheckConstraint(
                condition=~Q(status="passed")
                | (
                    # A check that compares with null holds: nothing may be left out.
                    Q(tensors_matched__isnull=False)
                    & Q(tensors_expected__isnull=False)
                    & Q(logit_change__isnull=False)
                    & Q(logit_change_at_zero__isnull=False)
                    & Q(logit_change_after__isnull=False)
                    & Q(is_restored__isnull=False)
                    & Q(tensors_matched__gt=0)
                    & Q(tensors_matched=models.F("tensors_expected"))
                    & Q(logit_change__gt=0.0)
                    & Q(logit_change_at_zero=0.0)
                    & Q(logit_change_after=0.0)
                    & Q(is_restored=True)
                ),
                name="passed_proof_proves_it",
            ),
            models.CheckConstraint(
                condition=(Q(status="failed") & ~Q(error_code="") & ~Q(error_message=""))
                | (~Q(status="failed") & Q(error_code="") & Q(error_message="")),
                name="failed_proof_says_why",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.adapter} on {self.model}: {self.get_status_display().lower()}"

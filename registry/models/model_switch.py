"""One change of the active model: how far it is, how it ended, and what that means.

A switch is a transaction: only in its last step does the active model change.
"""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from registry.models.model_config import ModelConfig


class SwitchStage(models.TextChoices):
    """Where a switch stands. The first five are its stages in order, the last three its ends."""

    QUEUED = "queued", "Queued"
    DOWNLOADING = "downloading", "Downloading"
    VERIFYING = "verifying", "Verifying"
    WAITING = "waiting for jobs", "Waiting for jobs"
    LOADING = "loading", "Loading"
    READY = "ready", "Ready"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


#: Stages in which a switch may still change.
OPEN_STAGES: Final = (
    SwitchStage.QUEUED,
    SwitchStage.DOWNLOADING,
    SwitchStage.VERIFYING,
    SwitchStage.WAITING,
    SwitchStage.LOADING,
)

#: Allowed changes. A stage may be left out, never gone back to; what loads can no longer be cancelled.
SWITCH_TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    **{
        stage: frozenset({*OPEN_STAGES[number + 1 :], SwitchStage.FAILED, SwitchStage.CANCELLED})
        for number, stage in enumerate(OPEN_STAGES)
    },
    SwitchStage.LOADING: frozenset({SwitchStage.READY, SwitchStage.FAILED}),
    SwitchStage.READY: frozenset(),
    SwitchStage.FAILED: frozenset(),
    SwitchStage.CANCELLED: frozenset(),
}


class ModelSwitch(models.Model):
    """A switch of the active model, or the reload of one (`is_reload`)."""

    model = models.ForeignKey(ModelConfig, on_delete=models.CASCADE, related_name="switches")
    previous = models.ForeignKey(
        ModelConfig, null=True, on_delete=models.SET_NULL, related_name="switches_away"
    )
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    is_reload = models.BooleanField(default=False)
    stage = models.CharField(max_length=20, choices=SwitchStage.choices, default=SwitchStage.QUEUED)
    # True while the switch is under way, null once it has ended: there can be one at a time.
    open_slot = models.BooleanField(null=True, default=True, unique=True, editable=False)

    fraction = models.FloatField(null=True, blank=True)
    bytes_done = models.PositiveBigIntegerField(null=True, blank=True)
    bytes_total = models.PositiveBigIntegerField(null=True, blank=True)
    # Seconds each finished stage took: what remaining times of later switches are told from.
    stage_seconds = models.JSONField(default=dict)
    stage_started_at = models.DateTimeField(default=timezone.now)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)

    message = models.TextField(blank=True, help_text="What happened, and what to do.")
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.TextField(blank=True)

    host = models.CharField(max_length=80, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "switch"
        verbose_name_plural = "switches"
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=(Q(stage__in=OPEN_STAGES) & Q(open_slot=True))
                | (~Q(stage__in=OPEN_STAGES) & Q(open_slot__isnull=True)),
                name="open_switch_holds_the_slot",
            ),
        ]

    def __str__(self) -> str:
        return f"switch {self.pk} to {self.model_id}: {self.stage}"

    @property
    def is_open(self) -> bool:
        """Whether it is under way."""
        return self.stage in OPEN_STAGES

    @property
    def can_be_cancelled(self) -> bool:
        """Up to loading: from there on it ends by itself, one way or the other."""
        return SwitchStage.CANCELLED in SWITCH_TRANSITIONS[self.stage]

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since it was asked for, up to its end."""
        return max(0.0, ((self.finished_at or timezone.now()) - self.created_at).total_seconds())

    def change_stage(self, new: SwitchStage, *, held_by: str | None = None, **fields: Any) -> bool:
        """Move on to `new` if the row still stands where we read it; False when somebody else was faster.

        Raises ValueError for a change that the table of transitions does not know.
        """
        old = self.stage
        if new not in SWITCH_TRANSITIONS[old]:
            raise ValueError(f"A switch that is {old} cannot become {new}.")
        now = timezone.now()
        seconds = {**self.stage_seconds, old: round((now - self.stage_started_at).total_seconds(), 3)}
        fields = {"fraction": None, "stage_seconds": seconds, "stage_started_at": now, **fields}
        if new not in OPEN_STAGES:
            fields |= {"open_slot": None, "finished_at": now, "lease_expires_at": None}
        row = ModelSwitch.objects.filter(pk=self.pk, stage=old)
        if held_by is not None:
            row = row.filter(host=held_by)
        if row.update(stage=new, **fields) != 1:
            return False
        for name, value in {"stage": new, **fields}.items():
            setattr(self, name, value)
        return True

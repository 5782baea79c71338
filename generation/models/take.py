"""One finished audio: its file, its recipe and its picture."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from generation.models.job import Job, JobStatus
from generation.models.job_adapter import adapter_label
from registry.models import ModelConfig, whole_if_equal

#: Width and height of the picture's coordinates.
WAVEFORM_WIDTH: Final = 400
WAVEFORM_HEIGHT: Final = 64


def _keeping_of_deleted() -> timedelta:
    return timedelta(hours=settings.STUDIO.keep_deleted_hours)


class TakeQuerySet(models.QuerySet["Take"]):
    """Takes as people look for them."""

    def for_user(self, user: Any) -> TakeQuerySet:
        """Takes that this person may see: their own."""
        return self.filter(owner=user)

    def kept(self) -> TakeQuerySet:
        """Takes that were not deleted."""
        return self.filter(deleted_at__isnull=True)

    def expired(self) -> TakeQuerySet:
        """Deleted takes that can no longer be brought back."""
        return self.filter(deleted_at__lt=timezone.now() - _keeping_of_deleted())

    def restorable(self) -> TakeQuerySet:
        """Deleted takes that can still be brought back, last deleted first."""
        return self.filter(deleted_at__gte=timezone.now() - _keeping_of_deleted()).order_by(
            "-deleted_at", "-id"
        )

    def removable(self) -> TakeQuerySet:
        """Takes that a rule may remove: no favourites, and none whose job may still need them."""
        return self.filter(is_favourite=False).exclude(
            job__in=Job.objects.filter(status__in=[JobStatus.QUEUED, JobStatus.RUNNING])
        )

    def made_with(self, adapter_id: int) -> TakeQuerySet:
        """Takes of jobs that used that adapter."""
        return self.filter(job__adapters__adapter=adapter_id)

    def matching(self, query: str) -> TakeQuerySet:
        """Takes whose prompt or title holds every word of the query, in any order and case."""
        found = self
        for word in query.split()[:20]:
            found = found.filter(Q(prompt__icontains=word) | Q(title__icontains=word))
        return found


class Take(models.Model):
    """One audio file under the takes folder. The row is written after the file, so it never points to nothing."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="takes")
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="takes")
    variation = models.PositiveSmallIntegerField(default=0)
    model = models.ForeignKey(ModelConfig, on_delete=models.PROTECT, related_name="takes")
    title = models.CharField(max_length=200, blank=True)
    prompt = models.TextField()
    seed = models.PositiveBigIntegerField()
    is_partial = models.BooleanField(default=False)
    is_favourite = models.BooleanField(default=False)

    # Everything needed to make the same take again; also written into the file's metadata.
    recipe = models.JSONField(default=dict)

    file_name = models.CharField(max_length=120, unique=True)
    file_bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)
    frames = models.PositiveIntegerField()
    duration_seconds = models.FloatField()
    sample_rate = models.PositiveIntegerField()
    channels = models.PositiveSmallIntegerField()
    # Loudest sample of each of up to 200 equal parts, 0 to 100.
    peaks = models.JSONField(default=list)
    # Root mean square against full scale, in decibels; null for silence and for takes of earlier releases.
    rms_dbfs = models.FloatField(null=True, blank=True)

    # How fast it was made, and where: the record that remaining times are told from.
    # Of the machine's work; what several takes had together counts in equal parts.
    render_seconds = models.FloatField(default=0)
    host = models.CharField(max_length=80, blank=True)

    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True)
    # Since when the clean-up has not found its file.
    file_missing_since = models.DateTimeField(null=True, blank=True, editable=False)

    objects = TakeQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["owner", "deleted_at", "-id"], name="take_library"),
            models.Index(fields=["deleted_at", "is_favourite", "created_at"], name="take_age"),
            models.Index(fields=["model", "host", "-id"], name="take_speed"),
        ]
        constraints = [
            # A retried job can never leave two takes of one variation.
            models.UniqueConstraint(fields=["job", "variation"], name="one_take_per_variation"),
        ]

    def __str__(self) -> str:
        return f"take {self.pk}: {self.display_title}"

    @property
    def removed_after(self) -> datetime | None:
        """Until when a deleted take can be brought back; None for one that is kept."""
        return None if self.deleted_at is None else self.deleted_at + _keeping_of_deleted()

    @property
    def restorable_seconds(self) -> float:
        """How long a deleted take can still be brought back, in seconds; 0 for one that is kept."""
        until = self.removed_after
        return 0.0 if until is None else max(0.0, (until - timezone.now()).total_seconds())

    @property
    def display_title(self) -> str:
        """The title somebody gave it, else its prompt."""
        return self.title or self.prompt

    @property
    def model_name(self) -> str:
        """The model as people know it."""
        return str(self.recipe.get("model_name") or self.model_id)

    @property
    def adapter_lines(self) -> list[str]:
        """Each adapter it was made with and how strongly: "Jazz v1.0 0.8"."""
        return [f"{label} {strength}" for label, strength in self._adapters()]

    def _adapters(self) -> list[tuple[str, str]]:
        return [
            (adapter_label(str(used["name"]), str(used["version"])), str(whole_if_equal(used["strength"])))
            for used in self.recipe.get("adapters", ())
        ]

    @property
    def licence(self) -> str:
        """Licence of the weights that made it."""
        return str(self.recipe.get("licence", ""))

    @property
    def audio_url(self) -> str:
        """Address of the audio; add `?format=` for another format."""
        return reverse("api:take_audio", args=[self.pk])

    @property
    def waveform_path(self) -> str:
        """The peaks as an SVG path in a box of 400 x 64, mirrored around its middle."""
        peaks: list[int] = self.peaks or [0]
        middle, half = WAVEFORM_HEIGHT / 2, WAVEFORM_HEIGHT / 2 - 1
        step = WAVEFORM_WIDTH / len(peaks)
        bar = max(step - 0.8, step * 0.6)
        parts = []
        for index, peak in enumerate(peaks):
            height = max(0.8, peak / 100 * half)
            x = index * step
            parts.append(f"M{x:.1f} {middle - height:.1f}h{bar:.1f}v{2 * height:.1f}h-{bar:.1f}z")
        return "".join(parts)

    @property
    def recipe_line(self) -> str:
        """All parameters as the command that makes the take again, to be pasted."""
        recipe = self.recipe
        continued = recipe.get("continued")
        source = (
            f" {_source_option(continued)} --continue-from {whole_if_equal(continued['from_seconds'])}"
            if continued
            else " --extend" * ("window_seconds" in recipe)
        )
        if "melody" in recipe:
            source += f" --melody-clip {recipe['melody']['clip']}"
        return (
            f"generate {_quoted(str(recipe.get('prompt', self.prompt)))} --model {self.model_id}"
            f" --duration {recipe.get('duration_seconds', self.duration_seconds):g} --seed {self.seed}"
            f" --guidance-scale {recipe.get('guidance_scale', 3):g} --temperature {recipe.get('temperature', 1):g}"
            f" --top-k {recipe.get('top_k', 250)} --top-p {recipe.get('top_p', 0):g}{source}"
        ) + "".join(f" --adapter {_quoted(f'{label}:{strength}')}" for label, strength in self._adapters())


def _source_option(continued: dict[str, Any]) -> str:
    return (
        f"--continue-clip {continued['clip']}" if "clip" in continued else f"--continue {continued['take']}"
    )


def _quoted(text: str) -> str:
    """The text as one word of a shell, in double quotes."""
    quoted = " ".join(text.split())
    for special in '\\"$`':
        quoted = quoted.replace(special, "\\" + special)
    return f'"{quoted}"'

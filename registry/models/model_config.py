"""Rows of the registry: each model that can be played, what it can do, and which one is active."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from gated_configs.wording import THIN_SPACE, channel_word, kilohertz, plain_number, spoken_seconds

#: Part of the longest duration from which the studio warns that the limit is near.
NEAR_LIMIT = 0.8
#: Windows of less than so many seconds are none: there is no music in what they share.
SHORTEST_WINDOW = 1


class ModelConfigQuerySet(models.QuerySet["ModelConfig"]):
    """Questions people ask of the table."""

    def playable(self) -> ModelConfigQuerySet:
        """Models that this release can play."""
        return self.filter(is_playable=True)


class ModelConfig(models.Model):
    """One model and its limits. Seeded from `registry.catalog`, curated in the admin."""

    id = models.CharField(
        "id",
        primary_key=True,
        max_length=80,
        validators=[
            RegexValidator(
                r"\A[a-z0-9][a-z0-9._-]*\Z",
                "Use lower-case letters, digits, dots, dashes and underscores.",
            )
        ],
        help_text="Short name used in addresses and commands, such as musicgen-small.",
    )
    display_name = models.CharField(max_length=80)
    hf_model_id = models.CharField(
        "Hugging Face id",
        max_length=200,
        unique=True,
        validators=[
            RegexValidator(
                r"\A[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*\Z",
                "Write the id as owner/name, such as facebook/musicgen-small.",
            )
        ],
    )
    revision = models.CharField(
        max_length=64,
        blank=True,
        validators=[RegexValidator(r"\A[A-Za-z0-9._-]+\Z", "Write a branch, a tag or a commit hash.")],
        help_text="Branch, tag or commit to load; empty for the newest.",
    )
    local_path = models.CharField(
        max_length=500,
        blank=True,
        help_text="Folder that holds the checkpoint, instead of the hub. Relative to manage.py, or absolute.",
    )
    description = models.CharField(max_length=300, blank=True)
    licence = models.CharField(max_length=80, blank=True, help_text="Licence of the weights.")
    licence_url = models.URLField(blank=True)
    max_duration_seconds = models.FloatField(
        "longest duration (s)", validators=[MinValueValidator(1), MaxValueValidator(3600)]
    )
    max_extended_seconds = models.FloatField(
        "longest duration in windows (s)",
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(3600)],
        help_text="Takes above the longest duration are made in overlapping windows of that length, up to this. "
        "Empty or 0: there are none.",
    )
    recommended_duration_seconds = models.FloatField(
        "recommended duration (s)", validators=[MinValueValidator(1), MaxValueValidator(3600)]
    )
    tokens_per_second = models.PositiveSmallIntegerField(
        "frames per second", default=50, validators=[MinValueValidator(1), MaxValueValidator(1000)]
    )
    vram_requirement_gb = models.FloatField(
        "memory (GB)", validators=[MinValueValidator(0.1), MaxValueValidator(10_000)]
    )
    sample_rate = models.PositiveIntegerField(
        "sample rate (Hz)", default=32000, validators=[MinValueValidator(8000), MaxValueValidator(192_000)]
    )
    channels = models.PositiveSmallIntegerField(
        default=1, validators=[MinValueValidator(1), MaxValueValidator(2)]
    )
    codebooks = models.PositiveSmallIntegerField(
        default=4, validators=[MinValueValidator(1), MaxValueValidator(64)]
    )
    parameters = models.PositiveBigIntegerField(null=True, blank=True)
    # How it is built, which decides the adapters that fit. Null until a checkpoint of it was read.
    family = models.CharField(max_length=40, null=True, blank=True, editable=False)  # noqa: DJ001 - null is "unknown"
    hidden_size = models.PositiveIntegerField(null=True, blank=True, editable=False)
    layers = models.PositiveIntegerField(null=True, blank=True, editable=False)
    ffn_dim = models.PositiveIntegerField(null=True, blank=True, editable=False)
    heads = models.PositiveIntegerField(null=True, blank=True, editable=False)
    text_width = models.PositiveIntegerField(null=True, blank=True, editable=False)
    is_playable = models.BooleanField("can be played", default=True)
    unplayable_reason = models.CharField(
        max_length=300, blank=True, help_text="One sentence that people see when it cannot be played."
    )
    is_active = models.BooleanField("active", default=False, editable=False)
    position = models.PositiveSmallIntegerField(default=1000, help_text="Order in lists, smallest first.")
    # Largest memory seen on this machine, in bytes by device: what counts once it is known.
    measured_bytes = models.JSONField(default=dict, blank=True, editable=False)
    # What the memory calculator knows of it, or null: {"source", "config_sha256", "described"}. See registry.described.
    architecture = models.JSONField(null=True, blank=True, editable=False)
    # What the catalogue said when it was last applied: a field that still holds it was not edited by an admin.
    catalog_values = models.JSONField(default=dict, blank=True, editable=False)

    objects = ModelConfigQuerySet.as_manager()

    class Meta:
        verbose_name = "model"
        ordering = ["position", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_active"], condition=Q(is_active=True), name="one_active_model"
            ),
            models.CheckConstraint(
                condition=Q(is_active=False) | Q(is_playable=True), name="active_model_is_playable"
            ),
            models.CheckConstraint(
                condition=Q(recommended_duration_seconds__lte=F("max_duration_seconds"))
                & Q(recommended_duration_seconds__gt=0),
                name="recommended_duration_within_limit",
            ),
        ]

    def __str__(self) -> str:
        return self.display_name

    def clean(self) -> None:
        """Rules that span fields. Raises ValidationError with a sentence at the field it concerns."""
        errors: dict[str, str] = {}
        # A field that was refused is None here, whatever its annotation says.
        longest: Any = self.max_duration_seconds
        recommended: Any = self.recommended_duration_seconds
        if None not in (longest, recommended) and recommended > longest:
            errors["recommended_duration_seconds"] = (
                f"The recommended duration cannot be above the longest duration of {plain_number(longest)} s."
            )
        if not self.is_playable and self.is_active:
            errors["is_playable"] = "The active model must be playable. Make another model active first."
        if not self.is_playable and not self.unplayable_reason:
            errors["unplayable_reason"] = "Say in one sentence why it cannot be played."
        if errors:
            raise ValidationError(errors)

    # What jobs may use: the row, with the operator's environment on top. Never stored back.

    @property
    def duration_limit_seconds(self) -> float:
        """Longest take in one piece: `MUSICGEN_MAX_DURATION_SECONDS` where it names this model, else the row."""
        named = self._named_in(settings.STUDIO.max_duration_seconds)
        return float(self.max_duration_seconds if named is None else named)

    @property
    def extended_limit_seconds(self) -> float | None:
        """Longest take in overlapping windows of `duration_limit_seconds`; None where there are no longer ones.

        `MUSICGEN_MAX_EXTENDED_SECONDS` where it names this model, else the row; but where the operator set a limit
        for this model and said nothing of windows, the limit stays one.
        """
        longest = self._named_in(settings.STUDIO.max_extended_seconds)
        if longest is None and self._named_in(settings.STUDIO.max_duration_seconds) is None:
            longest = self.max_extended_seconds
        is_longer = longest is not None and longest > self.duration_limit_seconds >= SHORTEST_WINDOW
        return longest if is_longer else None

    @property
    def longest_take_seconds(self) -> float:
        """Longest take in seconds, in one piece or in windows."""
        return self.extended_limit_seconds or self.duration_limit_seconds

    @property
    def follows_melody(self) -> bool:
        """Whether a take of it can follow the melody of a clip."""
        return self.family == "musicgen_melody"

    def _named_in(self, limits: dict[str, float]) -> float | None:
        return limits.get(self.id, limits.get(self.hf_model_id))

    @property
    def default_duration_seconds(self) -> float:
        """Where a new form starts: the recommendation, never above the limit in force."""
        return min(self.recommended_duration_seconds, self.duration_limit_seconds)

    @property
    def warn_from_seconds(self) -> float:
        """Durations from here on are close to the limit."""
        return round(self.duration_limit_seconds * NEAR_LIMIT, 1)

    @property
    def checkpoint(self) -> str:
        """What a runner loads: an absolute folder, or the id on the hub."""
        if not self.local_path:
            return self.hf_model_id
        path = Path(self.local_path).expanduser()
        return str(path if path.is_absolute() else Path(settings.BASE_DIR) / path)

    @property
    def hint(self) -> str:
        """One line of what it can do: "MusicGen Small · up to 30 s · 32 kHz mono · about 4 GB"."""
        return " · ".join(
            [
                self.display_name,
                f"up to {spoken_seconds(self.duration_limit_seconds)}",
                f"{kilohertz(self.sample_rate)} {channel_word(self.channels)}",
                f"about {plain_number(self.vram_requirement_gb)}{THIN_SPACE}GB",
            ]
        )

    @property
    def windows_line(self) -> str:
        """What becomes of longer takes, in a sentence; nothing where there are none."""
        if self.extended_limit_seconds is None:
            return ""
        return (
            f"Longer than {spoken_seconds(self.duration_limit_seconds)}, in overlapping windows:"
            f" up to {spoken_seconds(self.extended_limit_seconds)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The facts that API and commands print, with the limits in force."""
        extended = self.extended_limit_seconds
        return {
            "id": self.id,
            "display_name": self.display_name,
            "hf_model_id": self.hf_model_id,
            "max_duration_seconds": whole_if_equal(self.duration_limit_seconds),
            "max_extended_seconds": None if extended is None else whole_if_equal(extended),
            "recommended_duration_seconds": whole_if_equal(self.default_duration_seconds),
            "tokens_per_second": self.tokens_per_second,
            "vram_requirement_gb": whole_if_equal(self.vram_requirement_gb),
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "codebooks": self.codebooks,
            "follows_melody": self.follows_melody,
            "parameters": self.parameters,
            "description": self.description,
            "licence": self.licence,
            "licence_url": self.licence_url,
            "is_active": self.is_active,
            "is_playable": self.is_playable,
            "unplayable_reason": self.unplayable_reason,
        }


def whole_if_equal(value: float) -> int | float:
    """`30.0 -> 30`: limits are mostly whole, and scripts compare them with whole numbers."""
    return int(value) if float(value).is_integer() else value

"""One imported adapter: what people call it, what its file tells, and which models it works with.

Knows nothing of jobs. The verdict is decided in `adapters.format.compatibility`; the querysets here agree with it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Length, Lower
from django.db.models.lookups import Exact
from django.utils import timezone

from adapters.format.compatibility import (
    EQUAL_FIELDS,
    LEAST_FIELDS,
    LIKELY_FIELDS,
    AdapterFacts,
    Architecture,
    Judgement,
    contradiction,
    judge,
)
from adapters.format.fingerprint import Fingerprint
from registry.models import ModelConfig
from registry.services import architecture_of

#: The largest strength that can be asked for; 1 is what the adapter was trained for.
MAX_STRENGTH: Final = 2.0

_SHA256_CHARACTERS: Final = 64


class AdapterSource(models.TextChoices):
    """Where an adapter was imported from."""

    FOLDER = "folder", "Folder"
    ZIP = "zip", "Zip file"
    HUB = "hub", "Hugging Face"
    SHIPPED = "shipped", "Came with the studio"


class AdapterQuerySet(models.QuerySet["Adapter"]):
    """Questions people ask of the table."""

    def compatible_with(self, model: ModelConfig) -> AdapterQuerySet:
        """Sound adapters that work with that model as far as files tell: what `Adapter.judge` calls usable."""
        return self.filter(_fits(model), broken_code="")

    def incompatible_with(self, model: ModelConfig) -> AdapterQuerySet:
        """All the others, broken ones included."""
        compatible = self.model._default_manager.using(self.db).all().compatible_with(model)
        return self.exclude(pk__in=compatible.values("pk"))

    def search(self, text: str) -> AdapterQuerySet:
        """Adapters in whose name, version, description, trigger words or base model every word occurs."""
        found = self
        for word in text.replace("\0", " ").split():
            found = found.filter(
                Q(name__icontains=word)
                | Q(version__icontains=word)
                | Q(description__icontains=word)
                | Q(trigger_words__icontains=word)
                | Q(base_model_name__icontains=word)
                | Q(base_model__display_name__icontains=word)
            )
        return found

    def sound(self) -> AdapterQuerySet:
        """Adapters that are not broken."""
        return self.filter(broken_code="")


def _base_holds() -> Q:
    """The named base is known to the registry and the file does not contradict it."""
    holds = Q(base_model__isnull=False)
    for field in EQUAL_FIELDS:
        holds &= (
            Q(**{f"{field}__isnull": True})
            | Q(**{f"base_model__{field}__isnull": True})
            | Q(**{field: F(f"base_model__{field}")})
        )
    for field, of_model in LEAST_FIELDS.items():
        holds &= (
            Q(**{f"{field}__isnull": True})
            | Q(**{f"base_model__{of_model}__isnull": True})
            | Q(**{f"{field}__lte": F(f"base_model__{of_model}")})
        )
    return holds


def _fits(model: ModelConfig) -> Q:
    """What `compatibility.judge` decides, in SQL: the file's facts, then those of a base that holds."""
    there = architecture_of(model)
    by_file, same_as_base, likely = Q(), Q(), Q()
    for field in EQUAL_FIELDS:
        value = getattr(there, field)
        if value is None:
            continue
        by_file &= Q(**{f"{field}__isnull": True}) | Q(**{field: value})
        same_as_base &= (
            Q(**{f"{field}__isnull": False})
            | Q(**{f"base_model__{field}__isnull": True})
            | Q(**{f"base_model__{field}": value})
        )
    for field, of_model in LEAST_FIELDS.items():
        value = getattr(there, of_model)
        if value is not None:
            by_file &= Q(**{f"{field}__isnull": True}) | Q(**{f"{field}__lte": value})
    for field, of_model in LIKELY_FIELDS.items():
        value = getattr(there, of_model)
        if value is not None:
            likely &= Q(**{f"{field}__isnull": True}) | Q(**{field: value})
    # `~` on a condition with nulls is not its opposite in SQL: a base that does not hold contradicts in some field.
    no_base = Q(base_model__isnull=True) | _base_contradicted()
    return by_file & ((no_base & likely) | (_base_holds() & same_as_base))


def _base_contradicted() -> Q:
    """The named base is known to the registry and the file contradicts it: it is not believed."""
    contradicted = Q()
    for field in EQUAL_FIELDS:
        contradicted |= Q(
            Q(**{f"{field}__isnull": False})
            & Q(**{f"base_model__{field}__isnull": False})
            & (
                Q(**{f"{field}__lt": F(f"base_model__{field}")})
                | Q(**{f"{field}__gt": F(f"base_model__{field}")})
            )
        )
    for field, of_model in LEAST_FIELDS.items():
        contradicted |= Q(**{f"{field}__gt": F(f"base_model__{of_model}")})
    return contradicted


class Adapter(models.Model):
    """An adapter as it was imported. Its weights lie in the home under their hash; the row holds all that lists need."""

    name = models.CharField(max_length=120)
    version = models.CharField(max_length=40, default="1.0")
    description = models.TextField(blank=True, max_length=4000)
    trigger_words = models.CharField(
        max_length=500,
        blank=True,
        help_text="Words that the adapter was trained to answer to, for the prompt.",
    )
    default_strength = models.FloatField(
        default=1.0, validators=[MinValueValidator(0.0), MaxValueValidator(MAX_STRENGTH)]
    )

    # Identity: of the weights' hash and the canonical config together. People may keep one content under two names,
    # and two configs may share one file of weights.
    sha256 = models.CharField(max_length=64, db_index=True, editable=False)
    weights_sha256 = models.CharField(max_length=64, db_index=True, editable=False)
    file_bytes = models.PositiveBigIntegerField(editable=False)
    config = models.JSONField(editable=False)
    tensor_count = models.PositiveIntegerField(editable=False)
    rank = models.PositiveIntegerField(editable=False)
    alpha = models.FloatField(editable=False)
    variants = models.JSONField(default=list, blank=True, editable=False)
    notes = models.JSONField(default=list, blank=True, editable=False)
    source = models.CharField(max_length=10, choices=AdapterSource.choices, editable=False)
    source_name = models.CharField(max_length=500, blank=True, editable=False)
    imported_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, editable=False
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    base_model_name = models.CharField(
        max_length=500, blank=True, editable=False, help_text="The base model as the adapter's files name it."
    )
    base_model = models.ForeignKey(
        ModelConfig,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="adapters",
        help_text="The model it was made for; empty when that is not known.",
    )

    # The fingerprint: what the file itself tells. Null fits every model.
    family = models.CharField(max_length=40, null=True, blank=True, editable=False)  # noqa: DJ001 - null is "any"
    hidden_size = models.PositiveIntegerField(null=True, blank=True, editable=False)
    layers = models.PositiveIntegerField(null=True, blank=True, editable=False)
    min_layers = models.PositiveIntegerField(null=True, blank=True, editable=False)
    ffn_dim = models.PositiveIntegerField(null=True, blank=True, editable=False)
    heads = models.PositiveIntegerField(null=True, blank=True, editable=False)
    codebooks = models.PositiveIntegerField(null=True, blank=True, editable=False)
    min_codebooks = models.PositiveIntegerField(null=True, blank=True, editable=False)
    listed_codebooks = models.PositiveIntegerField(null=True, blank=True, editable=False)
    channels = models.PositiveIntegerField(null=True, blank=True, editable=False)
    text_width = models.PositiveIntegerField(null=True, blank=True, editable=False)

    # Both empty when sound. A row becomes broken only after its import: its file was changed, or a proof failed.
    broken_code = models.CharField(max_length=40, blank=True, editable=False)
    broken_reason = models.CharField(max_length=500, blank=True, editable=False)

    objects = AdapterQuerySet.as_manager()

    class Meta:
        ordering = [Lower("name"), Lower("version"), "id"]
        indexes = [
            models.Index(
                fields=["broken_code", "family", "hidden_size", "layers", "codebooks"],
                name="adapter_fingerprint",
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                Lower("name"),
                Lower("version"),
                name="one_adapter_of_a_name_and_version",
                violation_error_message="There is an adapter of that name and version. Choose another version.",
            ),
            models.CheckConstraint(
                condition=Q(default_strength__gte=0.0) & Q(default_strength__lte=MAX_STRENGTH),
                name="adapter_strength_in_range",
                violation_error_message="The strength goes from 0 to 2.",
            ),
            models.CheckConstraint(
                condition=~Q(name="") & ~Q(version=""), name="adapter_has_a_name_and_version"
            ),
            models.CheckConstraint(
                condition=Exact(Length("sha256"), _SHA256_CHARACTERS)
                & Exact(Length("weights_sha256"), _SHA256_CHARACTERS),
                name="adapter_hashes_are_whole",
            ),
            models.CheckConstraint(
                condition=(Q(broken_code="") & Q(broken_reason=""))
                | (~Q(broken_code="") & ~Q(broken_reason="")),
                name="broken_adapter_says_why",
            ),
            models.CheckConstraint(condition=Q(rank__gte=1), name="adapter_has_a_rank"),
            models.CheckConstraint(
                condition=(
                    Q(layers__isnull=True) | Q(min_layers__isnull=True) | Q(min_layers__lte=F("layers"))
                )
                & (
                    Q(codebooks__isnull=True)
                    | Q(min_codebooks__isnull=True)
                    | Q(min_codebooks__lte=F("codebooks"))
                ),
                name="adapter_reaches_no_further_than_its_model",
            ),
            models.CheckConstraint(
                condition=Q(family__isnull=True) | Q(family__in=["musicgen", "musicgen_melody"]),
                name="adapter_is_of_a_known_family",
            ),
        ]

    def __str__(self) -> str:
        version = self.version if self.version[:1] in ("v", "V") else f"v{self.version}"
        return f"{self.name} {version}"

    @property
    def is_broken(self) -> bool:
        """Whether it cannot be used with any model; `broken_reason` says why."""
        return bool(self.broken_code)

    @property
    def fingerprint(self) -> Fingerprint:
        """What its file tells of the model it was made for."""
        return Fingerprint(**{field: getattr(self, field) for field in Fingerprint.__dataclass_fields__})

    @property
    def base_is_believed(self) -> bool:
        """Whether the base model is known and the file's shapes do not contradict it."""
        return self.base_model is not None and not contradiction(
            self.fingerprint, describe_architecture(self.base_model)
        )

    def judge(self, model: ModelConfig) -> Judgement:
        """Whether it works with that model, as far as files tell, and why."""
        facts = AdapterFacts(
            fingerprint=self.fingerprint,
            base=describe_architecture(self.base_model) if self.base_model is not None else None,
            broken_reason=self.broken_reason,
        )
        return judge(facts, describe_architecture(model))

    def clean(self) -> None:
        """Rules that span fields. Raises ValidationError with a sentence at the field it concerns."""
        if self.base_model is None:
            return
        architecture = describe_architecture(self.base_model)
        if contradiction(self.fingerprint, architecture):
            alone = AdapterFacts(fingerprint=self.fingerprint)
            reason = judge(alone, architecture).reason
            raise ValidationError(
                {
                    "base_model": f"{self.base_model} cannot be its base model: {reason[0].lower()}{reason[1:]}."
                }
            )


def weights_name(weights_sha256: str) -> str:
    """The name of the file of weights of that hash."""
    return f"{weights_sha256}.safetensors"


def describe_architecture(model: ModelConfig) -> Architecture:
    """How a model of the registry is built, in the words of `adapters.format`."""
    facts: dict[str, Any] = asdict(architecture_of(model))
    return Architecture(**facts)

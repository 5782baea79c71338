"""A model more, from its config alone: limits, sound, widths and memory are filled in from what the config says.

Only MusicGen makes music here; every other config is refused with a sentence.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from gated_configs.memory import Architecture, Music, Request, check_config, config_hash, describe, estimate
from gated_configs.services.lookup import find_config
from gated_configs.services.model_ids import hub_page, normalised_id
from registry.described import FROM_CONFIG, record_of
from registry.hardware import GB
from registry.models import ModelConfig
from registry.services.architecture import facts_of_config

#: Where a new form starts for a model that nobody has tried here, as the smallest published ones do.
_RECOMMENDED_SECONDS: Final = 10.0
_CODEC_REASON: Final = "Its codec is not a mono EnCodec, which this release cannot play."
_MOST_ID: Final = 80


class NotAddable(ValueError):
    """The config cannot become a model here. `str()` says why, and what can."""


@dataclass(frozen=True)
class Addition:
    """The model of a config; `is_new` unless it was listed before."""

    model: ModelConfig
    is_new: bool

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        name = self.model.display_name
        if not self.is_new:
            return f"{name} was among the models already. Nothing was changed."
        if not self.model.is_playable:
            return f"Added {name}. It cannot be played: {self.model.unplayable_reason}"
        return f"Added {name}. A switch to it fetches its files."


def add_model(*, user: User | AnonymousUser, model_id: str) -> Addition:
    """Make a registry model of the config that this person gets for that id or address.

    Raises InvalidModelId, LookupFailed, NotAddable, or the calculator's refusals; each text is for people.
    """
    normal = normalised_id(model_id)
    listed = ModelConfig.objects.filter(hf_model_id__iexact=normal).first()
    if listed is not None:
        return Addition(listed, is_new=False)
    return add_config(model_id=normal, config=find_config(user=user, model_id=normal).config)


def add_config(*, model_id: str, config: dict[str, Any]) -> Addition:
    """Make a registry model of one config. Raises NotAddable, or the calculator's refusals."""
    if "/" not in model_id:
        raise NotAddable(
            f"A model needs the name of its owner to be found on the hub. Save the config as owner/{model_id}."
        )
    family = config.get("model_type")
    if family not in ("musicgen", "musicgen_melody"):
        kind = (
            f"of the family {family[:40]}" if isinstance(family, str) and family else "of an unknown family"
        )
        raise NotAddable(f"{model_id} is {kind}. Only MusicGen models can be added to the models.")
    architecture = describe(config)
    if architecture.music is None:
        raise NotAddable(f"The config of {model_id} does not describe a whole MusicGen model.")
    facts = _facts(model_id, config, architecture, architecture.music)
    listed = ModelConfig.objects.filter(hf_model_id__iexact=model_id).first()
    while listed is None:
        model = ModelConfig(id=_free_id(model_id), **facts)
        try:
            model.full_clean()
            with transaction.atomic():
                model.save(force_insert=True)
            return Addition(model, is_new=True)
        except ValidationError as problem:
            listed = ModelConfig.objects.filter(hf_model_id__iexact=model_id).first()
            if listed is None and not ModelConfig.objects.filter(pk=model.pk).exists():
                raise NotAddable(f"{model_id} cannot be listed: {' '.join(problem.messages)}") from problem
        except IntegrityError:
            # Somebody added it, or another under its short name, at the same moment.
            listed = ModelConfig.objects.filter(hf_model_id__iexact=model_id).first()
            if listed is None and not ModelConfig.objects.filter(pk=model.pk).exists():
                raise
    return Addition(listed, is_new=False)


def _facts(model_id: str, config: dict[str, Any], architecture: Architecture, music: Music) -> dict[str, Any]:
    """The row's fields."""
    longest = _longest_seconds(architecture, music)
    reason = _unplayable_reason(config)
    on_a_card = Request(weights="bf16", duration_seconds=longest, device="cuda")
    return {
        **facts_of_config(config),
        "display_name": _display_name(model_id),
        "hf_model_id": model_id,
        "description": "Added from its config",
        "licence": "",
        # Where people look for the licence, which no config tells.
        "licence_url": _page(model_id),
        "max_duration_seconds": longest,
        "recommended_duration_seconds": min(longest, _RECOMMENDED_SECONDS),
        "tokens_per_second": round(music.frame_rate),
        "vram_requirement_gb": math.ceil(10 * estimate(architecture, on_a_card).total_bytes / GB) / 10,
        "sample_rate": music.sample_rate,
        "channels": music.channels,
        "codebooks": music.codebooks,
        "parameters": architecture.parameters.total,
        "architecture": record_of(
            architecture, source=FROM_CONFIG, config_sha256=config_hash(check_config(config).config)
        ),
        "is_playable": not reason,
        "unplayable_reason": reason,
    }


def _page(model_id: str) -> str:
    """The model's page, or nothing where the hub's address is not one that a row can keep."""
    page = hub_page(model_id)
    try:
        ModelConfig._meta.get_field("licence_url").clean(page, None)
    except ValidationError:
        return ""
    return page


def _longest_seconds(architecture: Architecture, music: Music) -> float:
    """What it was trained on, or the seconds that its positions reach where they are fewer; at least one."""
    positions = architecture.shapes.max_context
    if not positions:
        return float(max(1, math.floor(music.trained_seconds)))
    # A melody model's pitches take positions, too.
    steps = positions - music.conditioning_frames - music.codebooks // music.channels
    return float(max(1, math.floor(min(music.trained_seconds, steps / music.frame_rate))))


def _unplayable_reason(config: dict[str, Any]) -> str:
    """Why this release cannot play it, or nothing; as the engine decides when it loads one."""
    codec = config.get("audio_encoder")
    if not isinstance(codec, dict) or codec.get("model_type", "encodec") != "encodec":
        return _CODEC_REASON
    return _CODEC_REASON if codec.get("audio_channels", 1) != 1 else ""


def _display_name(model_id: str) -> str:
    """Words of the hub's name: musicgen-songstarter-v0.2 is MusicGen Songstarter v0.2."""
    words = [word for word in re.split(r"[-_]+", model_id.partition("/")[2]) if word]
    spoken = [
        "MusicGen"
        if word.lower() == "musicgen"
        else word
        if any(character.isupper() or character.isdigit() for character in word)
        else word.capitalize()
        for word in words
    ]
    return " ".join(spoken)[:_MOST_ID]


def _free_id(model_id: str) -> str:
    """A short name that no model has: the hub's, then with its owner, then with a number."""
    owner, _, name = model_id.lower().partition("/")
    names = [_as_id(name), _as_id(f"{owner}-{name}")]
    taken = set(ModelConfig.objects.values_list("pk", flat=True))
    number = 2
    while names[0] in taken:
        names.pop(0)
        if not names:
            names = [_as_id(f"{name[: _MOST_ID - 6]}-{number}")]
            number += 1
    return names[0]


def _as_id(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text).strip("-._")[:_MOST_ID] or "model"

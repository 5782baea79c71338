"""How a model is built: the numbers that decide which adapters fit it, from its row or its checkpoint's config.

Reads `config.json` as data; knows nothing of adapters and loads nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.models import ModelConfig

#: Configs are a few kilobytes; what is larger is none.
_MAX_CONFIG_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class ModelArchitecture:
    """How a model is built; None where that is not known yet. Widths in numbers of channels of the network."""

    model_id: str
    name: str
    hf_model_id: str
    family: str | None
    hidden_size: int | None
    layers: int | None
    ffn_dim: int | None
    heads: int | None
    codebooks: int | None
    channels: int | None
    text_width: int | None


def architecture_of(model: ModelConfig) -> ModelArchitecture:
    """What the row tells of how the model is built."""
    return ModelArchitecture(
        model_id=model.id,
        name=model.display_name,
        hf_model_id=model.hf_model_id,
        family=model.family,
        hidden_size=model.hidden_size,
        layers=model.layers,
        ffn_dim=model.ffn_dim,
        heads=model.heads,
        codebooks=model.codebooks,
        channels=model.channels,
        text_width=model.text_width,
    )


def note_architecture(model: ModelConfig, folder: Path) -> list[str]:
    """Bring the row's facts up to the `config.json` of its installed checkpoint; answer the names of changed fields.

    What the checkpoint says is the truth, codebooks and channels included. A config that cannot be read, or is no
    MusicGen's, changes nothing: loading the model says what is wrong with it.
    """
    told = read_architecture(folder / "config.json")
    changed = [name for name, value in told.items() if getattr(model, name) != value]
    if changed:
        # By the row's current state, so that a stale instance overwrites nothing else.
        ModelConfig.objects.filter(pk=model.pk).update(**{name: told[name] for name in changed})
        for name in changed:
            setattr(model, name, told[name])
    return changed


def read_architecture(config: Path) -> dict[str, Any]:
    """The fields that a checkpoint's `config.json` tells, by their names in the table; empty where it tells none."""
    try:
        if config.stat().st_size > _MAX_CONFIG_BYTES:
            return {}
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("model_type") not in ("musicgen", "musicgen_melody"):
        return {}
    decoder, text = content.get("decoder"), content.get("text_encoder")
    if not isinstance(decoder, dict):
        return {}
    told: dict[str, Any] = {
        "family": content["model_type"],
        "hidden_size": decoder.get("hidden_size", 1024),
        "layers": decoder.get("num_hidden_layers", 24),
        "ffn_dim": decoder.get("ffn_dim", 4096),
        "heads": decoder.get("num_attention_heads", 16),
        "codebooks": decoder.get("num_codebooks", 4),
        "channels": decoder.get("audio_channels", 1),
        "text_width": text.get("d_model") if isinstance(text, dict) else None,
    }
    return {
        name: value
        for name, value in told.items()
        if name == "family" or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**20)
    }

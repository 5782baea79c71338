"""How a model is built: the numbers that decide which adapters fit it, from its row or its checkpoint's config.

Reads `config.json` as data; knows nothing of adapters and loads nothing.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gated_configs.memory import CalculatorError, check_config, config_hash, shared_calculator
from registry.described import FROM_CONFIG, described, record_of
from registry.models import ModelConfig

logger = logging.getLogger(__name__)

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
    content = config_in(folder)
    told = facts_of_config(content)
    # A folder of somebody's own is described when its model is saved in the admin.
    if told and not model.local_path:
        note_description(model, content)
    changed = [name for name, value in told.items() if getattr(model, name) != value]
    if changed:
        # By the row's current state, so that a stale instance overwrites nothing else.
        ModelConfig.objects.filter(pk=model.pk).update(**{name: told[name] for name in changed})
        for name in changed:
            setattr(model, name, told[name])
    return changed


def note_description(model: ModelConfig, config: Any) -> bool:
    """Keep what the memory calculator says of a config with the row; answer whether that changed.

    Starts the calculator's process unless the row has this very config's description. One that the calculator
    refuses changes nothing.
    """
    try:
        checked = check_config(config).config
        sha256 = config_hash(checked)
        kept = model.architecture
        if isinstance(kept, dict) and kept.get("config_sha256") == sha256 and described(kept) is not None:
            return False
        architecture = shared_calculator().describe(checked)
    except CalculatorError as refused:
        logger.warning("the memory of %s is not computed: %s", model.pk, refused)
        return False
    model.architecture = record_of(architecture, source=FROM_CONFIG, config_sha256=sha256)
    ModelConfig.objects.filter(pk=model.pk).update(architecture=model.architecture)
    return True


def config_in(folder: Path) -> Any:
    """The parsed `config.json` of a checkpoint's folder, or None where it has none that can be read."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def facts_of_config(content: Any) -> dict[str, Any]:
    """The fields that a checkpoint's config tells, by their names in the table; empty where it tells none."""
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

"""From a config to modules on the meta device: shapes without storage. Runs in the child process only.

Uses transformers' own classes, never code named in a config, and never the network. Imports torch.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from gated_configs.memory.equal_layers import equal_layers_once
from gated_configs.memory.errors import UnsupportedArchitecture
from gated_configs.memory.remote import Mapping, mapping_of

logging.getLogger("transformers").setLevel(logging.CRITICAL)

#: Keys that choose how a model runs or claim something about it, not its shape. Some would import code or look
#: for packages (`attn_implementation`), some would be wrong on the meta device.
_NOT_SHAPE: Final = {
    "attn_implementation",
    "attribute_map",
    "auto_map",
    "base_config_key",
    "compression_config",
    "custom_pipelines",
    "dtype",
    "name_or_path",
    "num_parameters",
    "output_attentions",
    "quantization_config",
    "sub_configs",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "transformers_weights",
    "trust_remote_code",
    "use_kernels",
    "use_pretrained_backbone",
}

#: Class names that repositories still carry and transformers no longer has.
_RENAMED: Final = {
    "T5WithLMHeadModel": "T5ForConditionalGeneration",
    "MT5WithLMHeadModel": "MT5ForConditionalGeneration",
    "BertForLanguageModeling": "BertForMaskedLM",
    "BertModelForPreTraining": "BertForPreTraining",
    "RWForCausalLM": "FalconForCausalLM",
    "LLaMAForCausalLM": "LlamaForCausalLM",
    "CLIPTextModelWithProjection": "CLIPTextModelWithProjection",
}

#: Tables of transformers' auto classes, tried in this order when `architectures` names nothing known.
_TABLES: Final = (
    "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)


#: transformers 5 ties these whatever the config says; T5 1.1, Flan-T5 and mT5 are published with a head of their own.
_T5: Final = {"t5", "mt5", "umt5", "longt5"}
#: Families that one config may have imported ahead of its build: real ones have at most six, one could list hundreds.
_MOST_FAMILIES: Final = 8
#: Entries of a table that may be made for real, such as the frequencies of rotary positions.
_SHORT_TABLE: Final = 65_536


@dataclass(frozen=True)
class Blueprint:
    """A model without storage. `mapping` is set for families that transformers has under another name."""

    model: nn.Module
    config: Any
    class_name: str
    family: str
    mapping: Mapping | None
    notes: tuple[str, ...]

    @property
    def text_config(self) -> Any:
        """The config of the part that generates text, or the config itself."""
        try:
            return self.config.get_text_config(decoder=True)
        except ValueError:
            return self.config


def draw(config: dict[str, Any]) -> Blueprint:
    """The model that a config describes, on the meta device.

    Raises UnsupportedArchitecture, with the reason, for anything transformers does not know or cannot build
    from this config alone.
    """
    mapping = mapping_of(config)
    if mapping is not None:
        config = mapping.config
    family = str(config["model_type"])
    config_class, module = _config_class(family), _modeling_module(family)
    model_class, notes = _model_class(config, family, module)
    try:
        settings = config_class.from_dict(_completed(_shape_only(config)))
    except Exception as error:
        raise UnsupportedArchitecture(
            f"transformers' {config_class.__name__} refuses this config: {_first_line(error)}"
        ) from error
    _tie_as_published(config, settings)
    model = build(model_class, settings)
    if family in _T5 and config.get("tie_word_embeddings") is False and hasattr(model, "lm_head"):
        model.lm_head = nn.Linear(settings.d_model, settings.vocab_size, bias=False, device="meta")
    return Blueprint(model, settings, model_class.__name__, family, mapping, notes)


def _tie_as_published(config: dict[str, Any], settings: Any) -> None:
    """Tie a composite's head as its text model does, where the config itself does not say.

    transformers 5 gives composites a default of their own (Mistral3: tied) that files written before it do not mean.
    """
    text = getattr(settings, "text_config", None)
    if (
        text is not None
        and isinstance(config.get("text_config"), dict)
        and "tie_word_embeddings" not in config
    ):
        tied = getattr(text, "tie_word_embeddings", None)
        if isinstance(tied, bool) and hasattr(settings, "tie_word_embeddings"):
            settings.tie_word_embeddings = tied


def setting(config: Any, name: str) -> Any:
    """A field of a config or module, or None: also where it differs from layer to layer, which raises its own error."""
    try:
        return getattr(config, name, None)
    except Exception:  # noqa: BLE001 -- transformers' AmbiguousGlobalPerLayerAttributeError derives from no common base
        return None


def import_modules(config: dict[str, Any]) -> None:
    """Import the modules of a config's family and of its parts; families that are unknown are left to `draw`."""
    waiting: list[Any] = [config]
    for _ in range(_MOST_FAMILIES):
        if not waiting:
            return
        part = waiting.pop(0)
        try:
            mapping = mapping_of(part)
            family = str((mapping.config if mapping is not None else part).get("model_type"))
            config_class = _config_class(family)
            _modeling_module(family)
        except (UnsupportedArchitecture, ImportError, KeyError, TypeError):
            continue
        parts = [part.get(name) for name in getattr(config_class, "sub_configs", None) or ()]
        waiting += [each for each in parts if isinstance(each, dict) and "model_type" in each]


def build(model_class: Any, settings: Any) -> nn.Module:
    """One instance of a class on the meta device, without initialising weights, tied as transformers ties it."""
    try:
        try:
            # MiniMax makes large tables of decay from a short one: those must stay without storage.
            if model_class.__name__.startswith("MiniMax"):
                return _built(model_class, settings)
            with _without_numbers():
                return _built(model_class, settings)
        except RuntimeError as error:
            if "device" not in str(error):
                raise
            # The class mixes short tables with tensors without storage: let all of them be without.
            return _built(model_class, settings)
    except MemoryError:
        raise
    except ImportError as error:
        raise UnsupportedArchitecture(
            f"{model_class.__name__} needs a package that is not installed here: {_first_line(error)}"
        ) from error
    except Exception as error:
        raise UnsupportedArchitecture(
            f"{model_class.__name__} cannot be built from this config: {_first_line(error)}"
        ) from error


def _built(model_class: Any, settings: Any) -> nn.Module:
    from transformers import initialization

    with torch.device("meta"), initialization.no_init_weights(), equal_layers_once():
        model: Any = model_class(settings)
        model.tie_weights()
    built: nn.Module = model
    return built


def sibling(blueprint: Blueprint, name: str) -> Any | None:
    """Another class of the same family, such as the backbone of a model with a head; None where it has none."""
    return getattr(_modeling_module(blueprint.family), name, None)


def _config_class(family: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[family]
    except KeyError:
        raise UnsupportedArchitecture(
            f"The architecture {family!r} is not one that this calculator knows, and it never runs code from a"
            " repository to find out."
        ) from None


def _modeling_module(family: str) -> Any:
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    package = model_type_to_module_name(family)
    # One package may hold several families (data2vec-text), and one family another's class (InternLM3: Llama's).
    names = [f"{package}.modeling_{package}", f"{package}.modeling_{family.replace('-', '_')}"]
    for table in _TABLES:
        entry = getattr(sys.modules.get("transformers.models.auto.modeling_auto"), table, {}).get(family)
        if isinstance(entry, str):
            stem = re.sub(r"(For\w+|LMHeadModel|Model)$", "", entry).lower()
            names.append(f"{stem}.modeling_{stem}")
    for name in names:
        try:
            return importlib.import_module(f"transformers.models.{name}")
        except ModuleNotFoundError as error:
            if not str(error.name).startswith("transformers.models."):
                raise UnsupportedArchitecture(
                    f"The classes of {family!r} need a package that is not installed here: {_first_line(error)}"
                ) from error
    raise UnsupportedArchitecture(f"transformers has a config but no PyTorch model for {family!r}.")


def _model_class(config: dict[str, Any], family: str, module: Any) -> tuple[Any, tuple[str, ...]]:
    """The class to build, and a note where it is not the one that the config names."""
    named = [name for name in config.get("architectures") or [] if isinstance(name, str)]
    by_folded_name = {name.lower(): name for name in dir(module) if isinstance(getattr(module, name), type)}
    for name in named:
        found = by_folded_name.get(_RENAMED.get(name, name).lower())
        if found is not None and issubclass(getattr(module, found), nn.Module):
            return getattr(module, found), ()
    from transformers.models.auto import modeling_auto

    for table in _TABLES:
        entry = getattr(modeling_auto, table, {}).get(family)
        offered: list[Any] = list(entry) if isinstance(entry, (list, tuple)) else [entry]
        for offer in offered:
            if isinstance(offer, str) and hasattr(module, offer):
                note = (
                    f"The config names {named[0]}, which transformers does not have; counted as {offer}."
                    if named
                    else f"The config names no class; counted as {offer}."
                )
                return getattr(module, offer), (note,)
    raise UnsupportedArchitecture(f"transformers has no model class for {family!r} on its own.")


def _shape_only(config: dict[str, Any]) -> dict[str, Any]:
    """The config without what is not shape, in its parts too."""
    from transformers.configuration_utils import PreTrainedConfig

    kept: dict[str, Any] = {}
    for key, value in config.items():
        # A field named like a method would stand in that method's way.
        if key in _NOT_SHAPE or key.startswith("_") or callable(getattr(PreTrainedConfig, key, None)):
            continue
        kept[key] = _shape_only(value) if isinstance(value, dict) else value
    return kept


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """The config with what newer classes of its family read and older files leave out."""
    attention = config.get("attn_config")
    if config.get("model_type") == "dbrx" and isinstance(attention, dict):
        return {**config, "attn_config": {"rope_theta": 10_000.0, **attention}}
    return config


@contextlib.contextmanager
def _without_numbers() -> Iterator[None]:
    """Let models that read numbers out of a fresh tensor (schedules, tables) have a real one.

    `torch.linspace(...).item()` has no answer on the meta device; such tables are a few numbers long.
    """
    linspace, arange, cat = torch.linspace, torch.arange, torch.cat
    norm_except_dim = torch.norm_except_dim

    def real_linspace(*arguments: Any, **options: Any) -> torch.Tensor:
        options.setdefault("device", "cpu")
        return linspace(*arguments, **options)

    def real_arange(*arguments: Any, **options: Any) -> torch.Tensor:
        # Without storage, torch takes a second to import its symbolic shapes for it; short tables are nothing.
        if all(isinstance(number, (int, float)) and abs(number) <= _SHORT_TABLE for number in arguments):
            options.setdefault("device", "cpu")
        return arange(*arguments, **options)

    def tolerant_cat(tensors: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        # Gemma 4 joins real frequencies with zeros that have no storage.
        if len({tensor.device for tensor in tensors}) > 1:
            tensors = [tensor.to("meta") for tensor in tensors]
        return cat(tensors, *arguments, **options)

    def lengths(v: torch.Tensor, pow: int = 2, dim: int = 0) -> torch.Tensor:
        # Weight norm asks for the lengths of filters that have no numbers: without storage, torch imports an algebra
        # system to tell their shape.
        if not v.is_meta:
            return norm_except_dim(v, pow, dim)
        shape = [size if axis == dim else 1 for axis, size in enumerate(v.shape)]
        return torch.empty(shape if dim >= 0 else [], dtype=v.dtype, device="meta")

    torch.linspace, torch.arange, torch.cat = real_linspace, real_arange, tolerant_cat
    torch.norm_except_dim = lengths
    try:
        yield
    finally:
        torch.linspace, torch.arange, torch.cat = linspace, arange, cat
        torch.norm_except_dim = norm_except_dim


def _first_line(error: BaseException) -> str:
    """What an exception says, as the end of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (" ".join(lines[:3]) if lines else type(error).__name__)[:300]
    return text if text.endswith(".") else f"{text}."

"""One config in, one Architecture out: builds, counts, and names what it found. Runs in the child process.

The order: families computed without a class, then transformers' own classes on the meta device.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from torch import nn

from gated_configs.memory.architecture import Architecture, Count, LayerState, Parameters
from gated_configs.memory.blueprint import Blueprint, build, draw, setting, sibling
from gated_configs.memory.computed import computed_architecture
from gated_configs.memory.domains import CODECS, VOCODERS, domain_of
from gated_configs.memory.dtypes import declared_format
from gated_configs.memory.parts import Inventory, take_inventory
from gated_configs.memory.shapes import music_of, shapes_of
from gated_configs.memory.states import attentions, decoder_of, kind_of, layer_states
from gated_configs.memory.stored import named_counts, prediction_layers, quantisation_of, written_out_ties

_PER_TOKEN: Final = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "top_k_experts",
    "moe_k",
    "num_experts_per_topk",
    "experts_per_token",
    "router_top_k",
    "expert_top_k",
    "num_selected_experts",
)
_PRETRAINING: Final = re.compile(r"For(MaskedLM|PreTraining)$|LMHeadModel$")
_CLASSIFIER: Final = re.compile(r"For(Image|Video|Audio|Sequence|Token)Classification$")


def describe(config: dict[str, Any]) -> Architecture:
    """What a config says about its model. Raises UnsupportedArchitecture with the reason."""
    computed = computed_architecture(config)
    if computed is not None:
        return computed
    blueprint = draw(config)
    notes = list(blueprint.notes)
    generates = _generates(blueprint)
    states = layer_states(blueprint) if generates else ()
    model_type = _model_type(blueprint, states, generates)
    blueprint, others, convention = _headline(blueprint, config, model_type, notes)
    model = blueprint.model
    inventory = take_inventory(
        model,
        tower="codec" if model_type in {"audio-codec", "vocoder"} else None,
        has_towers=_is_composite(blueprint),
    )
    parameters, quantisation = _parameters(blueprint, config, inventory, others, convention, notes)
    attention, patterns = _attention(blueprint, states, model_type)
    if blueprint.mapping is not None:
        notes.append(
            f"Its code is published only in its repository. {blueprint.mapping.reason}."
            if blueprint.mapping.is_remote_code
            else f"{blueprint.mapping.reason}."
        )
    import transformers

    return Architecture(
        model_type=model_type,
        attention_type=attention,
        domain=domain_of(blueprint.family, blueprint.class_name, model_type),
        family=str(config.get("model_type")),
        class_name=blueprint.class_name,
        built_from=f"{blueprint.class_name} of transformers {transformers.__version__}, on the meta device",
        is_remote_code=blueprint.mapping is not None and blueprint.mapping.is_remote_code,
        parameters=parameters,
        states=states,
        shapes=shapes_of(blueprint, model_type, parameters.experts_per_token),
        dtype=_declared_dtype(config),
        music=music_of(blueprint),
        quantisation=quantisation,
        notes=tuple(notes),
        attention_patterns=patterns,
    )


def _declared_dtype(config: dict[str, Any]) -> str | None:
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            name = declared_format(part.get("dtype", part.get("torch_dtype")))
            if name is not None:
                return name
    return None


def _generates(blueprint: Blueprint) -> bool:
    """Whether the model makes one token after another, so that it keeps a cache."""
    from transformers.models.auto import modeling_auto

    name = blueprint.class_name
    if _PRETRAINING.search(name) and name.endswith(("ForMaskedLM", "ForPreTraining")):
        return False
    if (
        name.endswith(("EncoderModel", "TextModel", "VisionModel", "ForTextEncoding"))
        and not getattr(blueprint.model, "can_generate", bool)()
    ):
        return False
    if name.endswith("ForCTC"):
        return False
    if name.endswith("ForCausalLM"):
        return True
    if blueprint.model.can_generate():  # type: ignore[operator]
        return True
    family = blueprint.family
    causal = getattr(modeling_auto, "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", {})
    masked = getattr(modeling_auto, "MODEL_FOR_MASKED_LM_MAPPING_NAMES", {})
    sequence = getattr(modeling_auto, "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", {})
    speech = getattr(modeling_auto, "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", {})
    pictures = getattr(modeling_auto, "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", {})
    if family in sequence or family in speech or family in pictures:
        return "Classification" not in name
    return family in causal and family not in masked


def _is_composite(blueprint: Blueprint) -> bool:
    """Whether the model is made of several that have configs of their own."""
    parts = set(getattr(blueprint.config, "sub_configs", None) or {})
    return bool(parts - {"text_config", "decoder", "generator_config"}) or blueprint.family in {
        "vision-encoder-decoder",
        "speech-encoder-decoder",
    }


def _model_type(blueprint: Blueprint, states: tuple[LayerState, ...], generates: bool) -> str:
    family, config = blueprint.family, blueprint.config
    if family in CODECS:
        return "audio-codec"
    if family in VOCODERS:
        return "vocoder"
    if "diffusion" in family:
        return "diffusion"
    if family.startswith("musicgen"):
        # The melody variant reads its conditions as a prefix; the others attend to an encoder.
        return "encoder-decoder" if any(state.cross_elements for state in states) else "decoder-only"
    parts = set(getattr(config, "sub_configs", None) or {})
    sees = any(
        "vision" in part or "image" in part or "audio" in part or part == "thinker_config" for part in parts
    )
    if "encoder_config" in parts and "text_config" in parts:
        return "multimodal"
    if sees and any("text" in part or "qformer" in part or part == "thinker_config" for part in parts):
        return "multimodal"
    if generates and getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    if family in {"vision-encoder-decoder", "speech-encoder-decoder", "encoder-decoder"}:
        return "encoder-decoder"
    recurrent = any(state.state_elements or state.conv_elements for state in states)
    if recurrent:
        return "hybrid" if any(state.token_elements for state in states) else "state-space"
    return "decoder-only" if generates else "encoder-only"


def _headline(
    blueprint: Blueprint, config: dict[str, Any], model_type: str, notes: list[str]
) -> tuple[Blueprint, list[Count], str]:
    """The model whose parameters are the headline, other counts of its family, and the convention's words.

    An encoder that names the head it was pretrained with is counted as its users load it: the backbone of
    AutoModel. A classifier whose config does not say how many classes is counted without them.
    """
    name = blueprint.class_name
    plain = f"each parameter of {name} once"
    if model_type != "encoder-only":
        return blueprint, [], plain
    others: list[Count] = []
    if name.endswith(("ForMaskedLM", "ForPreTraining")):
        stem = name.removesuffix("ForMaskedLM").removesuffix("ForPreTraining")
        backbone_class = sibling(blueprint, f"{stem}Model")
        if backbone_class is None:
            return blueprint, [], plain
        for ending in ("ForMaskedLM", "ForPreTraining"):
            with_head = sibling(blueprint, f"{stem}{ending}")
            if with_head is None or (
                ending == "ForPreTraining" and name != f"{stem}{ending}" and stem != "Bert"
            ):
                continue
            model = blueprint.model if name == f"{stem}{ending}" else build(with_head, blueprint.config)
            elements = _elements(model)
            others.append(
                Count(f"as_{stem}{ending}", elements, f"as {stem}{ending}, with that head, ties once")
            )
            positions = _position_ids(model)
            if positions:
                others.append(
                    Count(
                        f"as_{stem}{ending}_stored",
                        elements + positions,
                        f"as {stem}{ending} with the integer positions that older files store",
                    )
                )
        bare = replace(blueprint, model=build(backbone_class, blueprint.config), class_name=f"{stem}Model")
        return (
            bare,
            others,
            f"the backbone that AutoModel loads ({stem}Model, with its pooler); heads counted apart",
        )
    if _CLASSIFIER.search(name) and not ({"id2label", "num_labels", "label2id"} & set(config)):
        return _without_classes(blueprint, notes, others)
    return blueprint, others, plain


def _without_classes(
    blueprint: Blueprint, notes: list[str], others: list[Count]
) -> tuple[Blueprint, list[Count], str]:
    """A classifier without its last layer, whose size the config leaves open."""
    model, name = blueprint.model, blueprint.class_name
    heads = [
        (key, child)
        for key, child in model.named_children()
        if key
        in {
            "classifier",
            "score",
            "head",
            "fc",
            "cls_classifier",
            "classification_head",
            "distillation_classifier",
        }
    ]
    linears = [
        layer
        for _, child in heads
        for layer in child.modules()
        if isinstance(layer, nn.Linear) and layer.out_features == getattr(blueprint.config, "num_labels", 2)
    ]
    if not linears or not name.endswith("ForImageClassification"):
        return (
            blueprint,
            others,
            f"each parameter of {name} once, with the 2 classes that the library assumes",
        )
    total = _elements(model)
    last = sum(_elements(layer) for layer in linears)
    thousand = sum(
        1000 * (layer.in_features + int(getattr(layer, "bias", None) is not None)) for layer in linears
    )
    others.append(
        Count("with_1000_classes", total - last + thousand, f"{name} with the 1000 classes of ImageNet-1k")
    )
    others.append(Count("with_2_classes", total, f"{name} with the 2 classes that the library assumes"))
    notes.append(
        "The config does not say how many classes it has (id2label, num_labels): the backbone is counted."
    )
    for key, child in heads:
        if any(layer is inner for layer in linears for inner in child.modules()):
            setattr(model, key, nn.Identity())
    return (
        blueprint,
        others,
        f"the backbone of {name}, without its classifier, whose size the config leaves open",
    )


def _elements(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _position_ids(model: nn.Module) -> int:
    return sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith("position_ids"))


def _parameters(
    blueprint: Blueprint,
    config: dict[str, Any],
    inventory: Inventory,
    others: list[Count],
    convention: str,
    notes: list[str],
) -> tuple[Parameters, Any]:
    text = blueprint.text_config
    per_token = next(
        (
            value
            for name in _PER_TOKEN
            if isinstance(value := setting(text, name), int) and not isinstance(value, bool) and value > 0
        ),
        0,
    )
    active = inventory.total
    experts = max(inventory.expert_elements, default=0)
    for count, elements in inventory.expert_elements.items():
        if per_token and count > per_token:
            active -= elements - elements * per_token // count
    if experts and not per_token:
        notes.append(
            "The config does not say how many experts a token is routed to; all are counted as active."
        )
    matrices = inventory.matrix_list()
    extra, extra_corrections, extra_matrices, layout = prediction_layers(
        blueprint.model, blueprint.family, text
    )
    settings = config.get("quantization_config") or (config.get("text_config") or {}).get(
        "quantization_config"
    )
    quantisation, note = quantisation_of(settings, matrices, inventory.total, extra_matrices, extra)
    if note:
        notes.append(note)
    ties = written_out_ties(blueprint.model)
    buffers = _resident_buffers(blueprint, inventory)
    corrections = inventory.stored_buffers + extra_corrections
    counts = named_counts(inventory.total, ties, extra, corrections, buffers, quantisation, layout)
    counts += others
    if blueprint.mapping is not None and blueprint.mapping.stored_extra:
        counts.append(
            Count(
                "as_stored",
                inventory.total + blueprint.mapping.stored_extra,
                "with the rotary table that the published files hold",
            )
        )
    if blueprint.family in {"gpt2", "gpt_neo", "gptj", "gpt_neox"}:
        counts += _stored_masks(blueprint, inventory.total)
    return Parameters(
        total=inventory.total,
        active=active,
        convention=convention,
        parts=dict(inventory.parts),
        counts=tuple(counts),
        matrices=matrices,
        buffers=buffers,
        experts=experts,
        experts_per_token=per_token,
    ), quantisation


def _resident_buffers(blueprint: Blueprint, inventory: Inventory) -> int:
    """Buffers that are held beside the parameters; masks and tables of positions are a few numbers."""
    return inventory.buffers


def _stored_masks(blueprint: Blueprint, total: int) -> list[Count]:
    """The causal masks that files of before 2023 hold: `[positions, positions]` in each layer."""
    config = blueprint.text_config
    positions = getattr(config, "n_positions", None) or getattr(config, "max_position_embeddings", None) or 0
    layers = getattr(config, "num_hidden_layers", 0) or 0
    extra = positions * positions * layers
    if blueprint.family != "gpt2":
        extra += layers
    return (
        [Count("with_stored_masks", total + extra, "with the causal masks that older files store")]
        if extra
        else []
    )


def _attention(
    blueprint: Blueprint, states: tuple[LayerState, ...], model_type: str
) -> tuple[str, dict[str, int]]:
    """How heads share keys over most of the layers that attend, and how many layers look how far."""
    patterns: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for state in states:
        patterns[state.pattern] = patterns.get(state.pattern, 0) + len(state.layers)
        if state.attention != "none":
            kinds[state.attention] = kinds.get(state.attention, 0) + len(state.layers)
    attending = {kind: layers for kind, layers in kinds.items() if kind != "linear"}
    if attending or kinds:
        chosen = attending or kinds
        return max(chosen, key=lambda kind: chosen[kind]), patterns
    if states or model_type in {"audio-codec", "vocoder"}:
        return "none", patterns
    found = attentions(blueprint.model, blueprint.config)
    if not found:
        has_attention = any("Attention" in type(module).__name__ for module in blueprint.model.modules())
        return ("mha" if has_attention else "none"), patterns
    for attention in found:
        kinds[kind_of(attention.heads, attention.kv_heads)] = (
            kinds.get(kind_of(attention.heads, attention.kv_heads), 0) + 1
        )
    patterns["full"] = len(found)
    return max(kinds, key=lambda kind: kinds[kind]), patterns


__all__ = ["decoder_of", "describe"]

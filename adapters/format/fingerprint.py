"""What an adapter's file tells of the model it was made for, by the names and shapes of its tensors.

Tells only what is certain: a field that the file leaves open is None, and fits every model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from adapters.format.errors import BrokenAdapter
from adapters.format.keys import KeyKind, LoraKey
from adapters.format.lora_config import AdapterConfig

MUSICGEN: Final = "musicgen"
MUSICGEN_MELODY: Final = "musicgen_melody"


@dataclass(frozen=True)
class Fingerprint:
    """The model an adapter was made for, as far as its file tells; None where it does not.

    `min_layers` and `min_codebooks` are what its tensors reach: the model has at least as many. `listed_codebooks`
    is how many heads or embeddings training listed, all of them most likely: it counts where no base model is named.
    `family` is "musicgen" or "musicgen_melody"; `text_width` is the width of the text encoder.
    """

    family: str | None = None
    hidden_size: int | None = None
    layers: int | None = None
    min_layers: int | None = None
    ffn_dim: int | None = None
    heads: int | None = None
    codebooks: int | None = None
    min_codebooks: int | None = None
    listed_codebooks: int | None = None
    channels: int | None = None
    text_width: int | None = None


_LAYER_PATH: Final = r"decoder\.model\.decoder\.layers\.\d+"

#: Input and output of each linear module, by the end of its canonical path; None is a size that no field names.
_SIZES: Final[tuple[tuple[re.Pattern[str], str | None, str | None], ...]] = (
    (re.compile(rf"{_LAYER_PATH}\.(?:self|encoder)_attn\.(?:[kvq]|out)_proj"), "hidden_size", "hidden_size"),
    (re.compile(rf"{_LAYER_PATH}\.fc1"), "hidden_size", "ffn_dim"),
    (re.compile(rf"{_LAYER_PATH}\.fc2"), "ffn_dim", "hidden_size"),
    (re.compile(r"decoder\.lm_heads\.\d+"), "hidden_size", None),
    (re.compile(r"enc_to_dec_proj"), "text_width", "hidden_size"),
    (re.compile(r"audio_enc_to_dec_proj"), None, "hidden_size"),
    (re.compile(r"text_encoder\.encoder\.block\.\d+\.layer\.0\.SelfAttention\.[qkv]"), "text_width", None),
)
_EMBEDDING: Final = re.compile(r"decoder\.model\.decoder\.embed_tokens\.(\d+)")
_HEAD: Final = re.compile(r"decoder\.lm_heads\.(\d+)")
_LAYER: Final = re.compile(r"decoder\.model\.decoder\.layers\.(\d+)\.(.+)")
_NORM: Final = re.compile(r"decoder\.model\.decoder\.(?:layers\.\d+\.\w+_layer_norm|layer_norm)")

#: A target that names a layer by its number, such as "layers.5.fc1" or "5.fc1"; "lm_heads.0" names none.
_NUMBERED_NAME: Final = re.compile(r"(?:^|\.)\d+\.")
#: The same in a regular expression, such as `layers\.(0|1)\.` and `layers\.[0-3]\.`.
_NUMBERS_IN_PATTERN: Final = re.compile(r"\.\(?(?:\?:)?\[?\d")
#: What may follow "layers" in one that takes them all: any number, or anything.
_ANY_NUMBER: Final = re.compile(r"\\?\.\(?(?:\\d|\\w|\[0-9\]|\[\^\\?\.\]|\.)[+*]|\.[+*]")
_ANY_DIGITS: Final = "[0-9]"

#: Published models have 4 codebooks or 8. Whoever lists the first few of them may have left out the rest.
_LEAST_CODEBOOKS: Final = 4


def fingerprint_of(keys: Iterable[tuple[LoraKey, tuple[int, ...]]], config: AdapterConfig) -> Fingerprint:
    """The fingerprint of an adapter's tensors, each given as its name and shape.

    Raises BrokenAdapter where two of them tell different sizes: no model has both.
    """
    tensors = list(keys)
    modules = {key.module for key, _ in tensors}
    sizes: dict[str, int] = {}
    for key, shape in tensors:
        for name, size in _sizes(key, shape):
            if sizes.setdefault(name, size) != size:
                raise BrokenAdapter(
                    "ADAPTER_CONTRADICTS_ITSELF",
                    "The adapter's tensors were made for models of different sizes. Import it as training wrote it.",
                    f"{key.raw[:200]} has {name} {size}, another has {sizes[name]}",
                )
    layers = _reach(_numbers(_LAYER, modules))
    heads, embeddings = _numbers(_HEAD, modules), _numbers(_EMBEDDING, modules)
    listed = next((len(numbers) for numbers in (heads, embeddings) if _are_all(numbers)), None)
    return Fingerprint(
        family=_family(modules, config),
        hidden_size=sizes.get("hidden_size"),
        layers=layers if _reaches_all_layers(modules, config) else None,
        min_layers=layers,
        ffn_dim=sizes.get("ffn_dim"),
        # Nobody trains a part of the heads and the embeddings of just that part.
        codebooks=listed if heads == embeddings else None,
        min_codebooks=_reach(heads | embeddings),
        listed_codebooks=listed,
        text_width=sizes.get("text_width"),
    )


def _sizes(key: LoraKey, shape: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    """The sizes of the model that one tensor tells."""
    if key.kind is KeyKind.EMBEDDING_B and len(shape) == 2 and _EMBEDDING.fullmatch(key.module):
        yield "hidden_size", shape[0]
    if key.kind is KeyKind.SAVED and _EMBEDDING.fullmatch(key.module) and len(shape) == 2:
        yield "hidden_size", shape[1]
    if key.kind is KeyKind.SAVED and _NORM.fullmatch(key.module) and len(shape) == 1:
        yield "hidden_size", shape[0]
    for pattern, wide_in, wide_out in _SIZES:
        if not pattern.fullmatch(key.module):
            continue
        is_matrix = len(shape) == 2
        if (
            wide_in
            and is_matrix
            and (key.kind is KeyKind.LORA_A or (key.kind is KeyKind.SAVED and key.parameter == "weight"))
        ):
            yield wide_in, shape[1]
        if wide_out and shape and (key.kind is KeyKind.SAVED or (key.kind is KeyKind.LORA_B and is_matrix)):
            yield wide_out, shape[0]


def _numbers(pattern: re.Pattern[str], modules: Iterable[str]) -> set[int]:
    return {int(match[1]) for module in modules if (match := pattern.fullmatch(module))}


def _reach(numbers: set[int]) -> int | None:
    """One more than the highest number, or None where there is none."""
    return max(numbers) + 1 if numbers else None


def _are_all(numbers: set[int]) -> bool:
    """Whether these may be all codebooks there are: from the first on without a gap, and as many as models have."""
    return len(numbers) == _reach(numbers) and len(numbers) >= _LEAST_CODEBOOKS


def _reaches_all_layers(modules: set[str], config: AdapterConfig) -> bool:
    """Whether training took every layer there was: then the last one that is adapted is the model's last."""
    chosen = (config.target_modules, config.exclude_modules, config.modules_to_save)
    if config.layers_to_transform or any(_names_layers(names) for names in chosen):
        return False
    by_layer: dict[int, set[str]] = {}
    for module in modules:
        if match := _LAYER.fullmatch(module):
            by_layer.setdefault(int(match[1]), set()).add(match[2])
    return (
        bool(by_layer)
        and len(by_layer) == max(by_layer) + 1
        and len({frozenset(part) for part in by_layer.values()}) == 1
    )


def _names_layers(targets: tuple[str, ...] | str) -> bool:
    """Whether targets choose layers by number. A regular expression is not run: it comes from a stranger."""
    if isinstance(targets, str):
        after = [targets[match.end() :] for match in re.finditer("layers", targets)]
        return not all(_ANY_NUMBER.match(rest) for rest in after) or bool(
            _NUMBERS_IN_PATTERN.search(targets.replace(_ANY_DIGITS, ""))
        )
    return any(_NUMBERED_NAME.search(target) for target in targets)


def _family(modules: set[str], config: AdapterConfig) -> str | None:
    """Text or melody model, where names or the config tell."""
    parts = {match[2] for module in modules if (match := _LAYER.fullmatch(module))}
    if any(part.startswith("encoder_attn") for part in parts):
        return MUSICGEN
    if "audio_enc_to_dec_proj" in modules or config.base_model_class.startswith("MusicgenMelody"):
        return MUSICGEN_MELODY
    if config.base_model_class.startswith("Musicgen"):
        return MUSICGEN
    # A name like `q_proj` takes all modules of that name: with cross-attention there would be two in each layer. That
    # is a conclusion from what is missing, and a base model that is named weighs more.
    if not config.base_model_name and isinstance(config.target_modules, tuple) and not config.exclude_modules:
        plain = set(config.target_modules) & {"q_proj", "k_proj", "v_proj", "out_proj"}
        if any(f"self_attn.{name}" in parts for name in plain):
            return MUSICGEN_MELODY
    return None

"""Names what people import in place of a LoRA adapter of MusicGen, and says what to do with it.

Decides by a file's first bytes, by tensors' names and by the config; nothing is loaded to see.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from adapters.format.errors import BrokenAdapter, NotAnAdapter
from adapters.format.lora_config import AdapterConfig

PICKLE_REFUSED: Final = "PICKLE_REFUSED"
FULL_CHECKPOINT: Final = "FULL_CHECKPOINT"
AUDIOCRAFT_CHECKPOINT: Final = "AUDIOCRAFT_CHECKPOINT"
OTHER_MODEL: Final = "OTHER_MODEL"
NOT_WEIGHTS: Final = "NOT_WEIGHTS"
NO_CONFIG: Final = "NO_CONFIG"

_HEAD_BYTES: Final = 1024

_PICKLE_SENTENCE: Final = (
    "The weights are a pickle, and loading one can run any program hidden in it. Save the adapter as safetensors"
    " (save_pretrained of peft does so) and import that."
)


def refuse_other_content(weights: Path) -> None:
    """Refuse a weights file that is something else under that name, by its first bytes.

    Raises NotAnAdapter or BrokenAdapter; OSError as reading does. What is left may be safetensors.
    """
    with weights.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise BrokenAdapter("WEIGHTS_EMPTY", "The weights file is empty. Copy or download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise NotAnAdapter(
            NOT_WEIGHTS,
            "The weights file is a pointer of git LFS, and the weights were not downloaded. Run `git lfs pull` in its"
            " folder, then import it again.",
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise NotAnAdapter(
            NOT_WEIGHTS,
            "The weights file is a web page: the download led to one. Download it again, after logging in if its site"
            " asks for that.",
        )
    if head.startswith(b"GGUF"):
        raise NotAnAdapter(
            NOT_WEIGHTS,
            "The weights are a GGUF file, which is made for language models. Import a LoRA adapter of peft.",
        )
    # Zips of torch.save, plain pickles of protocols 2 to 5, and torch's oldest format.
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise NotAnAdapter(PICKLE_REFUSED, _PICKLE_SENTENCE, f"begins with {head[:4]!r}")


_AUDIOCRAFT: Final = (
    re.compile(
        r"(?:^|\.)transformer\.layers\.\d+\.(?:self_attn\.in_proj_weight|linear[12]\.weight|cross_attention\.)"
    ),
    re.compile(r"^(?:best_state|xp\.cfg)"),
    re.compile(r"^condition_provider\.conditioners\."),
)
_LORA: Final = re.compile(r"(?:^|[._])lora_|\.lora\.|\.hada_w|\.lokr_")
_KOHYA: Final = re.compile(
    r"^lora_(?:unet|te\d?|transformer)_|\.lora_(?:down|up)\.weight$|^(?:unet|transformer)\..*lora"
)
_MUSICGEN: Final = re.compile(
    r"(?:^|\.)(?:decoder\.model\.decoder\.|decoder\.lm_heads\.|model\.decoder\.layers\.|enc_to_dec_proj)"
)


def not_lora(names: Collection[str], base_model_name: str = "") -> NotAnAdapter:
    """What tensors are of which none belongs to a LoRA adapter of MusicGen; the base is as a config names it."""
    shown = ", ".join(sorted(names)[:3])[:200]
    if any(pattern.search(name) for pattern in _AUDIOCRAFT for name in names):
        return NotAnAdapter(
            AUDIOCRAFT_CHECKPOINT,
            "This is a model saved by audiocraft, not an adapter. Convert it with the script that transformers has for"
            " MusicGen and add it as a model in the admin.",
            shown,
        )
    if any(_KOHYA.search(name) for name in names):
        return NotAnAdapter(
            OTHER_MODEL,
            "This adapter is made for an image model. Only adapters made for MusicGen can be used.",
            shown,
            made_for="an image model",
        )
    if any(_LORA.search(name) for name in names):
        named = f" ({base_model_name[:100]})" if base_model_name else ""
        return NotAnAdapter(
            OTHER_MODEL,
            f"This adapter is made for {_kind_by_names(names)}{named}. Only adapters made for MusicGen can be used.",
            shown,
            made_for=base_model_name[:100] or _kind_by_names(names),
        )
    if any(_MUSICGEN.search(name) for name in names):
        return NotAnAdapter(
            FULL_CHECKPOINT,
            "This is a whole fine-tuned model, not an adapter. Add it as a model in the admin, with its folder.",
            shown,
        )
    return NotAnAdapter(
        OTHER_MODEL,
        "These are the weights of another kind of model, and no adapter. Import a LoRA adapter made for MusicGen.",
        shown,
    )


def _kind_by_names(names: Collection[str]) -> str:
    joined = "\n".join(sorted(names)[:200])
    if re.search(r"(?:^|\.)model\.layers\.\d+\.(?:self_attn|mlp)\.", joined) or ".transformer.h." in joined:
        return "a language model"
    if re.search(r"down_blocks|up_blocks|transformer_blocks|single_blocks", joined):
        return "an image model"
    return "another kind of model"


#: Models whose layers are named as MusicGen's, and some shaped so too: only the base model's name tells them apart.
_ALIKE: Final = re.compile(
    r"(?:opt|galactica|whisper|distil-whisper|distil|bart|mbart|m2m100|nllb|pegasus|blenderbot|speech_?t5|seamless"
    r"|s2t|trocr|marian)[-_.]",
    re.IGNORECASE,
)


def refuse_other_base(config: AdapterConfig) -> None:
    """Refuse an adapter whose config names another kind of model. Raises NotAnAdapter."""
    made_for = ""
    name = config.base_model_name.rstrip("/").rpartition("/")[2]
    if config.base_model_class.startswith("Musicgen") or "musicgen" in name.lower():
        return
    if config.base_library.startswith(("transformers.", "diffusers.")):
        made_for = config.base_model_class
    elif _ALIKE.match(name):
        made_for = config.base_model_name
    if made_for:
        raise NotAnAdapter(
            OTHER_MODEL,
            f"This adapter is made for {made_for[:100]}, which is no MusicGen. Only adapters made for MusicGen can be"
            " used.",
            made_for=made_for[:100],
        )


def no_config(names: Collection[str]) -> NotAnAdapter:
    """The refusal of weights without a config: what they are, if they are no adapter at all."""
    if any(_LORA.search(name) for name in names) and not any(_KOHYA.search(name) for name in names):
        return NotAnAdapter(
            NO_CONFIG,
            "The adapter_config.json is missing, and without it nobody knows how strongly the adapter acts. Import the"
            " folder that training wrote.",
        )
    return not_lora(names)

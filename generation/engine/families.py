"""The two families of MusicGen as the library's classes: text models and melody models.

Melody models read what they are asked for before their own tokens, where text models attend to it beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from transformers.models.musicgen.modeling_musicgen import MusicgenForConditionalGeneration

if TYPE_CHECKING:
    from transformers.models.musicgen_melody.modeling_musicgen_melody import (
        MusicgenMelodyForConditionalGeneration,
    )

    Network = MusicgenForConditionalGeneration | MusicgenMelodyForConditionalGeneration

MELODY: Final = "musicgen_melody"
#: By the `model_type` of their configs.
FAMILIES: Final = ("musicgen", MELODY)

#: The codec stays in float32: rounding it would be heard.
_IN_FLOAT32: Final = {"audio_encoder"}


class _TextNetwork(MusicgenForConditionalGeneration):
    _keep_in_fp32_modules_strict = _IN_FLOAT32


def network_class(model_type: str) -> Any:
    """The class of a family's networks."""
    if model_type != MELODY:
        return _TextNetwork
    # Only runners of such a model spend the time.
    from transformers.models.musicgen_melody.modeling_musicgen_melody import (
        MusicgenMelodyForConditionalGeneration,
    )

    return type(
        "_MelodyNetwork",
        (MusicgenMelodyForConditionalGeneration,),
        {"_keep_in_fp32_modules_strict": _IN_FLOAT32},
    )

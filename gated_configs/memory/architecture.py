"""What a config says about a model, in plain numbers: parameters, caches, shapes. The child process makes it.

Everything that memory depends on and nothing that depends on a request. Counts are elements, never bytes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final

MODEL_TYPES: Final = (
    "decoder-only",
    "encoder-only",
    "encoder-decoder",
    "multimodal",
    "state-space",
    "hybrid",
    "audio-codec",
    "diffusion",
    "vocoder",
)
ATTENTION_TYPES: Final = ("mha", "mqa", "gqa", "mla", "linear", "none")
PATTERNS: Final = ("full", "sliding", "chunked", "recurrent", "hybrid", "shared", "none")
PARTS: Final = (
    "embeddings",
    "attention",
    "recurrent",
    "mlp",
    "convolution",
    "experts",
    "router",
    "norms",
    "head",
    "vision",
    "audio",
    "text",
    "codec",
    "projector",
    "other",
)


@dataclass(frozen=True)
class Count:
    """One defensible number of parameters: a stable `name`, its `value`, and in words what it counts."""

    name: str
    value: int
    meaning: str


@dataclass(frozen=True)
class Matrix:
    """`count` weight matrices of one shape, in one part: what quantised formats and their scales apply to."""

    rows: int
    columns: int
    count: int
    part: str


@dataclass(frozen=True)
class Parameters:
    """Parameters, each counted once.

    `total` is under the convention named in `convention`; `parts` add up to it. `active` are those that one
    token passes through: `total` less the experts it is not routed to (embeddings and head included).
    `counts` are the other defensible numbers, `matrices` the shapes of what a quantiser would take.
    """

    total: int
    active: int
    convention: str
    parts: dict[str, int]
    counts: tuple[Count, ...]
    matrices: tuple[Matrix, ...]
    buffers: int = 0
    experts: int = 0
    experts_per_token: int = 0

    def count(self, name: str) -> int | None:
        """The count of that name, or None where the model has none."""
        return next((count.value for count in self.counts if count.name == name), None)


@dataclass(frozen=True)
class LayerState:
    """What a run of `layers` keeps per sequence while it generates, per layer, in elements.

    `token_elements` for each cached token (keys and values, or the latent of MLA), for at most `window`
    tokens where there is one; `state_elements` and `conv_elements` once per sequence, whatever its length;
    `cross_elements` for each token of the encoder. `state_dtype` is "float32" where the library keeps the
    recurrent state in it whatever the cache's format, else "cache". `heads` is how far tensor parallelism
    can split the cache: key-value heads, or 1 where every device keeps all of it.
    """

    layers: tuple[int, ...]
    attention: str
    pattern: str
    token_elements: int = 0
    window: int | None = None
    state_elements: int = 0
    conv_elements: int = 0
    cross_elements: int = 0
    state_dtype: str = "cache"
    heads: int = 1


@dataclass(frozen=True)
class Shapes:
    """The sizes that activations depend on. Zero where a model has no such thing."""

    layers: int
    hidden: int
    intermediate: int
    attention_width: int
    vocabulary: int
    heads: int
    head_width: int
    experts_per_token: int = 1
    max_context: int = 0
    default_tokens: int = 0
    encoder_layers: int = 0
    encoder_hidden: int = 0
    encoder_intermediate: int = 0
    encoder_tokens: int = 0
    pixels: int = 0


@dataclass(frozen=True)
class Music:
    """A text-to-music model's clock and codec. `conditioning_frames` is what a melody prefix adds.

    `codec_compress` is how much narrower the codec's residual blocks are inside. `unread_codec_elements` and
    `unread_text_elements` are weights that making a take never reads: the codec's encoder, and the table of text
    embeddings but for the prompt's few rows.
    """

    frame_rate: float
    sample_rate: int
    codebooks: int
    channels: int
    trained_seconds: float
    conditioning_frames: int
    codec_channels: tuple[int, ...]
    codec_strides: tuple[int, ...]
    codec_passes: int
    codec_compress: int
    unread_codec_elements: int
    unread_text_elements: int
    hidden: int


@dataclass(frozen=True)
class Quantisation:
    """The format a checkpoint is published in: bytes of all its weights as stored, scales and zeros included."""

    method: str
    bits: float
    stored_bytes: int
    scale_elements: int
    description: str


@dataclass(frozen=True)
class Architecture:
    """Everything the calculator knows about one config. `built_from` says how: a class, a mapping or arithmetic.

    `attention_type` is how heads share keys and values; `attention_patterns` how far they look, as layers per
    pattern. `is_remote_code` marks families that are published only as code in their repository: computed
    here without ever running it.
    """

    model_type: str
    attention_type: str
    domain: str
    family: str
    class_name: str
    built_from: str
    is_remote_code: bool
    parameters: Parameters
    states: tuple[LayerState, ...]
    shapes: Shapes
    dtype: str | None = None
    music: Music | None = None
    quantisation: Quantisation | None = None
    notes: tuple[str, ...] = ()
    attention_patterns: dict[str, int] = field(default_factory=dict)

    @property
    def has_cache(self) -> bool:
        """Whether generating keeps anything from step to step."""
        return bool(self.states)

    @property
    def token_elements(self) -> int:
        """Cached elements that one more token adds while every window still has room."""
        return sum(state.token_elements * len(state.layers) for state in self.states)

    @property
    def has_window(self) -> bool:
        """Whether some layer stops growing at a window."""
        return any(state.window is not None for state in self.states)

    @property
    def has_fixed_state(self) -> bool:
        """Whether some layer keeps a state of a size that does not grow with the sequence."""
        return any(state.state_elements or state.conv_elements for state in self.states)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Architecture:
        """The inverse of `as_json`."""
        parameters = dict(value["parameters"])
        parameters["counts"] = tuple(Count(**count) for count in parameters["counts"])
        parameters["matrices"] = tuple(Matrix(**matrix) for matrix in parameters["matrices"])
        music = value.get("music")
        if music is not None:
            music = Music(
                **{
                    **music,
                    "codec_channels": tuple(music["codec_channels"]),
                    "codec_strides": tuple(music["codec_strides"]),
                }
            )
        quantisation = value.get("quantisation")
        return cls(
            **{
                **value,
                "parameters": Parameters(**parameters),
                "states": tuple(
                    LayerState(**{**state, "layers": tuple(state["layers"])}) for state in value["states"]
                ),
                "shapes": Shapes(**value["shapes"]),
                "music": Music(**dataclasses.asdict(music)) if music is not None else None,
                "quantisation": Quantisation(**quantisation) if quantisation is not None else None,
                "notes": tuple(value["notes"]),
            }
        )

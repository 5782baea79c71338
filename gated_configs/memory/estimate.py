"""Memory of one request over one architecture, part by part, in bytes. Plain arithmetic over plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from gated_configs.memory.architecture import Architecture, LayerState
from gated_configs.memory.dtypes import ACTIVATION_FORMATS, CACHE_FORMATS, WEIGHT_FORMATS
from gated_configs.memory.music import CODEC_BYTES, codec_activation_bytes, mapped, take_of
from gated_configs.memory.request import Request

#: A prompt is read in pieces of at most so many tokens by every serving engine; the low figure assumes one.
_PIECE: Final = 512
_TOWERS: Final = {"vision", "audio", "text", "codec", "projector"}
_SPLIT: Final = {"attention", "recurrent", "mlp", "experts"}


@dataclass(frozen=True)
class ActivationRange:
    """Bytes of activations at the least and at the most, and what each figure assumes."""

    low_bytes: int
    high_bytes: int
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device. `weight_bytes` includes buffers; `cache_bytes` is keys, states and cross-attention.

    On a CPU the weights are a mapped file: `unread_bytes` of them never take memory, and `file_bytes` of the file
    stand beside their converted copies. Each overhead is in `overhead_bytes` once. `total_bytes` takes activations at
    their high figure, `low_total_bytes` at their low one. `steps` and `rows` are what a music request came to.
    """

    weight_bytes: int
    cache_bytes: int
    key_value_bytes: int
    state_bytes: int
    cross_bytes: int
    cache_bytes_per_token: int
    activations: ActivationRange
    overhead_bytes: int
    request: Request
    rows: int
    tokens: int
    steps: int = 0
    frames: int = 0
    unread_bytes: int = 0
    file_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def resident_weight_bytes(self) -> int:
        """Memory that the weights take while they are used."""
        return self.weight_bytes - self.unread_bytes + self.file_bytes

    @property
    def total_bytes(self) -> int:
        """What to plan for."""
        return (
            self.resident_weight_bytes + self.cache_bytes + self.activations.high_bytes + self.overhead_bytes
        )

    @property
    def low_total_bytes(self) -> int:
        """The same when prompts are read in pieces and nothing is kept longer than it must be."""
        return (
            self.resident_weight_bytes + self.cache_bytes + self.activations.low_bytes + self.overhead_bytes
        )

    def breakdown(self) -> dict[str, int]:
        """The parts of `total_bytes` by name."""
        return {
            "weights": self.resident_weight_bytes,
            "cache": self.cache_bytes,
            "activations": self.activations.high_bytes,
            "overhead": self.overhead_bytes,
        }

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, totals included."""
        import dataclasses

        return {
            **dataclasses.asdict(self),
            "total_bytes": self.total_bytes,
            "low_total_bytes": self.low_total_bytes,
        }


def estimate(architecture: Architecture, request: Request) -> MemoryEstimate:
    """Memory of a request. Raises ValueError for a format that the architecture does not have."""
    rows, tokens, encoder_tokens, steps, frames = _extent(architecture, request)
    keys, states, cross = cache_parts(
        architecture, request, rows=rows, tokens=tokens, encoder_tokens=encoder_tokens
    )
    activations = _activations(architecture, request, rows, tokens, encoder_tokens, frames)
    unread, file = _mapped_bytes(architecture, request)
    return MemoryEstimate(
        weight_bytes=weight_bytes(architecture, request),
        cache_bytes=keys + states + cross,
        key_value_bytes=keys,
        state_bytes=states,
        cross_bytes=cross,
        cache_bytes_per_token=cache_bytes_per_token(architecture, request),
        activations=activations,
        overhead_bytes=request.fixed_overhead_bytes,
        request=request,
        rows=rows,
        tokens=tokens,
        steps=steps,
        frames=frames,
        unread_bytes=unread,
        file_bytes=file,
        notes=_notes(architecture, request, tokens),
    )


def _mapped_bytes(architecture: Architecture, request: Request) -> tuple[int, int]:
    """Bytes of weights that are never read, and of the file's pages beside converted weights; zero off the CPU."""
    is_plain = request.weights in ACTIVATION_FORMATS and request.tensor_parallel == 1
    if architecture.music is None or request.device != "cpu" or not is_plain:
        return 0, 0
    held = mapped(architecture, WEIGHT_FORMATS[request.weights].bits / 8)
    return held.unread_bytes, held.file_bytes


def _extent(architecture: Architecture, request: Request) -> tuple[int, int, int, int, int]:
    """Rows, tokens a row, tokens an encoder reads, and for music steps and frames."""
    if architecture.music is not None:
        take = take_of(architecture, request)
        return take.rows, take.cached, take.prompt_tokens, take.steps, take.frames
    shapes = architecture.shapes
    tokens = request.context
    if not architecture.has_cache and shapes.default_tokens and not shapes.vocabulary:
        tokens = shapes.default_tokens
    encoder = request.encoder_tokens or shapes.encoder_tokens or (tokens if shapes.encoder_layers else 0)
    return request.batch, tokens, encoder, 0, 0


def weight_bytes(architecture: Architecture, request: Request) -> int:
    """Bytes of weights and buffers on one device.

    A quantised format takes the matrices of attention, feed-forward and experts; embeddings, norms, heads and
    towers stay in the activations' format, as GPTQ, AWQ and bitsandbytes leave them. Buffers and a music model's codec
    stay in float32.
    With tensor parallelism those matrices and vocabulary-sized ones are divided, the rest is on every device.
    """
    parameters, parts = architecture.parameters, request.tensor_parallel
    if request.weights == "stored":
        if architecture.quantisation is None:
            raise ValueError(
                'This config names no quantisation; choose a format of weights instead of "stored".'
            )
        return -(-architecture.quantisation.stored_bytes // parts)
    chosen = WEIGHT_FORMATS[request.weights]
    codec = parameters.parts.get("codec", 0) if architecture.music is not None else 0
    buffers = 4 * parameters.buffers + CODEC_BYTES * codec
    if not chosen.is_quantised:
        size = chosen.bits / 8
        split = sum(
            elements for part, elements in parameters.parts.items() if part in _SPLIT | {"embeddings", "head"}
        )
        kept = parameters.total - split - codec
        return math.ceil(split * size / parts) + math.ceil(kept * size) + buffers
    taken = elements = 0
    for matrix in parameters.matrices:
        if matrix.part in _TOWERS:
            continue
        taken += chosen.bytes_of(matrix.rows * matrix.count, matrix.columns)
        elements += matrix.rows * matrix.columns * matrix.count
    rest = (parameters.total - elements - codec) * ACTIVATION_FORMATS[request.activations]
    return -(-taken // parts) + rest + buffers


def cache_parts(
    architecture: Architecture, request: Request, *, rows: int, tokens: int, encoder_tokens: int
) -> tuple[int, int, int]:
    """Bytes of keys and values, of recurrent states, and of cross-attention, on one device."""
    keys = states = cross = 0
    for state in architecture.states:
        layers = len(state.layers)
        held = tokens if state.window is None else min(tokens, state.window)
        keys += layers * _cached(state, state.token_elements, request, rows * held)
        cross += layers * _cached(state, state.cross_elements, request, rows * encoder_tokens)
        states += layers * rows * _state_bytes(state, request)
    return keys, states, cross


def _cached(state: LayerState, elements: int, request: Request, times: int) -> int:
    """Bytes of `times` rows of cached elements; heads are shared out among devices as far as they go."""
    if not elements:
        return 0
    share = min(request.tensor_parallel, max(1, state.heads))
    return CACHE_FORMATS[request.cache].bytes_of(times, -(-elements // share))


def _state_bytes(state: LayerState, request: Request) -> int:
    wide = 4 if state.state_dtype == "float32" else ACTIVATION_FORMATS[request.activations]
    narrow = ACTIVATION_FORMATS[request.activations]
    whole = state.state_elements * wide + state.conv_elements * narrow
    return -(-whole // request.tensor_parallel)


def cache_bytes_per_token(architecture: Architecture, request: Request) -> int:
    """Bytes that one more token adds to one sequence while every window still has room."""
    return sum(
        len(state.layers) * _cached(state, state.token_elements, request, 1) for state in architecture.states
    )


def _activations(
    architecture: Architecture, request: Request, rows: int, tokens: int, encoder_tokens: int, frames: int
) -> ActivationRange:
    """Activations of inference, never of training.

    Of one layer: residual, its norm, and the larger of attention (query, keys, output) and feed-forward (gate,
    up, product); layers follow one another and reuse it. Logits for one position a row, in the activations'
    format and in float32. Attention scores are not counted: fused kernels never write them out.
    """
    size, shapes = ACTIVATION_FORMATS[request.activations], architecture.shapes
    width = max(2 * shapes.attention_width + 2 * shapes.hidden, 3 * shapes.intermediate)
    per_token = (2 * shapes.hidden + width) * size
    logits = rows * shapes.vocabulary * (size + 4) if architecture.has_cache else 0
    if architecture.music is not None:
        logits *= architecture.music.codebooks
    encoder_per_token = (
        2 * shapes.encoder_hidden + max(4 * shapes.encoder_hidden, 3 * shapes.encoder_intermediate)
    ) * size
    encoder = rows * encoder_tokens * encoder_per_token
    notes = [
        "inference; layers follow one another and reuse their memory",
        "attention by fused kernels (SDPA, flash)",
    ]
    if architecture.music is not None:
        # Decoding goes one step at a time; afterwards the codec decodes whole takes while the cache is still held.
        codec = codec_activation_bytes(architecture.music, frames)
        step = rows * per_token + logits
        notes.append(
            "high: the codec decodes take after take in float32 while the cache is held; low: the steps alone"
        )
        return ActivationRange(max(step, encoder), max(step, encoder) + codec, tuple(notes))
    if not architecture.has_cache:
        whole = rows * tokens * per_token
        notes.append("high: the whole batch at once; low: one sequence after another")
        return ActivationRange(-(-whole // rows), whole, tuple(notes))
    low = (rows + _PIECE * min(1.0, tokens / _PIECE)) * per_token
    high = rows * tokens * per_token
    notes.append(
        f"low: prompts read in pieces of {_PIECE} tokens; high: all prompts of the whole context at once"
    )
    low_bytes = math.ceil(low) + logits + -(-encoder // rows)
    return ActivationRange(min(low_bytes, high + logits + encoder), high + logits + encoder, tuple(notes))


def _notes(architecture: Architecture, request: Request, tokens: int) -> tuple[str, ...]:
    notes = []
    limit = architecture.shapes.max_context
    if architecture.music is not None:
        seconds = request.duration_seconds or architecture.music.trained_seconds
        if request.device == "cpu":
            notes.append(
                "On a CPU the weights are a mapped file: the codec's encoder and unread text embeddings take no memory."
            )
        if seconds > architecture.music.trained_seconds:
            notes.append(
                f"The model was trained on {architecture.music.trained_seconds:.0f} s; longer takes are windows of it."
            )
    elif limit and tokens > limit and architecture.has_cache:
        notes.append(f"The config allows {limit:,} positions; {tokens:,} are asked for.")
    if any(state.attention == "mla" for state in architecture.states):
        notes.append(
            "The cache is the compressed latent; engines that expand it to heads need several times as much."
        )
    return tuple(notes)

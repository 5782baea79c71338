"""What a person asks of a model: how many sequences, how long, in which formats. Checked where it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from gated_configs.memory.architecture import Architecture
from gated_configs.memory.dtypes import ACTIVATION_FORMATS, CACHE_FORMATS, WEIGHT_FORMATS, format_name

_MOST: Final = 10**12
#: A day.
MAX_DURATION_SECONDS: Final = 86_400.0
#: CUDA's context, cuBLAS workspaces and kernels: 0.4 to 0.8 GB on cards of the last ten years.
CUDA_OVERHEAD_BYTES: Final = 600_000_000
#: The runner's process with its libraries and threads, resident, before any weight is read: with torch 2.13 on Linux 290
#: to 380 MB on the same machine, as much of the libraries as the kernel happens to map.
CPU_OVERHEAD_BYTES: Final = 335_000_000


@dataclass(frozen=True)
class Request:
    """One question about memory.

    `weights` is a format of `WEIGHT_FORMATS` or "stored" for a checkpoint's published format; `cache` and
    `activations` default to the 16-bit (or 32-bit) format that goes with it. `context` is tokens a sequence,
    prompt and answer together. For music `duration_seconds` replaces it, and `guidance` doubles the decoder's
    batch. `encoder_tokens` is what an encoder reads (prompt of a music model, text or sound of a translator).
    Raises ValueError, with a sentence, for what cannot be.
    """

    weights: str = "bf16"
    cache: str = ""
    activations: str = ""
    batch: int = 1
    context: int = 2048
    duration_seconds: float | None = None
    guidance: bool = True
    encoder_tokens: int = 0
    tensor_parallel: int = 1
    device: str = "cuda"
    overhead_bytes: int | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        if self.weights != "stored":
            set_field(self, "weights", format_name(self.weights, WEIGHT_FORMATS))
        wide = "fp32" if self.weights == "fp32" else "fp16" if self.weights == "fp16" else "bf16"
        set_field(self, "activations", format_name(self.activations or wide, ACTIVATION_FORMATS))
        set_field(self, "cache", format_name(self.cache or self.activations, CACHE_FORMATS))
        for name in ("batch", "context", "tensor_parallel"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
                raise ValueError(f"{name} is a whole number of 1 or more, not {value!r}.")
        if not 0 <= self.encoder_tokens <= _MOST:
            raise ValueError("encoder_tokens is a whole number of 0 or more.")
        if self.duration_seconds is not None and not (
            math.isfinite(self.duration_seconds) and 0 < self.duration_seconds <= MAX_DURATION_SECONDS
        ):
            raise ValueError(
                f"duration_seconds is a number above 0 and at most {MAX_DURATION_SECONDS:.0f} (a day)."
            )
        if self.device not in {"cuda", "cpu", "mps"}:
            raise ValueError(f"device is cuda, cpu or mps, not {self.device!r}.")

    def changed(self, **changes: object) -> Request:
        """The same question with some answers changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def fixed_overhead_bytes(self) -> int:
        """What the process and the device's runtime take before any model, counted once."""
        if self.overhead_bytes is not None:
            return self.overhead_bytes
        return CUDA_OVERHEAD_BYTES if self.device == "cuda" else CPU_OVERHEAD_BYTES


def default_request(architecture: Architecture) -> Request:
    """A sensible first question: the published format, one sequence, up to 8192 tokens; 30 s of music."""
    weights = "stored" if architecture.quantisation is not None else architecture.dtype or "bf16"
    if architecture.music is not None:
        return Request(
            weights="fp32" if architecture.dtype is None else weights,
            duration_seconds=architecture.music.trained_seconds,
        )
    context = min(architecture.shapes.max_context or 8192, 8192)
    return Request(weights=weights, context=context)

"""Whether a model fits this machine, and from which figures. Plain arithmetic over a row and a reading.

A figure measured here counts most, then the memory calculator's, then the one of the model's list entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.conf import settings

from gated_configs.memory import MAX_DURATION_SECONDS, MemoryEstimate, Request, estimate
from gated_configs.wording import gigabytes, spoken_seconds
from registry.described import described
from registry.hardware import GB, Hardware
from registry.models import ModelConfig
from registry.number_formats import format_on_processor, size_of

#: A model that needs more of the available memory than this fits only barely.
COMFORTABLE_SHARE: Final = 0.8

MEASURED: Final = "measured"
COMPUTED: Final = "computed"
LISTED: Final = "listed"

#: The runner's dtypes as the calculator names them.
_FORMATS: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "int8": "bf16", "int4": "bf16"}
#: Bytes of one weight of the decoder's layers where these are not in the format of the rest: in 4 bits each group of 32
#: has two numbers of 16 bits beside it.
_LAYER_BYTES: Final = {"int8": 1.0, "int4": 0.5 + 4 / 32}


def dtype_of(model: ModelConfig, device: str) -> str:
    """The dtype in which a runner holds the model on a device, by the same rules as the runner's own."""
    if settings.STUDIO.dtype != "auto":
        return str(settings.STUDIO.dtype)
    if device == "cuda":
        return "bfloat16"
    architecture = described(model.architecture)
    if device != "cpu" or architecture is None:
        return "float32"
    shapes = architecture.shapes
    size = size_of(layers=shapes.layers, hidden=shapes.hidden, intermediate=shapes.intermediate)
    return format_on_processor(size, settings.STUDIO.engine_folder)


@dataclass(frozen=True)
class Need:
    """Bytes that a model needs, where the figure is from (MEASURED, COMPUTED or LISTED), and that in words."""

    needed_bytes: int
    source: str
    words: str


@dataclass(frozen=True)
class Fit:
    """`verdict` is "comfortable", "barely" or "not". Available is what is free once our own runners have ended."""

    verdict: str
    need: Need
    available_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Bytes that the model needs."""
        return self.need.needed_bytes

    @property
    def is_measured(self) -> bool:
        """Whether that was measured on this machine."""
        return self.need.source == MEASURED

    @property
    def sentence(self) -> str:
        """The verdict with its figures."""
        figures = (
            f"needs {gigabytes(self.needed_bytes)} ({self.need.words}),"
            f" {gigabytes(self.available_bytes)} available"
        )
        return {
            "comfortable": f"Fits: {figures}.",
            "barely": f"Fits barely: {figures}.",
            "not": f"Does not fit: {figures}.",
        }[self.verdict]

    @property
    def percent(self) -> float:
        """Needed of available, 0 to 100, for the fit meter."""
        return min(100.0, 100 * self.needed_bytes / self.available_bytes) if self.available_bytes else 100.0


def longest_take_estimate(model: ModelConfig, device: str) -> MemoryEstimate | None:
    """Memory of one take of the longest duration, with guidance; None for a model that nothing is known of.

    A longer one is made and decoded window by window, so that it needs no more.
    """
    architecture = described(model.architecture)
    if architecture is None or architecture.music is None:
        return None
    return estimate(
        architecture,
        Request(
            weights=_FORMATS[dtype_of(model, device)],
            duration_seconds=min(model.duration_limit_seconds, MAX_DURATION_SECONDS),
            device=device,
        ),
    )


def _saved_bytes(model: ModelConfig, dtype: str) -> int:
    """What the decoder's layers need less than in 16 bits, where they are held in fewer."""
    architecture = described(model.architecture)
    if architecture is None or dtype not in _LAYER_BYTES:
        return 0
    shapes = architecture.shapes
    each = 8 * shapes.hidden**2 + 2 * shapes.hidden * shapes.intermediate
    # The first layer is in 8 bits also where the others are in 4.
    return int(each * ((2 - _LAYER_BYTES["int8"]) + (shapes.layers - 1) * (2 - _LAYER_BYTES[dtype])))


def measured_as(device: str, dtype: str) -> str:
    """The name under which a row keeps what was measured so."""
    return f"{device} {dtype}"


def need_of(model: ModelConfig, device: str) -> Need:
    """What the model needs on a device."""
    measured = model.measured_bytes.get(measured_as(device, dtype_of(model, device)))
    if isinstance(measured, int) and measured > 0:
        return Need(measured, MEASURED, "measured here")
    computed = longest_take_estimate(model, device)
    if computed is not None:
        words = f"computed for {spoken_seconds(model.duration_limit_seconds)}"
        return Need(computed.total_bytes - _saved_bytes(model, dtype_of(model, device)), COMPUTED, words)
    return Need(int(model.vram_requirement_gb * GB), LISTED, "by its list entry")


def needed_bytes(model: ModelConfig, device: str) -> tuple[int, bool]:
    """Bytes the model needs on a device, and whether that was measured on this machine."""
    need = need_of(model, device)
    return need.needed_bytes, need.source == MEASURED


def fit_of(model: ModelConfig, hardware: Hardware, *, held_bytes: int = 0) -> Fit:
    """The verdict for a model on a machine where our runners hold `held_bytes` that they can give back."""
    need = need_of(model, hardware.device)
    available = min(hardware.total_bytes, hardware.free_bytes + held_bytes)
    share = need.needed_bytes / available if available else float("inf")
    verdict = "comfortable" if share <= COMFORTABLE_SHARE else "barely" if share <= 1 else "not"
    return Fit(verdict, need, available)

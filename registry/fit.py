"""Whether a model fits this machine, and from which figures. Plain arithmetic over a row and a reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gated_configs.wording import gigabytes
from registry.hardware import GB, Hardware
from registry.models import ModelConfig

#: A model that needs more of the available memory than this fits only barely.
COMFORTABLE_SHARE: Final = 0.8


@dataclass(frozen=True)
class Fit:
    """`verdict` is "comfortable", "barely" or "not". Available is what is free once our own runners have ended."""

    verdict: str
    needed_bytes: int
    available_bytes: int
    is_measured: bool

    @property
    def sentence(self) -> str:
        """The verdict with its figures."""
        source = "measured here" if self.is_measured else "by its list entry"
        figures = (
            f"needs {gigabytes(self.needed_bytes)} ({source}), {gigabytes(self.available_bytes)} available"
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


def needed_bytes(model: ModelConfig, device: str) -> tuple[int, bool]:
    """Bytes the model needs on a device, and whether that was measured on this machine."""
    measured = model.measured_bytes.get(device)
    if isinstance(measured, int) and measured > 0:
        return measured, True
    return int(model.vram_requirement_gb * GB), False


def fit_of(model: ModelConfig, hardware: Hardware, *, held_bytes: int = 0) -> Fit:
    """The verdict for a model on a machine where our runners hold `held_bytes` that they can give back."""
    needed, is_measured = needed_bytes(model, hardware.device)
    available = min(hardware.total_bytes, hardware.free_bytes + held_bytes)
    share = needed / available if available else float("inf")
    verdict = "comfortable" if share <= COMFORTABLE_SHARE else "barely" if share <= 1 else "not"
    return Fit(verdict, needed, available, is_measured)

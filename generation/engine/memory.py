"""What the engine asks of memory: whether it ran out, how much is held, and giving the unused back."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path

import psutil
import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, of the device or of the machine, ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU's allocator and Apple's raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "out of memory")
    )


def held_memory_bytes(device: torch.device) -> int:
    """Bytes held on the device; on a CPU the resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    resident: int = psutil.Process().memory_info().rss
    return resident


def free_memory_bytes(device: torch.device) -> int:
    """Bytes that are free on the device; on a CPU, and where memory is shared with it, what the machine can give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available: int = psutil.virtual_memory().available
    return available


def forget_peak() -> None:
    """Count this process's peak of resident memory anew, where the system can: while weights are converted the pages of
    their file count too, which nobody needs.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def release_unused_memory(device: torch.device) -> None:
    """Hand memory that torch keeps for its next allocation back to the device, for others to use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def release_all_unused_memory(device: torch.device) -> None:
    """The same after a failure, whose exception may have left tensors in reference cycles."""
    gc.collect()
    release_unused_memory(device)

"""The format in which a processor holds a decoder's weights when nobody asked for one.

Told alike by the web process, which counts memory, and by the runner. Imports neither Django nor torch.
"""

from __future__ import annotations

import json
import platform
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

#: Instructions that multiply bfloat16: x86's names, and Arm's.
_INSTRUCTIONS: Final = {"avx512_bf16", "amx_bf16", "bf16"}
#: Decoders of two sizes: what memory has to bring, and what a processor's caches hold. Still smaller ones are for tests.
Size = Literal["large", "small"]
_LARGE_PARAMETERS: Final = 20_000_000
_SMALL_PARAMETERS: Final = 1_000_000
#: Where bfloat16 saves less of the time than this, float32 is kept: it is the more exact one.
_WORTH_SHARE: Final = 0.9
#: A file of measurements has one line; a longer one is none.
_LONGEST_BYTES: Final = 4096


def format_on_processor(size: Size | None, kept: Path | None) -> Literal["bfloat16", "float32"]:
    """For a decoder of that size.

    A step reads every weight once, so half the bytes are nearly half the time, where the processor can multiply them. That
    is what the engine measured and left in `kept`; where it did not yet, a large one goes by what the processor says.
    """
    if size is None:
        return "float32"
    share = None if kept is None else kept_share(kept, size)
    if share is None:
        return "bfloat16" if size == "large" and multiplies_bfloat16() else "float32"
    return "bfloat16" if share <= _WORTH_SHARE else "float32"


def size_of(*, layers: int, hidden: int, intermediate: int) -> Size | None:
    """The size of a decoder of so many layers, of that width and that width inside; None where only float32 is worth it."""
    parameters = layers * (8 * hidden**2 + 2 * hidden * intermediate)
    if parameters >= _LARGE_PARAMETERS:
        return "large"
    return "small" if parameters >= _SMALL_PARAMETERS else None


def measurement_of(size: Size, kept: Path) -> Path:
    """The file in which the engine keeps what it measured for decoders of that size."""
    return kept / f"{size}.json"


def kept_share(kept: Path, size: Size, kernels: str | None = None) -> float | None:
    """Time of bfloat16 divided by that of float32, as it was measured with this processor and this torch; else None.

    With `kernels`, the name of the compiled ones or empty for torch's, only what was measured with those counts.
    """
    try:
        with measurement_of(size, kept).open("rb") as file:
            found = json.loads(file.read(_LONGEST_BYTES))
        share = found["bfloat16_time"] if found["measured_on"] == this_machine() else None
        is_of_these = kernels is None or found["kernels"] == kernels
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not is_of_these or not isinstance(share, float | int) or isinstance(share, bool):
        return None
    return float(share) if 0 < share < float("inf") else None


@cache
def this_machine() -> str:
    """Stands for this processor and the torch that is installed: with another one it is measured anew."""
    said = [f"{name}: {_processor().get(name, '')}" for name in ("model name", "CPU part", *_FLAGS)]
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    return sha256("\n".join([platform.machine(), torch, *said]).encode()).hexdigest()[:16]


@cache
def multiplies_bfloat16() -> bool:
    """Whether this processor says that it can. Where nothing is said, it cannot."""
    flags = " ".join(_processor().get(name, "") for name in _FLAGS)
    return bool(_INSTRUCTIONS & set(flags.split()))


#: Under which names the kernel lists what a processor can do: x86's, and Arm's.
_FLAGS: Final = ("flags", "Features")


def _processor() -> dict[str, str]:
    """What the kernel says of the first processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): said.strip() for name, _, said in pairs}

"""The format in which a processor holds a decoder's weights when nobody asked for one.

Told alike by the web process, which counts memory, and by the runner. Imports neither Django nor torch.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Literal

#: Instructions that multiply bfloat16: x86's names, and Arm's.
_INSTRUCTIONS: Final = {"avx512_bf16", "amx_bf16", "bf16"}
#: Smaller decoders stay in a processor's caches, where the shorter format saves nothing and costs conversions.
_WORTH_PARAMETERS: Final = 20_000_000


def format_on_processor(*, layers: int, hidden: int, intermediate: int) -> Literal["bfloat16", "float32"]:
    """For a decoder of so many layers, of that width and that width inside.

    A step reads every weight once, so half the bytes are nearly half the time.
    """
    parameters = layers * (8 * hidden**2 + 2 * hidden * intermediate)
    return "bfloat16" if parameters >= _WORTH_PARAMETERS and multiplies_bfloat16() else "float32"


@cache
def multiplies_bfloat16() -> bool:
    """Whether this processor says that it can. Where nothing is said, it cannot."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return bool(_INSTRUCTIONS & set(flags.partition(":")[2].split()))

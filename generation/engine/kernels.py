"""kernels.c, compiled by this machine's C compiler when a model is first loaded, kept, and tried before it is used.

Where there is no compiler, or what it made does not answer what torch does, the engine goes by torch's own products.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from registry.number_formats import this_machine

_SOURCE: Final = Path(__file__).with_name("kernels.c")
_COMPILERS: Final = ("cc", "gcc", "clang")
#: torch brings libgomp along under the name by which the system's would be asked for: both share one set of threads.
_FLAGS: Final = ("-std=gnu11", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
_COMPILE_SECONDS: Final = 60
_NAMES: Final = {torch.float32: "attend_float32", torch.bfloat16: "attend_bfloat16"}
#: Largest difference from torch's answer in a trial whose numbers are around 1.
_TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class CompiledAttention:
    """Attention of one query for each row and head. `name` stands for the text, the flags and the processor."""

    def __init__(self, library: Path, name: str) -> None:
        self.name = name
        loaded = ctypes.CDLL(str(library))
        self._functions: dict[torch.dtype, Any] = {}
        for dtype, function in _NAMES.items():
            attend = getattr(loaded, function)
            attend.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 4
            attend.restype = ctypes.c_int
            self._functions[dtype] = attend

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, steps: int, heard: Tensor) -> bool:
        """Write into `heard` what `query` finds in the first `steps` of `keys` and `values`; False where it cannot.

        `query` and `heard` are [R, heads, 1, size], scaled already, `keys` and `values` [R, heads, capacity, size]; all
        contiguous.
        """
        function = self._functions.get(query.dtype)
        rows, heads, capacity, size = keys.shape
        if function is None or not 0 < steps <= capacity:
            return False
        addresses = (each.data_ptr() for each in (query, keys, values, heard))
        return bool(function(*addresses, rows * heads, capacity, steps, size))


def compiled_attention(folder: Path) -> CompiledAttention | None:
    """The kernel for this processor, made in `folder` if it is not there; None where that is not possible."""
    text = _SOURCE.read_bytes()
    name = sha256(b"\0".join([text, " ".join(_FLAGS).encode(), this_machine().encode()])).hexdigest()[:12]
    library = folder / f"attention-{name}.so"
    try:
        if not library.exists():
            _compile(library)
        attention = CompiledAttention(library, name)
    except (OSError, AttributeError, subprocess.SubprocessError):
        return None
    return attention if _answers_as_torch(attention) else None


def _compile(library: Path) -> None:
    """Raises OSError or SubprocessError."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise FileNotFoundError(f"none of {', '.join(_COMPILERS)}")
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = library.with_suffix(f".{os.getpid()}")  # another runner may do the same
    try:
        subprocess.run(
            [compiler, *_FLAGS, str(_SOURCE), "-o", str(partial)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMPILE_SECONDS,
            check=True,
        )
        partial.replace(library)
    finally:
        partial.unlink(missing_ok=True)


@torch.inference_mode()
def _answers_as_torch(attention: CompiledAttention) -> bool:
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(2, 3, steps, 64, generator=generator) for steps in (1, 40, 40))
    for dtype, tolerance in _TOLERANCE.items():
        asked, known, told = (each.to(dtype) for each in (query / 8, keys, values))
        wanted = (asked.float() @ known.float().transpose(2, 3)[..., :37]).softmax(-1) @ told.float()[
            :, :, :37
        ]
        heard = torch.empty_like(asked)
        if not attention(asked, known, told, 37, heard):
            return False
        if not torch.allclose(heard.float(), wanted, rtol=tolerance, atol=tolerance):
            return False
    return True

"""The C of compiled_kernels/, compiled by this machine's compiler when a model is first loaded, kept, and tried before use.

Where there is no compiler, or what it made does not answer what torch does, the engine goes by torch's own operators.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import linear

from generation.engine.blocks import LANES, Held, int4_blocks, int8_blocks, pairs
from generation.engine.sampling import Sampling, choose, guided
from registry.number_formats import this_machine

_SOURCES: Final = Path(__file__).with_name("compiled_kernels")
_MAIN: Final = "step.c"
_COMPILERS: Final = ("cc", "gcc", "clang")
#: torch brings libgomp along under the name by which the system's would be asked for: both share one set of threads.
_FLAGS: Final = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
_COMPILE_SECONDS: Final = 60
_TOLD_BYTES: Final = 2000
_ATTENTION: Final = {torch.float32: "attend_float32", torch.bfloat16: "attend_bfloat16"}
#: Largest difference from torch's answer in a trial whose numbers are around 1.
_TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class NoKernels(Exception):
    """There are none here, for the reason that `str()` says to people; `detail` is technical text."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.detail = detail
        super().__init__(reason)


class Kernels:
    """The functions of one library. `name` stands for the text, the flags and the processor."""

    def __init__(self, library: Path, name: str) -> None:
        self.name = name
        loaded = ctypes.CDLL(str(library))
        self._attend = {dtype: getattr(loaded, function) for dtype, function in _ATTENTION.items()}
        for function in self._attend.values():
            function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 4
            function.restype = ctypes.c_int
        self._multiply = loaded.multiply_rows
        self._multiply.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int64,
            *[ctypes.c_void_p] * 2,
            *[ctypes.c_int64] * 3,
        ]
        self._multiply.restype = None
        #: A step of the whole decoder: `compiled.CompiledStep` calls it.
        self.decode = loaded.decode_bfloat16
        self.decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
        self.decode.restype = ctypes.c_int
        self._choose = loaded.choose_tokens
        pointer, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        self._choose.argtypes = [pointer, *[whole] * 3, number, number, whole, *[pointer] * 3]
        self._choose.restype = ctypes.c_int

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, steps: int, heard: Tensor) -> bool:
        """Write into `heard` what `query` finds in the first `steps` of `keys` and `values`; False where it cannot.

        `query` and `heard` are [R, heads, 1, size], scaled already, `keys` and `values` [R, heads, capacity, size]; all
        contiguous.
        """
        function = self._attend.get(query.dtype)
        rows, heads, capacity, size = keys.shape
        if function is None or not 0 < steps <= capacity:
            return False
        addresses = (each.data_ptr() for each in (query, keys, values, heard))
        return bool(function(*addresses, rows * heads, capacity, steps, size))

    def multiply(self, rows: Tensor, blocks: Tensor, held: Held, out: int) -> Tensor:
        """Rows [N, in] in bfloat16 times a weight of so many outputs as blocks.py laid it, [N, out]."""
        rows, (count, width) = rows.contiguous(), rows.shape
        results = rows.new_empty((count, out))
        self._multiply(blocks.data_ptr(), held, rows.data_ptr(), results.data_ptr(), count, width, out)
        return results

    def choose(
        self, logits: Tensor, guidance_scale: float, sampling: Sampling, generator: torch.Generator
    ) -> Tensor | None:
        """Tokens [K] drawn as `sampling.choose` does from logits [R, K, V]; None where a logit is not a number.

        The random numbers are those that `torch.multinomial` makes its own of, so that a seed means the same.
        """
        logits = logits.contiguous()
        rows, books, vocabulary = logits.shape
        random = torch.empty(books, vocabulary, dtype=torch.float64).uniform_(generator=generator)
        room, tokens = torch.empty(vocabulary), torch.empty(books, dtype=torch.long)
        is_finite = self._choose(
            logits.data_ptr(),
            rows,
            books,
            vocabulary,
            guidance_scale,
            sampling.temperature,
            sampling.top_k,
            random.data_ptr(),
            room.data_ptr(),
            tokens.data_ptr(),
        )
        return tokens if is_finite else None


def can_choose(sampling: Sampling, vocabulary: int) -> bool:
    """Whether `Kernels.choose` is made for that: not for top-p, which needs an order of all tokens."""
    has_top_p = 0.0 < sampling.top_p < 1.0
    return vocabulary % LANES == 0 and not sampling.greedy and not has_top_p


def compiled_kernels(folder: Path) -> Kernels:
    """The kernels for this processor, made in `folder` if they are not there. Raises NoKernels."""
    texts = [path.read_bytes() for path in sorted(_SOURCES.glob("*.[ch]"))]
    name = sha256(b"\0".join([*texts, " ".join(_FLAGS).encode(), this_machine().encode()])).hexdigest()[:12]
    library = folder / f"kernels-{name}.so"
    try:
        if not _is_whole(library):
            _compile(library)
        kernels = Kernels(library, name)
    except (OSError, AttributeError, subprocess.SubprocessError) as problem:
        reason = "The C compiler here cannot compile the engine's kernels: the studio's log says why."
        raise NoKernels(reason, _told(problem)) from problem
    if not all(trial(kernels) for trial in (_attends_as_torch, _multiplies_as_torch, _chooses_as_torch)):
        raise NoKernels(
            "What the C compiler here makes of the engine's kernels computes wrongly: install another one."
        )
    return kernels


def _told(problem: Exception) -> str:
    """The problem with the last of what the compiler wrote."""
    written = getattr(problem, "stderr", None) or b""
    return f"{problem} {written[-_TOLD_BYTES:].decode(errors='replace')}".strip()


def _is_whole(library: Path) -> bool:
    """Whether it is there as it was compiled. One cut off by a full disk would end the process that opens it."""
    try:
        return _digest(library) == library.with_suffix(".sha256").read_text("ascii")
    except (OSError, UnicodeError):
        return False


def _digest(library: Path) -> str:
    return sha256(library.read_bytes()).hexdigest()


def _compile(library: Path) -> None:
    """Raises NoKernels, OSError or SubprocessError."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise NoKernels("No C compiler is installed here: install gcc or clang.")
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = library.with_suffix(f".{os.getpid()}")  # another runner may do the same
    try:
        subprocess.run(
            [compiler, *_FLAGS, str(_SOURCES / _MAIN), "-o", str(partial)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMPILE_SECONDS,
            check=True,
        )
        digest = _digest(partial)
        partial.replace(library)
        library.with_suffix(".sha256").write_text(digest, "ascii")
    finally:
        partial.unlink(missing_ok=True)


@torch.inference_mode()
def _attends_as_torch(kernels: Kernels) -> bool:
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(2, 3, steps, 64, generator=generator) for steps in (1, 40, 40))
    for dtype in _ATTENTION:
        asked, known, told = (each.to(dtype) for each in (query / 8, keys, values))
        shares = (asked.float() @ known.float().transpose(2, 3)[..., :37]).softmax(-1)
        heard = torch.empty_like(asked)
        if not kernels.attend(asked, known, told, 37, heard):
            return False
        if not _is_near(heard, shares @ told.float()[:, :, :37], dtype):
            return False
    return True


@torch.inference_mode()
def _multiplies_as_torch(kernels: Kernels) -> bool:
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(count, 64, generator=generator).bfloat16() / 8 for count in (15, 48))
    whole = torch.randint(-127, 128, (48, 64), generator=generator)
    small = torch.randint(16, (48, 64), generator=generator)
    scales, offsets = (torch.rand(2, 48, 2, generator=generator) / 64).bfloat16()
    trials = (
        (Held.PAIRS, pairs(weight), weight.float()),
        (Held.INT8, int8_blocks(whole, scales[:, 0]), whole * scales[:, :1].float()),
        (
            Held.INT4,
            int4_blocks(small, scales, offsets),
            ((small - 8).view(48, 2, -1) * scales[..., None].float() + offsets[..., None].float()).flatten(1),
        ),
    )
    return all(
        _is_near(kernels.multiply(rows, blocks, held, 48), linear(rows.float(), wanted), torch.bfloat16)
        for held, blocks, wanted in trials
    )


@torch.inference_mode()
def _chooses_as_torch(kernels: Kernels) -> bool:
    logits = 3 * torch.randn(2, 64, 256, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(top_k=100)
    wanted, found = (torch.Generator().manual_seed(1) for _ in range(2))
    tokens = kernels.choose(logits, 1.5, sampling, found)
    return tokens is not None and torch.equal(tokens, choose(guided(logits, 1.5), sampling, wanted))


def _is_near(result: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    return torch.allclose(result.float(), wanted, rtol=_TOLERANCE[dtype], atol=_TOLERANCE[dtype])

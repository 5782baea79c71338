"""How many bytes a format takes, scales and zero points included. Plain arithmetic over shapes.

Knows nothing of models; torch and transformers are never imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Format:
    """A number format: `bits` per element, and `overhead_bytes` for each group of `group` elements of a row.

    `group` 0 is one group a row. A row always starts a new byte and a new group.
    """

    name: str
    bits: int
    group: int = 0
    overhead_bytes: float = 0.0
    description: str = ""

    @property
    def is_quantised(self) -> bool:
        """Whether a quantiser would leave embeddings, norms and heads out of it."""
        return self.overhead_bytes > 0

    def row_bytes(self, elements: int) -> float:
        """Bytes of one row of `elements`."""
        groups = -(-elements // self.group) if self.group else 1
        return -(-elements * self.bits // 8) + groups * self.overhead_bytes

    def bytes_of(self, rows: int, columns: int) -> int:
        """Bytes of a matrix stored row by row, rounded up to a whole byte."""
        return -int(-rows * self.row_bytes(columns) // 1)

    @property
    def bits_per_element(self) -> float:
        """Bits per element of a long row, overhead included; shown to people, never used in sums."""
        return self.bits + (8 * self.overhead_bytes / self.group if self.group else 0)


#: Formats of weights. Sources: torch's dtypes; bitsandbytes (`Linear8bitLt` keeps one fp32 per row; NF4 has one
#: fp32 per 64, with double quantisation one byte per 64 and one fp32 per 256 of those); GPTQ and AWQ (per group
#: of 128 one fp16 scale and one packed zero of 4 bits); OCP Microscaling v1.0 (MXFP4: one byte per 32); NVFP4 (one
#: fp8 scale per 16); llama.cpp's ggml-common.h (Q8_0: 34 bytes per 32; Q4_0: 18 bytes per 32; Q4_K: 144 per 256).
WEIGHT_FORMATS: Final[dict[str, Format]] = {
    item.name: item
    for item in (
        Format("fp32", 32, description="float32"),
        Format("bf16", 16, description="bfloat16"),
        Format("fp16", 16, description="float16"),
        Format("fp8", 8, group=0, overhead_bytes=4, description="float8, one float32 scale a row"),
        Format("int8", 8, group=0, overhead_bytes=4, description="8-bit integers, one float32 scale a row"),
        Format("q8_0", 8, group=32, overhead_bytes=2, description="GGUF Q8_0: a float16 scale per 32"),
        Format("int4", 4, group=128, overhead_bytes=2.5, description="GPTQ or AWQ: scale and zero per 128"),
        Format("nf4", 4, group=64, overhead_bytes=1 + 4 / 256, description="NF4, double quantised, per 64"),
        Format("fp4", 4, group=64, overhead_bytes=4, description="4-bit float, a float32 scale per 64"),
        Format("mxfp4", 4, group=32, overhead_bytes=1, description="MXFP4: a shared exponent per 32"),
        Format("nvfp4", 4, group=16, overhead_bytes=1, description="NVFP4: a float8 scale per 16"),
        Format("q4_0", 4, group=32, overhead_bytes=2, description="GGUF Q4_0: a float16 scale per 32"),
        Format("q4_k", 4, group=256, overhead_bytes=16, description="GGUF Q4_K: 16 bytes per 256"),
    )
}

#: Formats of caches. int8, int4 and int2 as transformers' QuantizedCache keeps them: per 64 elements a scale and a
#: zero point in float16. fp8 as vLLM keeps it: one scale for the whole layer, left out.
CACHE_FORMATS: Final[dict[str, Format]] = {
    item.name: item
    for item in (
        Format("fp32", 32, description="float32"),
        Format("bf16", 16, description="bfloat16"),
        Format("fp16", 16, description="float16"),
        Format("fp8", 8, description="float8"),
        Format("int8", 8, group=64, overhead_bytes=4, description="8 bits, scale and zero per 64"),
        Format("int4", 4, group=64, overhead_bytes=4, description="4 bits, scale and zero per 64"),
        Format("int2", 2, group=64, overhead_bytes=4, description="2 bits, scale and zero per 64"),
    )
}

#: Formats that activations are computed in, in bytes per element.
ACTIVATION_FORMATS: Final[dict[str, int]] = {"fp32": 4, "bf16": 2, "fp16": 2}

_ALIASES: Final = {
    "float32": "fp32",
    "float": "fp32",
    "f32": "fp32",
    "32": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "f16": "fp16",
    "16": "bf16",
    "bfloat16": "bf16",
    "float8": "fp8",
    "fp8_e4m3": "fp8",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
    "8bit": "int8",
    "8-bit": "int8",
    "8": "int8",
    "q8": "int8",
    "4bit": "int4",
    "4-bit": "int4",
    "4": "int4",
    "gptq": "int4",
    "awq": "int4",
    "q4": "int4",
    "q4_k_m": "q4_k",
}


def format_name(text: str, formats: dict[str, Format] | dict[str, int]) -> str:
    """The name under which a format is known here. Raises ValueError naming the known ones."""
    name = text.strip().lower().removeprefix("torch.")
    name = _ALIASES.get(name, name)
    if name not in formats:
        raise ValueError(f"{text!r} is no known format; known are {', '.join(formats)}.")
    return name


def declared_format(dtype: object) -> str | None:
    """The weight format that a config's `torch_dtype` names, or None."""
    if not isinstance(dtype, str):
        return None
    try:
        return format_name(dtype, WEIGHT_FORMATS)
    except ValueError:
        return None

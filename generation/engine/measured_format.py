"""How quick this machine multiplies bfloat16 beside float32: measured once, before a model is first loaded, and kept.

Kept, so that a restart chooses as before and a take can be made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from generation.engine.kernels import Kernels
from generation.engine.packed import packing
from registry.number_formats import MEASUREMENTS, kept_share, this_machine

#: Rows of one take with guidance, as the step loop hands them to a layer.
_ROWS: Final = 4
#: Layers of one size of musicgen-small's feed-forward: together larger than caches, as a decoder is.
_LAYERS: Final = 8
_SHAPE: Final = (4096, 1024)
#: The best of so many counts, so that a neighbour's moment of work does not choose.
_TRIES: Final = 5


def measure_once(kept: Path, kernels: Kernels | None) -> None:
    """Measure, unless that was done with this processor and this torch: half a second and 200 MB.

    A folder `kept` that cannot be written to is no error: the choice is then by what the processor says.
    """
    if kept_share(kept) is not None:
        return
    text = json.dumps({"measured_on": this_machine(), "bfloat16_time": round(measured_share(kernels), 3)})
    partial = kept / f"{MEASUREMENTS}.{os.getpid()}"
    try:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(kept / MEASUREMENTS)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@torch.inference_mode()
def measured_share(kernels: Kernels | None) -> float:
    """Time of products with bfloat16 weights divided by that with float32 ones, tried in turns."""
    best: dict[torch.dtype, float] = {}
    layers = {dtype: _layers(dtype, kernels) for dtype in (torch.float32, torch.bfloat16)}
    rows = torch.ones(_ROWS, _SHAPE[1])
    for _ in range(_TRIES):
        for dtype, held in layers.items():
            took = _seconds(held, rows.to(dtype))
            best[dtype] = min(took, best.get(dtype, took))
    return best[torch.bfloat16] / best[torch.float32]


def _layers(dtype: torch.dtype, kernels: Kernels | None) -> list[nn.Linear]:
    made = []
    for _ in range(_LAYERS):
        plain = nn.Linear(_SHAPE[1], _SHAPE[0], bias=False, device="meta")
        plain.weight = nn.Parameter(torch.full(_SHAPE, 0.01, dtype=dtype), requires_grad=False)
        pack = packing(plain, kernels)
        made.append(plain if pack is None else pack(plain))
    return made


def _seconds(layers: Sequence[nn.Linear], rows: Tensor) -> float:
    began = time.perf_counter()
    for layer in layers:
        layer(rows)
    return time.perf_counter() - began

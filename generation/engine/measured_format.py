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
from registry.number_formats import Size, kept_share, measurement_of, this_machine

#: Rows of one take with guidance, as the step loop hands them to a layer.
_ROWS: Final = 4
#: Layers of the feed-forward of musicgen-small, together larger than caches as a decoder is, and of the demo: how many, and
#: the shape of each.
_LAYERS: Final[dict[Size, tuple[int, tuple[int, int]]]] = {
    "large": (8, (4096, 1024)),
    "small": (12, (1024, 256)),
}
#: The best of so many counts, so that a neighbour's moment of work does not choose.
_TRIES: Final = 5


def measure_once(size: Size, kept: Path, kernels: Kernels | None) -> None:
    """Measure, unless that was done with this processor, this torch and these kernels: for a large decoder half a second and
    200 MB.

    A folder `kept` that cannot be written to is no error: the choice is then by what the processor says.
    """
    name = kernels.name if kernels else ""
    if kept_share(kept, size, name) is not None:
        return
    share = round(measured_share(size, kernels), 3)
    path = measurement_of(size, kept)
    text = json.dumps({"measured_on": this_machine(), "kernels": name, "bfloat16_time": share})
    partial = path.with_suffix(f".{os.getpid()}")  # another runner may do the same
    try:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@torch.inference_mode()
def measured_share(size: Size, kernels: Kernels | None) -> float:
    """Time of products with bfloat16 weights divided by that with float32 ones, tried in turns, as that size is run."""
    best: dict[torch.dtype, float] = {}
    layers = {dtype: _layers(dtype, size, kernels) for dtype in (torch.float32, torch.bfloat16)}
    rows = torch.ones(_ROWS, layers[torch.float32][0].in_features)
    threads = torch.get_num_threads()
    if size == "small":
        torch.set_num_threads(1)
    try:
        for _ in range(_TRIES):
            for dtype, held in layers.items():
                took = _seconds(held, rows.to(dtype))
                best[dtype] = min(took, best.get(dtype, took))
    finally:
        torch.set_num_threads(threads)
    return best[torch.bfloat16] / best[torch.float32]


def _layers(dtype: torch.dtype, size: Size, kernels: Kernels | None) -> list[nn.Linear]:
    count, shape = _LAYERS[size]
    made = []
    for _ in range(count):
        plain = nn.Linear(shape[1], shape[0], bias=False, device="meta")
        plain.weight = nn.Parameter(torch.full(shape, 0.01, dtype=dtype), requires_grad=False)
        pack = packing(plain, kernels, is_large=size == "large")
        made.append(plain if pack is None else pack(plain))
    return made


def _seconds(layers: Sequence[nn.Linear], rows: Tensor) -> float:
    began = time.perf_counter()
    for layer in layers:
        layer(rows)
    return time.perf_counter() - began

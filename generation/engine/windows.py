"""How a take longer than a model's window is made: in windows that overlap, each begun with what was made before it.

Plain arithmetic on frames; knows no model. Source: `extend_stride` of audiocraft's MusicGen.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Frames `first` to `first + frames` of a take, of which the first `known` are there when it begins."""

    first: int
    known: int
    frames: int


def windows(frames: int, *, longest: int | None, stride: int, begun: int = 0) -> list[Window]:
    """The windows of a take of `frames`: one where they fit in `longest`, else each `stride` after the one before.

    `longest` is None where there is no bound; then, and for a take that fits, `stride` is not looked at. The first
    `begun` frames are there. Raises ValueError unless a stride is at least 1 and leaves room for them in the first
    window: each further one begins with frames of the one before.
    """
    if longest is None or frames <= longest:
        return [Window(first=0, known=begun, frames=frames)]
    if not 0 < stride < longest or begun > longest - stride:
        raise ValueError(
            f"no windows of {longest} frames every {stride} for a take of which {begun} are there"
        )
    firsts = range(0, frames - longest + stride, stride)
    return [
        Window(first=first, known=longest - stride if first else begun, frames=min(longest, frames - first))
        for first in firsts
    ]

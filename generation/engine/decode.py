"""The step loop: one step of the decoder predicts one token of each codebook, of every take in hand.

Takes join and leave at any step. Each is the same to the bit whatever is made beside it: it has its own random
numbers and attention, and where this machine's kernels would mix rows, it is made alone. `generate` of transformers is
the oracle in tests. Knows nothing of files, processes or the codec.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from generation.engine.checkpoint import LoadedModel
from generation.engine.delay import DelayPattern
from generation.engine.errors import EngineError
from generation.engine.kernels import can_choose
from generation.engine.network import DecoderStep
from generation.engine.prompt import Conditioning
from generation.engine.protocol import NON_FINITE
from generation.engine.sampling import Sampling, choose, guided
from generation.engine.windows import Window, windows

#: Between two steps a take reads for about so long, or a part where that takes longer.
READING_SECONDS: Final = 0.03


@dataclass(frozen=True, kw_only=True)
class CodesRequest:
    """Everything that decides the codes of one take, beside the model."""

    conditioning: Conditioning
    frames: int
    seed: int
    sampling: Sampling
    window: int | None = None  # frames that are made in one piece at most; None for no bound
    stride: int = 0  # frames by which one window lies behind the next
    beginning: Tensor | None = None  # codes [K, T] that the take begins with; `frames` counts them

    @property
    def rows(self) -> int:
        """Rows of a step: two with guidance."""
        return self.conditioning.rows

    @property
    def longest_window(self) -> int:
        """Frames that the decoder looks at together at most."""
        return min(self.frames, self.window or self.frames)


class TakeInHand:
    """One take while it is made, window by window. `error` is set when it cannot go on."""

    def __init__(
        self, request: CodesRequest, pattern: DelayPattern, model: LoadedModel, step: DecoderStep
    ) -> None:
        self.request, self.pattern = request, pattern
        self.error: Exception | None = None
        made = request.beginning
        if made is None:
            made = torch.empty(pattern.codebooks, 0, dtype=torch.long)
        self._ahead = deque(
            windows(request.frames, longest=request.window, stride=request.stride, begun=made.shape[1])
        )
        self.memory = step.begin(request.conditioning.states_at(0), pattern.steps_for(request.longest_window))
        self._pad_token, self._kernels = model.pad_token, model.kernels
        self._generator = torch.Generator().manual_seed(request.seed)
        self._reading: Iterator[None] | None = None
        self._enter(self._ahead.popleft(), made, step)

    def _enter(self, window: Window, made: Tensor, step: DecoderStep) -> None:
        """Begin a window of the take, given the codes [K, t] made before: its first frames are their last ones.

        The decoder has to read those, of this take alone: no company can change a bit of it.
        """
        self._window, self._made = window, made
        codes = torch.full((self.pattern.codebooks, window.frames), self._pad_token)
        codes[:, : window.known] = made[:, window.first :]
        self._ids = self.pattern.apply(codes, self._pad_token)  # [K, 1 + steps]
        self._open = self.pattern.open_positions(window.frames, known=window.known)  # [K, 1 + steps]
        self.steps, self.steps_done = self.pattern.steps_for(window.frames), window.known
        if window.known or step.is_prefixed:
            states = self.request.conditioning.states_at(window.first)
            self._reading = step.reading(self._ids[:, : window.known], self.memory, states)

    def slide(self, step: DecoderStep) -> None:
        """Where a window is complete and more follow, begin the next. What fails here is the take's own `error`."""
        if self.steps_done < self.steps or not self._ahead:
            return
        try:
            self._enter(self._ahead.popleft(), self.codes(), step)
        except Exception as error:  # noqa: BLE001 - for want of memory say
            self.error = error

    @property
    def is_reading(self) -> bool:
        """Whether the decoder has not yet read all that this window begins with."""
        return self._reading is not None

    def read_on(self) -> None:
        """Let the decoder read a part of that. What fails here is the take's own `error`."""
        try:
            if self._reading is not None:
                next(self._reading)
        except StopIteration:
            self._reading = None
        except Exception as error:  # noqa: BLE001 - for want of memory say
            self.error = error

    @property
    def is_over(self) -> bool:
        """Whether all frames are complete, or none can follow."""
        return self.error is not None or (self.steps_done == self.steps and not self._ahead)

    @property
    def frames_done(self) -> int:
        """Complete frames of the whole take."""
        return self._window.first + self._complete_here

    @property
    def _complete_here(self) -> int:
        return max(self._window.known, self.pattern.complete_frames(self.steps_done))

    @property
    def newest(self) -> Tensor:
        """The tokens [K] that the next step is fed."""
        return self._ids[:, self.steps_done]

    def hear(self, logits: Tensor) -> None:
        """Draw the next tokens from logits [R, K, V] (float32, CPU)."""
        tokens = self._drawn(logits)
        if tokens is None:
            steps = self._window.first + self.steps_done
            self.error = EngineError(
                NON_FINITE,
                f"The model's output stopped being a number after {steps} steps. Use float32 or bfloat16, "
                "or a lower guidance scale; if it stays, the checkpoint is damaged.",
                f"non-finite logits at step {steps} of {self.pattern.steps_for(self.request.frames)}",
            )
            return
        self.steps_done += 1
        here = self.steps_done
        self._ids[:, here] = torch.where(self._open[:, here], tokens, self._ids[:, here])

    def _drawn(self, logits: Tensor) -> Tensor | None:
        """Tokens [K], or None where the logits are not numbers."""
        scale, sampling = self.request.conditioning.guidance_scale, self.request.sampling
        if self._kernels is not None and can_choose(sampling, logits.shape[-1]):
            return self._kernels.choose(logits, scale, sampling, self._generator)
        scores = guided(logits, scale)  # [K, V]
        return choose(scores, sampling, self._generator) if scores.isfinite().all() else None

    def codes(self) -> Tensor:
        """Codes [K, T] on the CPU, of the frames that are complete."""
        here = self.pattern.undo(self._ids, self._complete_here)
        return torch.cat([self._made[:, : self._window.first], here], dim=1)


class Batch:
    """The takes that one network makes side by side."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.takes: list[TakeInHand] = []
        self._step = DecoderStep(model)
        self._pattern = DelayPattern(codebooks=model.codebooks, channels=model.channels)

    def has_room_for(self, request: CodesRequest) -> bool:
        """Whether a take may join now: always alone, and beside others where that changes no bit of any."""
        rows = request.rows + sum(take.memory.rows for take in self.takes)
        return not self.takes or (rows <= self._step.most_rows and self._step.rows_agree())

    def bytes_for(self, request: CodesRequest) -> int:
        """Bytes that such a take will hold until it ends."""
        steps = self._pattern.steps_for(request.longest_window)
        return self._step.bytes_for(request.rows, request.conditioning.length, steps)

    @torch.inference_mode()
    def join(self, request: CodesRequest) -> TakeInHand:
        """Begin a take; its first step is the next one."""
        take = TakeInHand(request, self._pattern, self.model, self._step)
        self.takes.append(take)
        return take

    def leave(self, take: TakeInHand) -> None:
        """Go on without it. What it has made stays in its own hands."""
        self.takes.remove(take)

    @torch.inference_mode()
    def step(self) -> None:
        """One step of every take, but of those that read; those that are over have left afterwards.

        Of what they read, a part or some of one take: the others never wait for more between two steps.
        """
        for take in self.takes:
            take.slide(self._step)
        reader = next((take for take in self.takes if take.is_reading), None)
        if reader is not None:
            self._read(reader)
        going = [take for take in self.takes if not take.is_reading and not take.is_over]
        if going:
            self._draw(going)
        self.takes = [take for take in self.takes if not take.is_over]

    def _read(self, take: TakeInHand) -> None:
        enough = time.perf_counter() + READING_SECONDS
        while take.is_reading and take.error is None:
            take.read_on()
            if time.perf_counter() >= enough:
                break

    def _draw(self, takes: list[TakeInHand]) -> None:
        tokens = torch.stack([take.newest for take in takes])  # [N, K]
        logits = self._step(tokens, [take.memory for take in takes]).to("cpu", torch.float32)
        first = 0
        for take in takes:
            take.hear(logits[first : first + take.memory.rows])
            first += take.memory.rows


def generate_codes(
    model: LoadedModel,
    request: CodesRequest,
    *,
    on_progress: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> Tensor:
    """Codes [K, T] of one take made alone: all frames, or those complete once `should_stop()` is true.

    `on_progress` receives the number of complete frames after each step; `should_stop` is asked before each, and
    between the parts that a window's beginning is read in. Raises EngineError NON_FINITE when the model's output is
    not a number.
    """
    batch = Batch(model)
    take = batch.join(request)
    while not take.is_over and not should_stop():
        batch.step()
        if take.error is not None:
            raise take.error
        if not take.is_reading:
            on_progress(take.frames_done)
    return take.codes()

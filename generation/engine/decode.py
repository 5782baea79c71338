"""The step loop: one step of the decoder predicts one token of each codebook, of every take in hand.

Takes join and leave at any step. Each is the same to the bit whatever is made beside it: it has its own random
numbers and attention, and where this machine's kernels would mix rows, it is made alone. `generate` of transformers is
the oracle in tests. Knows nothing of files, processes or the codec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from generation.engine.checkpoint import LoadedModel
from generation.engine.delay import DelayPattern
from generation.engine.errors import EngineError
from generation.engine.network import MOST_ROWS, DecoderStep
from generation.engine.prompt import Conditioning
from generation.engine.protocol import NON_FINITE
from generation.engine.sampling import Sampling, choose, guided


@dataclass(frozen=True, kw_only=True)
class CodesRequest:
    """Everything that decides the codes of one take, beside the model."""

    conditioning: Conditioning
    frames: int
    seed: int
    sampling: Sampling

    @property
    def rows(self) -> int:
        """Rows of a step: two with guidance."""
        return int(self.conditioning.states.shape[0])


class TakeInHand:
    """One take while it is made. `error` is set when its output stopped being a number."""

    def __init__(
        self, request: CodesRequest, pattern: DelayPattern, pad_token: int, step: DecoderStep
    ) -> None:
        self.request, self.pattern = request, pattern
        self.error: EngineError | None = None
        self.steps = pattern.steps_for(request.frames)
        self.steps_done = 0
        self.memory = step.begin(request.conditioning.states, self.steps)
        self._pad_token = pad_token
        self._generator = torch.Generator().manual_seed(request.seed)
        self._open = pattern.open_positions(request.frames)  # [K, 1 + steps]
        self._ids = torch.full_like(self._open, pad_token, dtype=torch.long)  # [K, 1 + steps]

    @property
    def is_over(self) -> bool:
        """Whether all frames are complete, or none can follow."""
        return self.error is not None or self.steps_done == self.steps

    @property
    def frames_done(self) -> int:
        """Complete frames."""
        return self.pattern.complete_frames(self.steps_done)

    @property
    def newest(self) -> Tensor:
        """The tokens [K] that the next step is fed."""
        return self._ids[:, self.steps_done]

    def hear(self, logits: Tensor) -> None:
        """Draw the next tokens from logits [R, K, V] (float32, CPU)."""
        scores = guided(logits, self.request.conditioning.guidance_scale)  # [K, V]
        if not scores.isfinite().all():
            self.error = EngineError(
                NON_FINITE,
                f"The model's output stopped being a number after {self.steps_done} steps. Use float32 or bfloat16, "
                "or a lower guidance scale; if it stays, the checkpoint is damaged.",
                f"non-finite logits at step {self.steps_done} of {self.steps}",
            )
            return
        tokens = choose(scores, self.request.sampling, self._generator)  # [K]
        self.steps_done += 1
        open_here = self._open[:, self.steps_done]
        self._ids[:, self.steps_done] = torch.where(open_here, tokens, self._pad_token)

    def codes(self) -> Tensor:
        """Codes [K, T] on the CPU, of the frames that are complete."""
        return self.pattern.undo(self._ids, self.frames_done)


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
        return not self.takes or (rows <= MOST_ROWS and self._step.rows_agree())

    def bytes_for(self, request: CodesRequest) -> int:
        """Bytes that such a take will hold until it ends."""
        return self._step.bytes_for(request.rows, self._pattern.steps_for(request.frames))

    @torch.inference_mode()
    def join(self, request: CodesRequest) -> TakeInHand:
        """Begin a take; its first step is the next one."""
        take = TakeInHand(request, self._pattern, self.model.pad_token, self._step)
        self.takes.append(take)
        return take

    def leave(self, take: TakeInHand) -> None:
        """Go on without it. What it has made stays in its own hands."""
        self.takes.remove(take)

    @torch.inference_mode()
    def step(self) -> None:
        """One step of every take; those that are over have left afterwards."""
        tokens = torch.stack([take.newest for take in self.takes])  # [N, K]
        logits = self._step(tokens, [take.memory for take in self.takes]).to("cpu", torch.float32)
        first = 0
        for take in self.takes:
            take.hear(logits[first : first + take.memory.rows])
            first += take.memory.rows
        self.takes = [take for take in self.takes if not take.is_over]


def generate_codes(
    model: LoadedModel,
    request: CodesRequest,
    *,
    on_progress: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> Tensor:
    """Codes [K, T] of one take made alone: all frames, or those complete once `should_stop()` is true.

    `on_progress` receives the number of complete frames after each step; `should_stop` is asked before each
    step. Raises EngineError NON_FINITE when the model's output is not a number.
    """
    batch = Batch(model)
    take = batch.join(request)
    while not take.is_over and not should_stop():
        batch.step()
        if take.error is not None:
            raise take.error
        on_progress(take.frames_done)
    return take.codes()

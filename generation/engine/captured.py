"""A step of the decoder on a graphics card, captured: sent off as a whole, where Python would start each kernel by itself.

While the same takes go on side by side, each of their steps does the same with the same memory; only tokens and positions
differ, and those lie on the card, too. So the second step of a company is captured as a CUDA graph, and it and those after
it are replays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

logger = logging.getLogger(__name__)

Work = Callable[[], Tensor]
#: Goes through work without letting anything happen, and returns what lets it happen as often as it is called. What that
#: answers lies in the same memory each time.
Capture = Callable[[Work], Work]


class Memory(Protocol):
    """What is asked of a take: how many rows it has, how far it is, and how far it can go."""

    rows: int
    position: int
    capacity: int


class Places:
    """Where each take of a step is, as numbers on the card: nothing of it is known to Python while it is captured."""

    def __init__(self, positions: Tensor, memories: Sequence[Memory], table: Tensor) -> None:
        """`positions` [N] of so many takes; `table` [L, H] embeds all that there are."""
        self.positions = positions
        self.embedded = table.index_select(0, positions)  # [N, H]
        #: For each take what is added to its scores, [1, 1, 1, capacity]: nothing, or minus infinity for later steps.
        self._unseen = [
            torch.zeros(memory.capacity, dtype=table.dtype, device=positions.device)
            .masked_fill_(
                torch.arange(memory.capacity, device=positions.device) > positions[number], -torch.inf
            )
            .view(1, 1, 1, -1)
            for number, memory in enumerate(memories)
        ]

    def attend(self, number: int, query: Tensor, key: Tensor, value: Tensor, kept: Any) -> Tensor:
        """What take `number` finds, [R, heads, 1, size], once its new key and value are `kept` among the earlier ones.

        `query`, scaled already, `key` and `value` are [R, heads, 1, size].
        """
        keys, values = kept
        here = self.positions[number : number + 1]
        keys.index_copy_(2, here, key)
        values.index_copy_(2, here, value)
        return scaled_dot_product_attention(query, keys, values, attn_mask=self._unseen[number], scale=1.0)


#: Logits [M, K, V] of the token after `tokens` [N, K] for takes at `places`, of which row m belongs to take_of_row[m].
Walk = Callable[[Tensor, Tensor, Sequence[Any], Places], Tensor]


class CapturedStep:
    """Steps of one decoder, of whichever takes. With `capture` None each goes kernel by kernel, to the same bits."""

    def __init__(self, walk: Walk, *, rows: int, capture: Capture | None) -> None:
        """`rows` go through each product however many are in use, so that its kernel is always the same."""
        self._walk, self._rows, self._capture = walk, rows, capture
        self._company: list[Any] = []
        self._replay: Work | None = None

    def __call__(self, tokens: Tensor, memories: Sequence[Any], table: Tensor) -> Tensor:
        """Logits [R1 + R2 + ..., K, V] in float32, on the CPU, of the token after `tokens` [N, K] for N takes.

        `table` [L, H], on the card and in the model's dtype, embeds their positions; a longer one begins alike. Tokens are
        drawn on the CPU, so that a seed means the same on every device. Raises IndexError for a take whose memory is full.
        """
        if any(memory.position >= memory.capacity for memory in memories):
            raise IndexError("a take's memory is full")
        is_known = list(map(id, memories)) == list(map(id, self._company))
        if not is_known:
            self._begin(memories, table, codebooks=tokens.shape[1])
        positions = torch.tensor([memory.position for memory in memories])
        self._given.copy_(torch.cat([tokens, positions.unsqueeze(1)], dim=1))
        if is_known and self._replay is None:
            self._try_capture()
        logits = (self._replay or self._work)()
        return logits[: sum(memory.rows for memory in memories)].to("cpu", copy=True)

    @property
    def is_replayed(self) -> bool:
        """Whether the last step was a replay."""
        return self._replay is not None

    def _begin(self, memories: Sequence[Any], table: Tensor, codebooks: int) -> None:
        """Other takes than before. A replay goes through their memory and the table: both stay as long as it does."""
        self._replay = None
        self._company, self._table = list(memories), table
        take_of_row = [number for number, memory in enumerate(memories) for _ in range(memory.rows)]
        take_of_row += [0] * (self._rows - len(take_of_row))
        self._take_of_row = torch.tensor(take_of_row, device=table.device)
        #: Tokens and position of each take.
        self._given = torch.empty(len(memories), codebooks + 1, dtype=torch.long, device=table.device)

    def _try_capture(self) -> None:
        if self._capture is not None:
            try:
                self._replay = self._capture(self._work)
            except Exception:  # for want of memory say; the same work goes kernel by kernel
                logger.exception("a step could not be captured; this company goes on without")
                self._capture = None

    def _work(self) -> Tensor:
        """What a step does, from tokens to logits, on the card alone and without waiting for it."""
        places = Places(self._given[:, -1], self._company, self._table)
        return self._walk(self._given[:, :-1], self._take_of_row, self._company, places).float()


def capture_on(device: torch.device) -> Capture | None:
    """How work is captured there; None where it cannot be."""
    return _cuda_graph if device.type == "cuda" else None


def _cuda_graph(work: Work) -> Work:
    graph = torch.cuda.CUDAGraph()
    # Other threads may ask the card how much memory is free meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        answer = work()

    def replay() -> Tensor:
        graph.replay()
        return answer

    return replay

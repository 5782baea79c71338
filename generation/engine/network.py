"""One step of the decoder for several takes at once, over the library's own modules.

Projections, norms and feed-forward see the rows of all takes together, so that their weights are read once for all;
attention is each take's own. Knows nothing of sampling, delay patterns or the codec.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from ctypes import Array, c_void_p
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from generation.engine.captured import Capture, CapturedStep, Places, capture_on
from generation.engine.checkpoint import LoadedModel
from generation.engine.compiled import CompiledStep, EightBitCache, eight_bit_capacity, is_known
from generation.engine.packed import CompiledLinear

logger = logging.getLogger(__name__)

#: Fewest rows that go through a projection together. Kernels for one or two rows add up in another order than those for
#: more, so that a take would depend on whether others are made beside it. Weights are read once, however many rows.
FEWEST_ROWS = 4
#: Most rows of one step.
MOST_ROWS = 32
#: Rows of every step on a graphics card, in use or not, since its kernels are others for other numbers of rows: two of each
#: of 32 takes.
CARD_ROWS = 64
#: Attention goes over so many keys at least, and over a multiple of them: kernels are made for each shape and kept.
KEYS_TOGETHER = 64


def padded(rows: int, fewest: int = FEWEST_ROWS) -> int:
    """Rows of a step with so many rows in use: one of few numbers, for each of which `rows_agree` can look."""
    return max(fewest, 1 << (rows - 1).bit_length())


def _fewest_rows(decoder: nn.Module) -> int:
    """Two where every product is by the compiled kernel, for which all numbers of rows are alike; adapters' are not."""
    linears = [module for module in decoder.modules() if isinstance(module, nn.Linear)]
    return 2 if all(isinstance(module, CompiledLinear) for module in linears) else FEWEST_ROWS


class Cache(NamedTuple):
    """Keys and values of one layer, [R, heads, capacity, size]."""

    keys: Tensor
    values: Tensor

    def keep(self, keys: Tensor, values: Tensor) -> None:
        """Those of the first L steps, [R, heads, L, size]."""
        length = keys.shape[2]
        self.keys[:, :, :length], self.values[:, :, :length] = keys, values
        _clear(self.keys, self.values, length)


class TakeMemory:
    """What the decoder keeps of one take: keys and values of each layer, as long as its longest window from the start.

    A melody model's begin with those of what it was asked for; of a text model's that lies beside them, in `prompt`.

    Keys and values lie [R, heads, steps, head size].
    """

    def __init__(self, step: DecoderStep, states: Tensor, capacity: int) -> None:
        """For a take of `capacity` positions that attends to `states` [R, S, H]."""
        self.rows, self.position, self.capacity = states.shape[0], 0, capacity
        heads, size = step.heads, step.head_size
        # A captured step multiplies what is not written yet by zero, which makes zero of numbers only.
        room = torch.zeros if step.is_capturable else torch.empty
        self.own: list[Any] = [
            EightBitCache.empty(self.rows, heads, capacity, size)
            if step.is_compiled
            else Cache(*room(2, self.rows, heads, capacity, size, device=states.device, dtype=states.dtype))
            for _ in step.layers
        ]
        # Zeros stand for no prompt: the bias-free attention turns them into exactly nothing.
        split = (self.rows, -1, heads, size)
        self.prompt = [
            (
                layer.encoder_attn.k_proj(states).view(split).transpose(1, 2).contiguous(),
                layer.encoder_attn.v_proj(states).view(split).transpose(1, 2).contiguous(),
            )
            for layer in ([] if step.is_prefixed else step.layers)
        ]
        self.prompt_length = 0 if step.is_prefixed else states.shape[1]

    @cached_property
    def addresses(self) -> Array[Any]:
        """Where its own records and the prompt's keys and values lie, layer by layer; 0 for none."""
        prompt = [[each.data_ptr() for each in beside] for beside in self.prompt] or [[0, 0]] * len(self.own)
        own = [[each.data_ptr() for each in layer] for layer in self.own]
        return (c_void_p * (3 * len(own)))(
            *chain.from_iterable(chain.from_iterable(zip(own, prompt, strict=True)))
        )


class DecoderStep:
    """The decoder of one network. Its takes' memories are handed in with each step."""

    def __init__(self, model: LoadedModel) -> None:
        causal_lm = model.network.decoder
        self._body: Any = causal_lm.model.decoder
        self._lm_heads: Any = causal_lm.lm_heads
        self._device, self._dtype = model.device, model.dtype
        self._kernels = model.kernels if model.device.type == "cpu" else None
        self._fewest = _fewest_rows(causal_lm)
        self._positions = self._places = torch.empty(0)
        self.layers: Any = self._body.layers
        self.heads: int = causal_lm.config.num_attention_heads
        self.head_size: int = causal_lm.config.hidden_size // self.heads
        #: Whether what a take attends to stands before its tokens, as in melody models: it has to be read first.
        self.is_prefixed = not hasattr(self.layers[0], "encoder_attn")
        self._compiled: CompiledStep | None = None
        self._captured: CapturedStep | None = None
        #: Whether steps on a graphics card are captured.
        self.is_captured = False
        if is_known(model) and self._once(_ANSWERS, lambda: self._try_compiled(CompiledStep(model))):
            self._compiled = CompiledStep(model)
        elif (capture := capture_on(self._device)) is not None:
            self._captured = self._capturing(None)
            self.is_captured = self._once(_CAPTURES, lambda: self._try_capture(capture))
            self._captured = self._capturing(capture if self.is_captured else None)

    @property
    def is_compiled(self) -> bool:
        """Whether a step is one call of the compiled kernels."""
        return self._compiled is not None

    @property
    def is_capturable(self) -> bool:
        """Whether a step does the same work at every position, as one on a graphics card does."""
        return self._captured is not None

    @property
    def most_rows(self) -> int:
        """Most rows of one step."""
        return CARD_ROWS if self.is_capturable else MOST_ROWS

    def _capturing(self, capture: Capture | None) -> CapturedStep:
        return CapturedStep(self._at_places, rows=CARD_ROWS, capture=capture)

    def begin(self, states: Tensor, steps: int) -> TakeMemory:
        """Memory of a new take that attends to `states` [R, S, H] and is at most so many steps long."""
        capacity = self._capacity(states.shape[1], steps)
        if len(self._positions) < capacity:
            # Once for the longest take: the library makes its table anew at every step beyond its first size. The
            # argument is only asked for its length, [B, K, L] or [B, L, H] -> [L, H].
            shape = (1, capacity, 1) if self.is_prefixed else (1, 1, capacity)
            self._positions = self._body.embed_positions(torch.empty(shape, device=self._device))
            self._places = self._positions.float().contiguous()
        return TakeMemory(self, states, capacity)

    def _capacity(self, states: int, steps: int) -> int:
        needed = steps + states if self.is_prefixed else steps
        if self.is_compiled:
            return eight_bit_capacity(needed)
        return _span(needed) if self.is_capturable else needed

    def bytes_for(self, rows: int, states: int, steps: int) -> int:
        """Bytes that the memory of such a take will hold, but for the prompt's where that lies beside it."""
        capacity = self._capacity(states, steps)
        # Of a key or a value of one head; in 8 bits it has a scale beside it.
        each = self.head_size + 4 if self.is_compiled else self.head_size * self._dtype.itemsize
        return len(self.layers) * 2 * rows * self.heads * capacity * each

    def read(self, tokens: Tensor, memory: TakeMemory, states: Tensor) -> None:
        """Begin a take's memory anew with `tokens` [K, L], in one pass; the token after them is the next step's.

        Before them it reads `states` [R, S, H], where the model has them there.
        """
        for _ in self.reading(tokens, memory, states):
            pass

    def reading(self, tokens: Tensor, memory: TakeMemory, states: Tensor) -> Iterator[None]:
        """As `read`, with two pauses in each layer, in which others may go on: many tokens take as long as many steps."""
        rows = memory.rows
        hidden = self._embedded(tokens.T).expand(rows, -1, -1)  # all rows of a take are fed the same tokens
        if self.is_prefixed:
            hidden = torch.cat([states, hidden], dim=1)
        length = hidden.shape[1]
        hidden = (hidden + self._positions[:length]).flatten(0, 1)  # [R * length, H]
        for index, layer in enumerate(self.layers):
            attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
            query, key, value = (
                project(normed).view(rows, length, self.heads, self.head_size).transpose(1, 2)
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )  # [R, heads, length, head size]
            memory.own[index].keep(key, value)
            heard = scaled_dot_product_attention(query, key, value, is_causal=True, scale=attention.scaling)
            hidden = hidden + attention.out_proj(heard.transpose(1, 2).reshape_as(hidden))
            if not self.is_prefixed:
                attention = layer.encoder_attn
                query = attention.q_proj(layer.encoder_attn_layer_norm(hidden))
                query = query.view(rows, length, self.heads, self.head_size).transpose(1, 2)
                heard = scaled_dot_product_attention(query, *memory.prompt[index], scale=attention.scaling)
                hidden = hidden + attention.out_proj(heard.transpose(1, 2).reshape_as(hidden))
            yield
            hidden = _feed_forward(layer, hidden)
            yield
        memory.position = length

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Tokens [N, K] as the sum of their embeddings [N, H]."""
        tokens = tokens.to(self._device)
        hidden: Tensor = self._body.embed_tokens[0](tokens[:, 0])
        for embed, book in zip(self._body.embed_tokens[1:], tokens.T[1:], strict=True):
            hidden = hidden + embed(book)
        return hidden

    def __call__(self, tokens: Tensor, memories: Sequence[TakeMemory]) -> Tensor:
        """Logits [R1 + R2 + ..., K, V] of the token after `tokens` [N, K] for N takes, the rows of each in its order."""
        if self._compiled is not None:
            logits = self._compiled(tokens, memories, self._places)
        elif self._captured is not None:
            logits = self._captured(tokens, memories, self._positions)
        else:
            logits = self._at_once(tokens, memories)
        for memory in memories:
            memory.position += 1
        return logits

    def _at_once(self, tokens: Tensor, memories: Sequence[TakeMemory]) -> Tensor:
        """Logits [R1 + R2 + ..., K, V]. Attention goes over no more keys than there are."""
        hidden = self._embedded(tokens) + self._positions[[memory.position for memory in memories]]  # [N, H]
        # All rows of a take are fed the same tokens.
        take_of_row = [take for take, memory in enumerate(memories) for _ in range(memory.rows)]
        hidden = pad(
            hidden[take_of_row], (0, 0, 0, padded(len(take_of_row), self._fewest) - len(take_of_row))
        )  # [M, H]

        def attend(number: int, query: Tensor, key: Tensor, value: Tensor, kept: Cache) -> Tensor:
            (keys, values), until = kept, memories[number].position + 1
            keys[:, :, until - 1], values[:, :, until - 1] = key[:, :, 0], value[:, :, 0]
            if until % KEYS_TOGETHER == 1:
                _clear(keys, values, until)
            return self._attend(query, keys, values, until)  # one query sees all earlier positions

        return self._through_layers(hidden, memories, attend)[: len(take_of_row)]

    def _at_places(
        self, tokens: Tensor, take_of_row: Tensor, memories: Sequence[TakeMemory], places: Places
    ) -> Tensor:
        """Logits [M, K, V], as a captured step wants them: what changes from step to step lies on the device."""
        hidden = self._embedded(tokens) + places.embedded  # [N, H]
        return self._through_layers(hidden.index_select(0, take_of_row), memories, places.attend)

    def _through_layers(self, hidden: Tensor, memories: Sequence[TakeMemory], attend: Attend) -> Tensor:
        """Logits [M, K, V] of embedded tokens [M, H], of which those after the takes' rows are nobody's."""
        for index, layer in enumerate(self.layers):
            hidden = self._self_attention(index, layer, hidden, memories, attend)
            if not self.is_prefixed:
                hidden = self._cross_attention(index, layer, hidden, memories)
            hidden = _feed_forward(layer, hidden)
        return self._logits(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        hidden = self._body.layer_norm(hidden)
        return torch.stack([head(hidden) for head in self._lm_heads], dim=1)  # [M, K, V]

    def _self_attention(
        self, index: int, layer: Any, hidden: Tensor, memories: Sequence[TakeMemory], attend: Attend
    ) -> Tensor:
        attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
        query, key, value = (
            project(normed).view(-1, self.heads, 1, self.head_size)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )  # [M, heads, 1, head size]
        query = query * attention.scaling
        heard, first = [], 0
        for number, memory in enumerate(memories):
            rows = slice(first, first + memory.rows)
            heard.append(attend(number, query[rows], key[rows], value[rows], memory.own[index]))
            first += memory.rows
        result: Tensor = hidden + attention.out_proj(torch.cat([*heard, query[first:]]).view_as(hidden))
        return result

    def _cross_attention(
        self, index: int, layer: Any, hidden: Tensor, memories: Sequence[TakeMemory]
    ) -> Tensor:
        attention = layer.encoder_attn
        query = attention.q_proj(layer.encoder_attn_layer_norm(hidden)) * attention.scaling
        query = query.view(-1, self.heads, 1, self.head_size)
        heard, first = [], 0
        for memory in memories:
            keys, values = memory.prompt[index]
            heard.append(self._attend(query[first : first + memory.rows], keys, values, keys.shape[2]))
            first += memory.rows
        result: Tensor = hidden + attention.out_proj(torch.cat([*heard, query[first:]]).view_as(hidden))
        return result

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, until: int) -> Tensor:
        """What `query` [R, heads, 1, size], scaled already, finds in keys and values before `until`."""
        if self._captured is not None:
            return scaled_dot_product_attention(query, keys, values, scale=1.0)
        heard = torch.empty_like(query)
        if self._kernels is None or not self._kernels.attend(query, keys, values, until, heard):
            span = min(_span(until), keys.shape[2])
            return _heard(query, keys[:, :, :span], values[:, :, :span], until)
        return heard

    @torch.inference_mode()
    def rows_agree(self) -> bool:
        """Whether a row comes out the same to the bit however many others go with it and wherever it stands.

        That is so or not by the kernels of this machine for this dtype and these shapes, so it is tried: every module
        but attention itself, which never sees two takes at once.
        """
        by_takes = self.is_compiled or self.is_capturable
        return self._once(_AGREEMENT, self._try_takes if by_takes else self._try_rows)

    def _once(self, kept: weakref.WeakKeyDictionary[nn.Module, bool], ask: Callable[[], bool]) -> bool:
        if self._body not in kept:
            kept[self._body] = ask()
        return kept[self._body]

    @torch.inference_mode()
    def _try_compiled(self, compiled: CompiledStep) -> bool:
        """Whether it says of two steps what the modules say, but for rounding."""
        states, tokens = self._drawn(takes=2)
        answers = []
        for self._compiled in (None, compiled):
            memories = [self.begin(each, 2) for each in states]
            answers.append(torch.stack([self(tokens, memories).float() for _ in range(2)]))
        self._compiled = None
        by_modules, by_kernels = answers
        return bool((by_kernels - by_modules).std() <= _LIKENESS * by_modules.std())

    @torch.inference_mode()
    def _try_capture(self, capture: Capture) -> bool:
        """Whether steps can be captured, and answer to the bit what they answer otherwise, in a company that grows, too."""
        states, tokens = self._drawn(takes=3)
        answers = []
        for how in (None, capture):
            self._captured = captured = self._capturing(how)
            memories = [self.begin(each, 6) for each in states]
            found = [self(tokens[:takes], memories[:takes]) for takes in (2, 2, 2, 3, 3, 3)]
            answers.append(torch.cat(found))
        by_kernels, by_replays = answers
        if captured.is_replayed and not torch.equal(by_replays, by_kernels):
            logger.warning("captured steps answer otherwise than those that are not; they are not used")
            return False
        return captured.is_replayed

    def _try_takes(self) -> bool:
        states, tokens = self._drawn(takes=self.most_rows)

        def logits(takes: slice) -> Tensor:
            return self(tokens[takes], [self.begin(each, 1) for each in states[takes]])

        together = logits(slice(None))
        some = [slice(first, first + count) for first, count in ((0, 1), (1, 2), (3, 4), (7, 8), (9, 23))]
        some.append(slice(self.most_rows - 1, self.most_rows))
        return all(torch.equal(logits(takes), together[takes]) for takes in some)

    def _drawn(self, takes: int) -> tuple[Tensor, Tensor]:
        """States [takes, 1, 1, H] and tokens [takes, K] for a trial."""
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(takes, 1, 1, self.heads * self.head_size, generator=generator)
        books = len(self._body.embed_tokens)
        tokens = torch.randint(self._body.embed_tokens[0].num_embeddings, (takes, books), generator=generator)
        return states.to(self._device, self._dtype), tokens

    def _try_rows(self) -> bool:
        generator = torch.Generator().manual_seed(0)
        sizes = [size for size in (self._fewest << n for n in range(8)) if size <= MOST_ROWS]
        drawn = torch.randn(sizes[-1], self.heads * self.head_size, generator=generator)
        rows = drawn.to(self._device, self._dtype)
        for module in (*(_all_but_attention(layer) for layer in self.layers), self._logits):
            for size in sizes[1:]:
                alone, together = rows[size - self._fewest : size], rows[:size]
                if not torch.equal(module(alone), module(together)[-self._fewest :]):
                    return False
        return True


#: Of the networks that were tried: whether rows agree, whether the compiled step answers as the modules do, and whether steps
#: can be captured.
_AGREEMENT: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
_ANSWERS: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
_CAPTURES: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
#: What a take finds in attention, given its number in the step, query, key, value [R, heads, 1, size] and its `Cache`.
Attend = Callable[[int, Tensor, Tensor, Tensor, Any], Tensor]
#: Most that logits may differ, as a share of how far they spread. Rounding alone makes a hundredth or two.
_LIKENESS = 0.2


def _span(until: int) -> int:
    """Keys that attention goes over so that it sees those before `until`."""
    return -(-until // KEYS_TOGETHER) * KEYS_TOGETHER


def _clear(keys: Tensor, values: Tensor, until: int) -> None:
    """Make numbers of what lies in the span after `until`: memory that was never written may hold anything."""
    keys[:, :, until : _span(until)], values[:, :, until : _span(until)] = 0, 0


def _heard(query: Tensor, keys: Tensor, values: Tensor, until: int) -> Tensor:
    """Attention of one query [..., 1, size], scaled already, to keys and values [..., S, size]; only those before `until`
    count.

    As two products: torch's own attention is made for many queries, and takes a CPU up to six times as long for one. The
    first is made from this side, which spares a CPU a copy of the keys.
    """
    scores = (keys @ query.transpose(-1, -2)).transpose(-1, -2)
    scores[..., until:] = -torch.inf
    return scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype) @ values


def _feed_forward(layer: Any, hidden: Tensor) -> Tensor:
    normed = layer.final_layer_norm(hidden)
    result: Tensor = hidden + layer.fc2(layer.activation_fn(layer.fc1(normed)))
    return result


def _all_but_attention(layer: Any) -> Any:
    def run(hidden: Tensor) -> Tensor:
        parts = []
        for which in ("self_attn", "encoder_attn"):
            if hasattr(layer, which):  # melody models lack the second
                attention, normed = getattr(layer, which), getattr(layer, f"{which}_layer_norm")(hidden)
                names = ("q_proj", "k_proj", "v_proj", "out_proj")
                parts += [hidden + getattr(attention, name)(normed) for name in names]
        return torch.cat([*parts, _feed_forward(layer, hidden)], dim=-1)

    return run

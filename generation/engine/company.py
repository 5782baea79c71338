"""The requests that a runner has in hand: those made side by side, and those that wait for it.

Takes share a batch where they have the same network, where memory allows and where no bit of any changes by it. Others
wait, in the order in which they came.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from generation.engine.adapters.attach import Attachment
from generation.engine.checkpoint import LoadedModel
from generation.engine.decode import Batch, CodesRequest, TakeInHand
from generation.engine.errors import EngineError
from generation.engine.live import OnAudio
from generation.engine.memory import free_memory_bytes
from generation.engine.protocol import Generate
from generation.engine.render import Making, OnStage, Rendering, explained

#: A take joins others only where so many times its memory is free: what a step needs beside it is not counted.
SPARE_MEMORY = 2


@dataclass
class _Member:
    """A request in hand, as far as it is."""

    request: Generate
    on_stage: OnStage
    should_stop: Callable[[], bool]
    on_audio: OnAudio | None = None
    making: Making | None = None
    codes_request: CodesRequest | None = None
    take: TakeInHand | None = None


class Company:
    """Requests to one model. `advance` until `is_idle`; belongs to the thread that generates."""

    def __init__(self, model: LoadedModel, attachment: Attachment, *, most: int | None = None) -> None:
        """`most` bounds the takes made side by side."""
        self._model, self._attachment, self._most = model, attachment, most
        self._waiting: deque[_Member] = deque()
        self._members: list[_Member] = []
        self._batch: Batch | None = None
        self._adapters: object = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand."""
        return not self._waiting and not self._members

    def add(
        self,
        request: Generate,
        *,
        on_stage: OnStage,
        should_stop: Callable[[], bool],
        on_audio: OnAudio | None = None,
    ) -> None:
        """Take a request in hand. `should_stop` is asked before each step, and while it waits."""
        self._waiting.append(_Member(request, on_stage, should_stop, on_audio))

    def advance(self) -> list[tuple[Generate, Rendering | EngineError]]:
        """One step of every take that is being made. Gives the requests that ended with what became of them.

        One that is stopped keeps its complete frames; a stop after the last frame comes too late.
        """
        ended = [*self._begin_waiting(), *self._stop_asked()]
        if self._members:
            ended += self._step()
        if not self._members:
            self._batch = None  # and the memory of its network, which may be an adapter's
        return ended

    def _begin_waiting(self) -> list[tuple[Generate, Rendering | EngineError]]:
        ended: list[tuple[Generate, Rendering | EngineError]] = []
        while self._waiting:
            member = self._waiting[0]
            try:
                if not self._may_join(member):
                    break
                self._begin(member)
            except Exception as error:  # noqa: BLE001 - the libraries fail with whatever they like
                ended.append((member.request, explained(error, member.request)))
            self._waiting.popleft()
        return ended

    def _may_join(self, member: _Member) -> bool:
        """Encode its prompt, where that was not done, and say whether it may begin now."""
        adapters = [(use.sha256, use.config, use.strength) for use in member.request.adapters if use.strength]
        if self._batch is not None and adapters != self._adapters:
            return False
        if member.making is None:
            making = Making(member.request, member.on_stage, member.on_audio)
            model = self._attachment.model_for(self._model, member.request.adapters)
            member.codes_request = making.encode(model)
            member.making = making
        if self._batch is None:
            self._batch, self._adapters = Batch(member.making.model), adapters
        assert member.codes_request is not None
        if not self._batch.takes:
            return True
        if self._most is not None and len(self._batch.takes) >= self._most:
            return False
        enough = free_memory_bytes(self._model.device) >= SPARE_MEMORY * self._batch.bytes_for(
            member.codes_request
        )
        return enough and self._batch.has_room_for(member.codes_request)

    def _begin(self, member: _Member) -> None:
        assert self._batch is not None
        assert member.making is not None
        assert member.codes_request is not None
        member.take = self._batch.join(member.codes_request)
        self._members.append(member)
        member.making.begun()

    def _stop_asked(self) -> list[tuple[Generate, Rendering | EngineError]]:
        ended: list[tuple[Generate, Rendering | EngineError]] = []
        for member in [member for member in self._waiting if member.should_stop()]:
            self._waiting.remove(member)
            ended.append(
                (member.request, (member.making or Making(member.request, member.on_stage)).none_made())
            )
        for member in [member for member in self._members if member.should_stop()]:
            assert self._batch is not None
            assert member.take is not None
            self._batch.leave(member.take)
            ended.append(self._conclude(member))
        return ended

    def _step(self) -> list[tuple[Generate, Rendering | EngineError]]:
        assert self._batch is not None
        began, beside = time.perf_counter(), len(self._members)
        try:
            self._batch.step()
        except Exception as error:  # noqa: BLE001 - as above; what none of them has caused alone ends all of them
            members, self._members = self._members, []
            return [(member.request, explained(error, member.request)) for member in members]
        share = (time.perf_counter() - began) / beside
        for member in self._members:
            if member.making is not None and member.take is not None and member.take.error is None:
                member.making.further(member.take.frames_done, share)
        self._let_hear()
        return [
            self._conclude(member) for member in list(self._members) if member.take and member.take.is_over
        ]

    def _let_hear(self) -> None:
        """Decode one chunk, of the take that is furthest behind: nobody waits longer than that between two steps."""
        waiting = [
            (member.making.waiting(member.take.frames_done), member.making, member.take)
            for member in self._members
            if member.making is not None and member.take is not None and not member.take.is_over
        ]
        frames, making, take = max(waiting, key=lambda each: each[0], default=(-1, None, None))
        if making is not None and take is not None and frames >= 0:
            making.tell(take.codes())

    def _conclude(self, member: _Member) -> tuple[Generate, Rendering | EngineError]:
        assert member.making is not None
        assert member.take is not None
        self._members.remove(member)
        try:
            if member.take.error is not None:
                raise member.take.error
            return member.request, member.making.conclude(member.take.codes())
        except Exception as error:  # noqa: BLE001 - as above
            return member.request, explained(error, member.request)


def render(
    model: LoadedModel,
    request: Generate,
    *,
    on_stage: OnStage,
    should_stop: Callable[[], bool],
    attachment: Attachment | None = None,
    on_audio: OnAudio | None = None,
) -> Rendering:
    """Make the take that `request` asks for, alone, and write it to `request.output`.

    `attachment` keeps what it read and attached for the next request; `model` itself is never changed. Raises
    EngineError with a code of `request.failed` for everything that goes wrong.
    """
    company = Company(model, attachment or Attachment())
    company.add(request, on_stage=on_stage, should_stop=should_stop, on_audio=on_audio)
    while not company.is_idle:
        for _, outcome in company.advance():
            if isinstance(outcome, EngineError):
                raise outcome
            return outcome
    raise AssertionError("a request ends before its company is idle")

"""The part of the API that switches models: ask, follow, stream, cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from channels.db import database_sync_to_async
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from ninja import Router, Status

from generation.api_schemas import CurrentSwitchOut, ErrorOut, SwitchAnswerOut, SwitchIn, SwitchOut
from generation.settings_page import may_switch
from registry.models import ModelSwitch
from registry.services import SwitchAnswer, cancel_switch, last_switch, open_switch, request_switch

router = Router(tags=["models"])

#: The row is read this often for a stream, in seconds.
LOOK_EVERY: Final = 0.25
#: A comment keeps proxies from closing a quiet stream, in seconds.
KEEP_ALIVE_EVERY: Final = 15.0
#: A stream ends after this long; its switch does not.
STREAM_BOUND_SECONDS: Final = 6 * 3600


class NotAllowed(Exception):
    """`str()` is the sentence for people."""

    def __init__(self) -> None:
        super().__init__("Only staff may switch models. Ask the person who runs this studio.")


class NothingToCancel(Exception):
    """`str()` is the sentence for people."""


def _ask(request: HttpRequest, wanted: SwitchIn) -> SwitchAnswer:
    if not may_switch(request.user):
        raise NotAllowed
    return request_switch(wanted.model_id[:300].replace("\0", ""), request.user, reload=wanted.reload)


@router.post(
    "/switch",
    response={
        200: SwitchAnswerOut,
        202: SwitchAnswerOut,
        400: ErrorOut,
        403: ErrorOut,
        404: ErrorOut,
        409: ErrorOut,
    },
    operation_id="switch_model",
)
def switch_start(request: HttpRequest, wanted: SwitchIn) -> Any:
    """Ask for another active model: 202 and the switch, 200 when it is active already, 409 while another is under way."""
    answer = _ask(request, wanted)
    status = 200 if answer.switch is None else 202
    return Status(
        status,
        SwitchAnswerOut(
            outcome=answer.outcome,  # type: ignore[arg-type]  # one of the three
            message=answer.sentence,
            switch=SwitchOut.of(answer.switch) if answer.switch is not None else None,
        ),
    )


@router.get("/switch", response=CurrentSwitchOut, operation_id="get_switch")
def switch_detail(request: HttpRequest) -> Any:
    """The switch under way, else the last one."""
    switch = last_switch()
    return CurrentSwitchOut(switch=SwitchOut.of(switch) if switch is not None else None)


@router.post(
    "/switch/cancel",
    response={202: SwitchOut, 403: ErrorOut, 409: ErrorOut},
    operation_id="cancel_switch",
)
def switch_cancel(request: HttpRequest) -> Any:
    """End the switch under way. Once it loads it ends by itself."""
    if not may_switch(request.user):
        raise NotAllowed
    switch = open_switch()
    if switch is None:
        raise NothingToCancel("No switch is under way.")
    if not cancel_switch(switch):
        raise NothingToCancel("The switch is loading its model and will end by itself in a moment.")
    return Status(
        202, SwitchOut.of(ModelSwitch.objects.select_related("model", "previous").get(pk=switch.pk))
    )


@router.post(
    "/switch/stream",
    response={200: None, 400: ErrorOut, 403: ErrorOut, 404: ErrorOut, 409: ErrorOut},
    operation_id="switch_model_stream",
)
def switch_stream(request: HttpRequest, wanted: SwitchIn) -> HttpResponseBase:
    """The same as a stream of server-sent events: `stage` while it goes on, then `done` or `error`.

    Each carries the switch as JSON, and an id of the form `switch-number`. A client that leaves does not stop
    the switch; to come back, ask again and the stream joins it.
    """
    answer = _ask(request, wanted)
    response = StreamingHttpResponse(_events(answer), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    # nginx would hold the events back.
    response["X-Accel-Buffering"] = "no"
    return response


async def _events(answer: SwitchAnswer) -> AsyncIterator[bytes]:
    number = 0
    if answer.switch is None:
        yield _event(
            "done", "active-1", {"message": answer.sentence, "model_id": answer.model.pk, "stage": "ready"}
        )
        return
    said: dict[str, Any] | None = None
    quiet = 0.0
    for _ in range(int(STREAM_BOUND_SECONDS / LOOK_EVERY)):
        switch, facts = await database_sync_to_async(_facts, thread_sensitive=False)(answer.switch.pk)
        if switch is None:
            yield _event("error", f"{answer.switch.pk}-{number + 1}", facts)
            return
        told = {name: value for name, value in facts.items() if not name.endswith("_seconds")}
        name = "stage" if switch.is_open else "done" if switch.stage == "ready" else "error"
        if told != said or name != "stage":
            said, quiet = told, 0.0
            number += 1
            yield _event(name, f"{switch.pk}-{number}", facts)
        if not switch.is_open:
            return
        await asyncio.sleep(LOOK_EVERY)
        quiet += LOOK_EVERY
        if quiet >= KEEP_ALIVE_EVERY:
            quiet = 0.0
            yield b": still under way\n\n"


def _facts(switch_id: int) -> tuple[ModelSwitch | None, dict[str, Any]]:
    switch = ModelSwitch.objects.select_related("model", "previous").filter(pk=switch_id).first()
    if switch is None:
        message = "The switch is gone, because its model was deleted. Choose another model."
        return None, {"id": switch_id, "stage": "failed", "message": message, "error_code": "MODEL_DELETED"}
    return switch, SwitchOut.of(switch).model_dump(mode="json")


def _event(name: str, event_id: str, facts: dict[str, Any]) -> bytes:
    return f"event: {name}\nid: {event_id}\ndata: {json.dumps(facts)}\n\n".encode()

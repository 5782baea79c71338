"""The API of switching: what each route answers, to whom, and the stream of events."""

import asyncio
import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from generation.models import EngineHost
from registry.models import ModelSwitch, SwitchStage
from registry.services import request_switch, switches
from tests.conftest import wait_until
from tests.generation.test_api import assert_refused, post
from tests.switching.models import active_id, dwarf

HOST = "host-of-the-test"
SWITCH, STREAM, CANCEL = "/api/models/switch", "/api/models/switch/stream", "/api/models/switch/cancel"
SMALL = "musicgen-small"


def begin(stage: SwitchStage, **fields: Any) -> ModelSwitch:
    """A switch to the small model that a host has brought to that stage."""
    request_switch(SMALL)
    switch = switches.claim_switch(HOST)
    assert switch is not None
    assert switches.enter_stage(switch, stage, host=HOST, **fields)
    return switch


@pytest.mark.django_db
def test_a_switch_is_accepted_and_shown(client: Client) -> None:
    assert client.get(SWITCH).json() == {"switch": None}
    answer = post(client, {"model_id": SMALL}, SWITCH)
    assert answer.status_code == 202
    body = answer.json()
    assert (body["outcome"], body["message"]) == ("started", "Switching to MusicGen Small.")
    switch = body["switch"]
    assert (switch["model_id"], switch["previous_model_id"]) == (SMALL, "musicgen-demo")
    assert (switch["stage"], switch["fraction"], switch["can_cancel"]) == ("queued", None, True)
    assert (switch["is_reload"], switch["error_code"], switch["finished_at"]) == (False, None, None)
    again = post(client, {"model_id": "facebook/musicgen-small"}, SWITCH)
    assert again.status_code == 202
    assert (again.json()["outcome"], again.json()["switch"]["id"]) == ("joined", switch["id"])
    assert client.get(SWITCH).json()["switch"]["id"] == switch["id"]


@pytest.mark.django_db
def test_progress_is_told_in_figures(client: Client) -> None:
    switch = begin(SwitchStage.DOWNLOADING)
    switch.fraction, switch.bytes_done, switch.bytes_total = 0.25, 500, 2000
    assert switches.write_switch_progress(switch, HOST) is False
    told = client.get(SWITCH).json()["switch"]
    assert (told["stage"], told["fraction"]) == ("downloading", 0.25)
    assert (told["bytes_done"], told["bytes_total"]) == (500, 2000)
    assert [stage["stage"] for stage in told["finished_stages"]] == ["queued"]
    assert told["elapsed_seconds"] >= 0
    assert told["message"].startswith("Downloading")


@pytest.mark.django_db
def test_remaining_time_comes_from_earlier_switches(client: Client) -> None:
    for seconds in (4.0, 6.0):
        ModelSwitch.objects.create(
            model_id=SMALL, stage="ready", open_slot=None, finished_at=timezone.now(),
            stage_seconds={"loading": seconds},
        )  # fmt: skip
    begin(SwitchStage.LOADING)
    assert client.get(SWITCH).json()["switch"]["remaining_seconds"] == pytest.approx(5, abs=2)


@pytest.mark.django_db
def test_the_active_model_is_a_plain_answer_and_reload_is_not(client: Client) -> None:
    answer = post(client, {"model_id": "musicgen-demo"}, SWITCH)
    assert answer.status_code == 200
    assert (answer.json()["outcome"], answer.json()["switch"]) == ("already active", None)
    assert "Reload" in answer.json()["message"]
    answer = post(client, {"model_id": "musicgen-demo", "reload": True}, SWITCH)
    assert answer.status_code == 202
    assert answer.json()["switch"]["is_reload"] is True


@pytest.mark.django_db
@pytest.mark.parametrize("path", [SWITCH, STREAM])
def test_refusals_have_the_one_shape(client: Client, path: str, locked: str) -> None:
    assert_refused(post(client, {"model_id": "no-such"}, path), 404, "MODEL_NOT_FOUND")
    assert_refused(post(client, {"model_id": "\0"}, path), 404, "MODEL_NOT_FOUND")
    assert_refused(post(client, {"model_id": locked}, path), 400, "MODEL_NOT_PLAYABLE")
    bodies: list[Any] = [{}, {"model_id": 7}, {"model_id": SMALL, "x": 1}, [], "not json"]
    for body in bodies:
        assert_refused(post(client, body, path), 400, "INVALID_REQUEST")
    assert not ModelSwitch.objects.exists()
    begin(SwitchStage.VERIFYING)
    refusal = assert_refused(post(client, {"model_id": "musicgen-medium"}, path), 409, "SWITCH_UNDER_WAY")
    assert refusal["switch"]["model_id"] == SMALL
    assert "MusicGen Small is under way (verifying)" in refusal["error"]
    assert ModelSwitch.objects.count() == 1


@pytest.mark.django_db
def test_cancelling(client: Client) -> None:
    assert_refused(post(client, {}, CANCEL), 409, "NOTHING_TO_CANCEL")
    post(client, {"model_id": SMALL}, SWITCH)
    answer = post(client, {}, CANCEL)
    assert (answer.status_code, answer.json()["stage"]) == (202, "cancelled")
    switch = begin(SwitchStage.VERIFYING)
    answer = post(client, {}, CANCEL)
    assert (answer.status_code, answer.json()["stage"], answer.json()["can_cancel"]) == (
        202,
        "verifying",
        False,
    )
    assert switches.enter_stage(switch, SwitchStage.LOADING, host=HOST)
    refusal = assert_refused(post(client, {}, CANCEL), 409, "NOTHING_TO_CANCEL")
    assert "will end by itself" in refusal["error"]


@pytest.mark.django_db
@pytest.mark.usefixtures("shared_mode")
def test_in_shared_mode_only_staff_switch(client: Client, alice: User, staff: User) -> None:
    for path in (SWITCH, STREAM, CANCEL):
        assert_refused(post(client, {"model_id": SMALL}, path), 401)
    assert client.get(SWITCH).status_code == 401
    client.force_login(alice)
    for path in (SWITCH, STREAM, CANCEL):
        refusal = assert_refused(post(client, {"model_id": SMALL}, path), 403)
        assert "Only staff may switch models" in refusal["error"]
    assert not ModelSwitch.objects.exists()
    assert client.get(SWITCH).json() == {"switch": None}, "anybody may look"
    client.force_login(staff)
    assert post(client, {"model_id": SMALL}, SWITCH).status_code == 202
    assert ModelSwitch.objects.get().requested_by == staff
    client.force_login(alice)
    assert_refused(post(client, {}, CANCEL), 403)
    assert ModelSwitch.objects.get().is_open


@pytest.mark.django_db
def test_models_say_what_is_installed_and_loaded(client: Client, dwarfs: Path) -> None:
    dwarf("here", dwarfs / "mono")
    dwarf("nowhere", "/no/such/folder")

    def facts() -> dict[str, tuple[bool, bool]]:
        models = client.get("/api/models").json()["models"]
        return {model["id"]: (model["is_installed"], model["is_loaded"]) for model in models}

    assert facts()["here"] == (True, False)
    assert facts()["nowhere"] == facts()[SMALL] == (False, False)
    assert facts()["musicgen-demo"][0]
    runner = {"model_id": "here", "memory_bytes": 5, "is_busy": False, "pid": 1, "device": "cpu",
              "dtype": "float32", "idle_seconds": 0}  # fmt: skip
    host = EngineHost.objects.create(name=HOST, hostname="h", pid=1, runners=[runner])
    assert facts()["here"] == (True, True)
    host.heartbeat_at = timezone.now() - timedelta(minutes=1)
    host.save(update_fields=["heartbeat_at"])
    assert facts()["here"] == (True, False), "a host that has gone silent holds nothing"


# The stream.


class Listener:
    """Reads a stream in a thread of its own, as a server would send it."""

    def __init__(self, response: Any) -> None:
        assert response.status_code == 200
        assert response["Content-Type"] == "text/event-stream"
        assert response["Cache-Control"] == "no-store"
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self._content = response.streaming_content
        self._leaves = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read()), daemon=True)
        self._thread.start()

    async def _read(self) -> None:
        async for chunk in self._content:
            if chunk.startswith(b":"):
                continue
            lines = dict(line.split(": ", 1) for line in chunk.decode().strip().split("\n"))
            self.events.append((lines["event"], lines["id"], json.loads(lines["data"])))
            if self._leaves.is_set():
                return

    def leave(self) -> None:
        self._leaves.set()

    def until(self, count: int) -> None:
        wait_until(lambda: len(self.events) >= count, seconds=60, what=f"event {count}")

    def until_closed(self) -> None:
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()


@pytest.mark.django_db(transaction=True)
def test_the_stream_tells_each_stage_once_and_how_it_ended(client: Client) -> None:
    first = Listener(post(client, {"model_id": SMALL}, STREAM))
    first.until(1)
    joined = Listener(post(client, {"model_id": SMALL}, STREAM))
    switch = switches.claim_switch(HOST)
    assert switch is not None
    assert switches.enter_stage(switch, SwitchStage.DOWNLOADING, host=HOST)
    first.until(2)
    switch.fraction, switch.bytes_done, switch.bytes_total = 0.5, 10, 20
    switches.write_switch_progress(switch, HOST)
    first.until(3)
    joined.until(1)
    joined.leave()
    assert switches.enter_stage(switch, SwitchStage.LOADING, host=HOST)
    first.until(4)
    joined.until_closed()
    assert ModelSwitch.objects.get().cancel_requested_at is None, "who leaves does not stop it"
    assert switches.complete_switch(switch, host=HOST)
    first.until_closed()
    assert [event[0] for event in first.events] == ["stage"] * 4 + ["done"]
    assert [event[1] for event in first.events] == [f"{switch.pk}-{number}" for number in range(1, 6)]
    assert [event[2]["stage"] for event in first.events] == [
        "queued", "downloading", "downloading", "loading", "ready",
    ]  # fmt: skip
    assert first.events[2][2]["fraction"] == 0.5
    assert first.events[-1][2]["message"] == "MusicGen Small is ready."
    assert active_id() == SMALL


@pytest.mark.django_db(transaction=True)
def test_the_stream_of_a_failure_ends_with_an_error(client: Client) -> None:
    listener = Listener(post(client, {"model_id": SMALL}, STREAM))
    listener.until(1)
    switch = switches.claim_switch(HOST)
    assert switch is not None
    assert switches.recover_switches(is_alive=lambda name: False) == 1
    listener.until_closed()
    name, _, facts = listener.events[-1]
    assert name == "error"
    assert facts["error_code"] == "ENGINE_STOPPED"
    assert "MusicGen Demo stays active." in facts["message"]


@pytest.mark.django_db(transaction=True)
def test_the_stream_for_the_active_model_is_done_at_once(client: Client) -> None:
    listener = Listener(post(client, {"model_id": "musicgen-demo"}, STREAM))
    listener.until_closed()
    ((name, _, facts),) = listener.events
    assert (name, facts["model_id"], facts["stage"]) == ("done", "musicgen-demo", "ready")
    assert not ModelSwitch.objects.exists()

"""A server that is killed or stopped in any stage of a switch: the next one has one model active, and it plays."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from registry.downloads.cache import part_path, storage_folder
from tests.conftest import Prepare, RunningStudio, wait_until
from tests.hub import FakeHub, blob_hashes
from tests.switching.models import PATIENCE
from tests.switching.servers import (
    active_models,
    ask,
    assert_plays,
    copy_home,
    kill,
    last_switch,
    make_home,
    rows,
    served,
    terminate,
    until_finished,
    until_stage,
)


@pytest.fixture
def hub(dwarfs: Path) -> Iterator[FakeHub]:
    """A hub with two models that are not installed."""
    with FakeHub({"studio/gamma": dwarfs / "mono", "studio/delta": dwarfs / "stereo"}) as running:
        yield running


@pytest.fixture(scope="module")
def made_home(prepared: Prepare, dwarfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with dwarf models: `alpha` is active, `beta` and `heavy` are here, the others on the hub."""
    models: dict[str, dict[str, Any]] = {
        "alpha": {"local_path": str(dwarfs / "mono")},
        "beta": {"local_path": str(dwarfs / "stereo"), "channels": 2},
        "heavy": {"local_path": str(dwarfs / "mono"), "vram_requirement_gb": 0.95},
        "gamma": {},
        "delta": {},
    }
    return make_home(prepared, tmp_path_factory.mktemp("made") / "home", models, active="alpha")


@pytest.fixture
def environment(made_home: Path, hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    """Of a studio in a copy of that home."""
    return copy_home(made_home, tmp_path / "home") | hub.environment(tmp_path / "hub")


def assert_failed(studio: RunningStudio, *, while_it_was: str, stays: str) -> None:
    """The switch that the dead server held has ended, with a sentence; what was active plays."""
    switch = until_stage(studio.home, "failed")
    assert switch["error_code"] == "ENGINE_STOPPED"
    assert switch["message"].startswith(f"The engine stopped while the switch was {while_it_was}.")
    assert f"{stays} stays active. Switch again" in switch["message"]
    assert ask(studio, "models/switch")["switch"]["message"] == switch["message"]
    assert_plays(studio, stays.lower())


def stream_and_leave(studio: RunningStudio, model_id: str) -> None:
    """Ask for a switch by the stream, hear one event, and go."""
    connection = http.client.HTTPConnection(urlsplit(studio.url).netloc, timeout=60)
    body = json.dumps({"model_id": model_id})
    connection.request("POST", "/api/models/switch/stream", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.readline() == b"event: stage\n"
    connection.close()


@pytest.mark.slow
def test_a_server_killed_in_any_stage_leaves_a_studio_that_plays(
    environment: dict[str, str], hub: FakeHub, dwarfs: Path
) -> None:
    with served(environment, options=["--no-engine"]) as studio:
        ask(studio, "models/switch", {"model_id": "beta"})
        assert until_stage(studio.home, "queued")["host"] == ""
        kill(studio)
    assert active_models(studio.home) == ["alpha"]

    hub.slow(4000, path=r"\.safetensors")
    with served(environment) as studio:
        until_stage(studio.home, "ready")  # it had only waited for an engine
        assert_plays(studio, "beta")
        stream_and_leave(studio, "gamma")
        until_stage(studio.home, "downloading")
        _, etag = blob_hashes((dwarfs / "mono" / "model.safetensors").read_bytes())
        part = part_path(storage_folder("studio/gamma", Path(environment["HF_HUB_CACHE"])), etag)
        wait_until(
            lambda: part.is_file() and part.stat().st_size > 0,
            seconds=PATIENCE,
            what="first bytes of the weights on the disk",
        )

        def is_told() -> bool:
            told = ask(studio, "models/switch")["switch"]
            return bool(told["bytes_total"]) and 0 < told["bytes_done"] < told["bytes_total"]

        wait_until(is_told, seconds=PATIENCE, what="bytes done and bytes in all")
        assert_plays(studio, "beta")  # music is made meanwhile
        until_stage(studio.home, "downloading")
        kill(studio)

    hub.heal()
    hub.forget_requests()
    with served(environment, hold_in="verifying") as studio:
        assert_failed(studio, while_it_was="downloading", stays="Beta")
        ask(studio, "models/switch", {"model_id": "gamma"})
        until_stage(studio.home, "verifying")
        assert [each.range for each in hub.fetched("model.safetensors") if each.range], "it went on"
        kill(studio)

    with served({**environment, "MUSICGEN_MEMORY_GB": "1.0"}) as studio:
        assert_failed(studio, while_it_was="verifying", stays="Beta")
        long = ask(studio, "generations", {"prompt": "piano", "duration_seconds": 30, "variations": 8})
        wait_until(
            lambda: ask(studio, f"generations/{long['id']}")["stage"] == "generating",
            seconds=PATIENCE,
            what="a job being made",
        )
        ask(studio, "models/switch", {"model_id": "heavy"})
        until_stage(studio.home, "waiting for jobs")
        kill(studio)
    assert active_models(studio.home) == ["beta"]

    with served(environment) as studio:
        ask(studio, f"generations/{long['id']}/cancel", {})
        assert_failed(studio, while_it_was="waiting for jobs", stays="Beta")
        ask(studio, "models/switch", {"model_id": "gamma"})
        until_stage(studio.home, "loading")
        kill(studio)

    with served(environment) as studio:
        assert_failed(studio, while_it_was="loading", stays="Beta")
        ask(studio, "models/switch", {"model_id": "gamma"})
        until_stage(studio.home, "ready")
        assert_plays(studio, "gamma")
        terminate(studio)
    assert not rows(studio.home, "SELECT * FROM generation_enginehost")


@pytest.mark.slow
def test_a_server_stopped_during_a_switch_ends_it_truly(environment: dict[str, str], hub: FakeHub) -> None:
    hub.slow(1000, path=r"\.safetensors")
    with served(environment) as studio:
        ask(studio, "models/switch", {"model_id": "delta"})
        until_stage(studio.home, "downloading")
        terminate(studio)
        switch = last_switch(studio.home)
        assert (switch["stage"], switch["error_code"]) == ("failed", "ENGINE_STOPPED")
        assert switch["message"] == "The engine was stopped. Switch again to go on. Alpha stays active."
    with served(environment) as studio:
        waiting = ask(studio, "generations", {"prompt": "piano", "duration_seconds": 0.1, "model": "beta"})
        until_finished(studio, waiting["id"], "beta")
        ask(studio, "models/switch", {"model_id": "alpha", "reload": True})
        until_stage(studio.home, "loading")
        terminate(studio)
        switch = last_switch(studio.home)
        # A quick machine is ready before it stops.
        assert (switch["stage"], switch["error_code"]) in {("failed", "ENGINE_STOPPED"), ("ready", "")}
    assert active_models(studio.home) == ["alpha"]
    assert not list((studio.home / "scratch").rglob("*.wav"))

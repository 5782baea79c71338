"""The activity page: staff see what the whole studio is doing, and nobody's prompts."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from generation.inside import disk
from generation.models import EngineHost, Job, JobStatus
from registry.models import ModelSwitch, SwitchStage
from tests.generation.music import HOST, make_job, make_running_job, make_take

PAGE = "/settings/inside/"


@pytest.fixture
def busy(home: Path, alice: User) -> Job:
    """A studio with a host at work, a silent one, a queue, failures, a switch and takes."""
    runner = {
        "model_id": "musicgen-demo",
        "pid": 2,
        "device": "cuda",
        "dtype": "float16",
        "memory_bytes": 2_100_000_000,
        "is_busy": True,
        "idle_seconds": 0,
    }
    EngineHost.objects.create(
        name=HOST,
        hostname="gpu-one",
        pid=7,
        state="working",
        device="cuda",
        device_name="H100",
        runners=[runner],
    )
    silent = timezone.now() - timedelta(minutes=3)
    EngineHost.objects.create(name="b", hostname="gpu-two", pid=8, state="ready", heartbeat_at=silent)
    make_take(alice, prompt="a private prompt", frames=300, render_seconds=2.0, host="gpu-one")
    make_job(
        alice,
        prompt="a private prompt",
        status=JobStatus.FAILED,
        finished_at=timezone.now(),
        error_message="Not <b>enough</b> memory.",
        request_id="abcdef",
    )
    make_job(alice, prompt="a private prompt", created_at=timezone.now() - timedelta(seconds=80))
    ModelSwitch.objects.create(
        model_id="musicgen-small",
        stage=SwitchStage.READY,
        open_slot=None,
        created_at=timezone.now() - timedelta(seconds=42),
        finished_at=timezone.now(),
    )
    disk._seen.clear()
    return make_running_job(
        alice, prompt="a private prompt", frames_done=25, frames_total=50, seconds_per_frame=0.02
    )


def text_of(client: Client, **headers: str) -> str:
    answer = client.get(PAGE, headers=headers)
    assert answer.status_code == 200
    html = answer.content.decode()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("\u202f", " ")


def test_it_tells_what_goes_on(client: Client, busy: Job) -> None:
    text = text_of(client)
    for part in (
        "Waiting 1 job",
        "Oldest has waited 1 min 2",
        "Being made 1 job",
        "Finished 1",
        "Failed 1",
        "Cancelled 0",
        "gpu-one process 7 working GPU · H100",
        "MusicGen Demo · 2.1 GB · in use",
        f"job {busy.pk}, MusicGen Demo, 50%, 50 steps/s",
        "gpu-two process 8 silent",
        "Not &lt;b&gt;enough&lt;/b&gt; memory.",
        "request abcdef",
        "MusicGen Demo on gpu-one 150 steps/s",
        "MusicGen Small, ready 42 s",
        "takes 3",
    ):
        assert part in text, (part, text)
    assert "a private prompt" not in text


def test_that_kernels_could_not_be_compiled_is_told(client: Client, busy: Job) -> None:
    reason = "No C compiler is installed here: install gcc or clang."
    assert "kernels" not in text_of(client)
    settings = client.get("/settings/").content.decode()
    assert "here than they could be" not in settings
    host = EngineHost.objects.get(name=HOST)
    host.runners[0]["no_kernels"] = reason
    host.save()
    assert f"Slower than it could be: {reason}" in text_of(client)
    settings = client.get("/settings/").content.decode()
    assert f"more slowly here than they could be. {reason}" in settings
    EngineHost.objects.filter(name=HOST).update(device="cpu")
    settings = client.get("/settings/").content.decode()
    assert f"several times slower here than they could be. {reason}" in settings


def test_an_empty_studio_says_so(client: Client, home: Path, db: None) -> None:
    text = text_of(client)
    for part in (
        "none waits",
        "No engine is running.",
        "No job has failed.",
        "No take was made in the last hour.",
    ):
        assert part in text


def test_the_page_asks_for_its_figures_alone(client: Client, busy: Job) -> None:
    whole = client.get(PAGE).content.decode()
    assert f'hx-get="{PAGE}"' in whole
    figures = client.get(PAGE, headers={"HX-Request": "true"}).content.decode()
    assert figures.strip().startswith("{#") is False
    assert '<div id="inside"' in figures
    assert "<html" not in figures
    # A visit over the navigation is a whole page, of which htmx takes its part.
    assert "<html" in client.get(PAGE, headers={"HX-Request": "true", "HX-Boosted": "true"}).content.decode()


def test_settings_lead_there_for_staff_only(
    shared_mode: None, client: Client, staff: User, bob: User
) -> None:
    client.force_login(staff)
    assert f'href="{PAGE}"' in client.get("/settings/").content.decode()
    assert client.get(PAGE).status_code == 200
    client.force_login(bob)
    assert f'href="{PAGE}"' not in client.get("/settings/").content.decode()
    assert client.get(PAGE).status_code == 403
    client.logout()
    assert client.get(PAGE).status_code == 302


def test_shared_mode_names_whose_job_failed(
    shared_mode: None, client: Client, busy: Job, staff: User
) -> None:
    client.force_login(staff)
    assert "MusicGen Demo · alice · request abcdef" in text_of(client)


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_it_only_reads(method: str, client: Client, db: None) -> None:
    assert getattr(client, method)(PAGE).status_code == 405


def test_a_host_with_another_release_s_words_does_not_break_it(client: Client, home: Path, db: None) -> None:
    runner: dict[str, Any] = {"model_id": "gone-model", "device": "cpu", "memory_bytes": 1, "is_busy": False}
    EngineHost.objects.create(
        name="x", hostname="x", pid=1, state="none", last_error="No room.", runners=[runner]
    )
    assert "gone-model" in text_of(client)
    assert "No room." in text_of(client)

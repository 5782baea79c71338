"""What the settings page does: the plan before a switch, starting and cancelling one, giving memory and disk back."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone
from django.utils.html import strip_tags

from gated_configs.wording import THIN_SPACE, gigabytes
from generation import settings_page
from generation.models import EngineHost
from registry import downloads
from registry.models import ModelSwitch, SwitchStage
from registry.services import activate_model, cancel_switch, get_model_config, request_switch, switches
from tests.generation.answers import assert_says_when_it_was_read
from tests.generation.music import make_job, make_running_job
from tests.hub import FakeHub
from tests.switching.models import dwarf

pytestmark = pytest.mark.django_db

SMALL = "musicgen-small"
HTMX: dict[str, Any] = {"HTTP_HX_REQUEST": "true"}


def words(answer: Any) -> str:
    """What an answer says."""
    html = answer.content.decode().replace(THIN_SPACE, " ").replace("\xa0", " ")
    return " ".join(strip_tags(html.replace("<", " <")).split())


def plan_of(model_id: str, *, reload: bool = False) -> settings_page.SwitchPlan:
    """The plan of a switch."""
    return settings_page.switch_plan(get_model_config(model_id), is_reload=reload)


def engine(*runners: tuple[str, int], **fields: Any) -> EngineHost:
    """A living engine that holds these models with so many bytes."""
    facts = [
        {"model_id": name, "memory_bytes": size, "is_busy": False, "pid": 1, "device": "cpu",
         "dtype": "float32", "idle_seconds": 60}
        for name, size in runners
    ]  # fmt: skip
    return EngineHost.objects.create(name="host", hostname="h", pid=1, runners=facts, **fields)


@pytest.fixture
def hub(dwarfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that holds one dwarf."""
    with FakeHub({"studio/gamma": dwarfs / "mono"}) as running:
        for name, value in running.environment(tmp_path / "hub").items():
            monkeypatch.setenv(name, value)
        yield running


# The plan.


def test_the_plan_of_an_installed_model(dwarfs: Path, settings: Any, owner: User) -> None:
    dwarf("here", dwarfs / "mono", vram_requirement_gb=2)
    settings.STUDIO = settings.STUDIO.model_copy(update={"memory_gb": 5, "device": "cpu"})
    engine(("musicgen-demo", 10**9))
    make_running_job(owner)
    make_job(owner)
    plan = plan_of("here")
    assert (plan.bytes_to_fetch, plan.fetch_problem) == (0, "")
    assert (plan.jobs_waiting, plan.job_running, plan.last_seconds) == (1, True, None)
    assert plan.both_fit
    assert plan.fit.verdict == "comfortable"
    assert plan.free_disk_bytes > 0
    assert plan.other_switch is None
    # Four of five are needed: alone it fits, beside the demo it does not.
    dwarf("heavy", dwarfs / "mono", vram_requirement_gb=4.5)
    heavy = plan_of("heavy")
    assert (heavy.both_fit, heavy.fit.verdict) == (False, "barely")
    dwarf("huge", dwarfs / "mono", vram_requirement_gb=6)
    assert plan_of("huge").fit.verdict == "not"


def test_the_plan_tells_what_there_is_to_fetch(hub: FakeHub, dwarfs: Path, client: Client) -> None:
    dwarf("gamma", "", hf_model_id="studio/gamma")
    plan = plan_of("gamma")
    files = (path for path in (dwarfs / "mono").iterdir())
    assert plan.bytes_to_fetch is not None
    weights = (dwarfs / "mono" / "model.safetensors").stat().st_size
    assert weights < plan.bytes_to_fetch <= sum(path.stat().st_size for path in files)
    assert "to fetch" in words(client.get("/settings/switch/gamma/", **HTMX))
    hub.answer(500)
    plan = plan_of("gamma")
    assert plan.bytes_to_fetch is None
    assert plan.fetch_problem
    assert plan.fetch_problem in words(client.get("/settings/switch/gamma/", **HTMX))


def test_the_plan_knows_how_long_it_took_last_time(dwarfs: Path, client: Client) -> None:
    dwarf("here", dwarfs / "mono")
    now = timezone.now()
    for seconds, stage in ((100, "ready"), (12, "ready"), (3, "failed")):
        ModelSwitch.objects.create(
            model_id="here", stage=stage, open_slot=None, created_at=now,
            finished_at=now + timedelta(seconds=seconds),
        )  # fmt: skip
    assert plan_of("here").last_seconds == 12
    assert "12 s last time" in words(client.get("/settings/switch/here/", **HTMX))


def test_the_plan_names_the_switch_under_way(dwarfs: Path, client: Client) -> None:
    dwarf("here", dwarfs / "mono")
    request_switch(SMALL)
    other = plan_of("here").other_switch
    assert other is not None
    assert other.model_name == "MusicGen Small"
    assert "MusicGen Small is under way" in words(client.get("/settings/switch/here/", **HTMX))


def test_the_plan_page_works_without_scripts(client: Client, locked: str) -> None:
    assert "Switch to MusicGen Demo" in words(client.get("/settings/switch/musicgen-demo/"))
    assert "Reload MusicGen Demo" in words(client.get("/settings/switch/musicgen-demo/?reload=1"))
    assert client.get("/settings/switch/no-such/").status_code == 404
    assert client.get(f"/settings/switch/{locked}/", **HTMX).status_code == 400
    assert client.post("/settings/switch/musicgen-demo/").status_code == 405


# Starting and cancelling.


def test_a_switch_starts_and_is_shown(client: Client) -> None:
    answer = client.post("/settings/switch/", {"model_id": SMALL}, **HTMX)
    assert answer.status_code == 200
    assert "Switching to MusicGen Small" in words(answer)
    assert_says_when_it_was_read(answer)
    switch = ModelSwitch.objects.get()
    assert client.post("/settings/switch/", {"model_id": SMALL}, **HTMX).status_code == 200
    refused = client.post("/settings/switch/", {"model_id": "musicgen-medium"}, **HTMX)
    assert refused.status_code == 409
    assert "MusicGen Small is under way" in words(refused)
    assert ModelSwitch.objects.get() == switch
    answer = client.post("/settings/switch/cancel/", **HTMX)
    assert ModelSwitch.objects.get().stage == "cancelled"
    assert 'data-state="cancelled"' in answer.content.decode()
    assert_says_when_it_was_read(answer)


@pytest.mark.parametrize("model_id", ["", "no-such", "musicgen-stereo-large", "x" * 5000])
def test_a_switch_to_nothing_is_refused_with_a_sentence(client: Client, model_id: str, locked: str) -> None:
    answer = client.post("/settings/switch/", {"model_id": model_id}, **HTMX)
    assert answer.status_code == 400
    assert len(words(answer)) > 20
    assert not ModelSwitch.objects.exists()


def test_the_active_model_is_said_to_be_active(client: Client) -> None:
    answer = client.post("/settings/switch/", {"model_id": "musicgen-demo"}, **HTMX)
    assert "already active" in words(answer)
    assert not ModelSwitch.objects.exists()
    client.post("/settings/switch/", {"model_id": "musicgen-demo", "reload": "1"}, **HTMX)
    assert ModelSwitch.objects.get().is_reload


def test_without_scripts_forms_lead_back_to_the_page(client: Client) -> None:
    answer = client.post("/settings/switch/", {"model_id": SMALL})
    assert (answer.status_code, answer["Location"]) == (302, "/settings/")
    assert "Switching to MusicGen Small" in words(client.get("/settings/"))
    answer = client.post("/settings/switch/", {"model_id": "musicgen-medium"})
    assert answer.status_code == 302
    assert any("under way" in str(message) for message in get_messages(answer.wsgi_request))
    assert client.post("/settings/switch/cancel/").status_code == 302
    assert ModelSwitch.objects.get().stage == "cancelled"


def test_a_failure_stays_to_be_read(client: Client) -> None:
    request_switch(SMALL)
    assert switches.claim_switch("host") is not None
    switches.recover_switches(is_alive=lambda name: False)
    shown = words(client.get("/settings/"))
    assert "MusicGen Small was not made active" in shown
    assert "MusicGen Demo stays active." in shown


# Giving back.


def test_free_memory_asks_living_engines(client: Client) -> None:
    assert "No engine is running" in words(client.post("/settings/free-memory/", **HTMX))
    host = engine(("musicgen-demo", 10))
    assert "Idle models are being ended" in words(client.post("/settings/free-memory/", **HTMX))
    host.refresh_from_db()
    assert host.free_memory_requested


def install(model_id: str) -> None:
    """Fetch a model from the hub."""
    model = get_model_config(model_id)
    plan = downloads.plan_download(model.hf_model_id, model.revision)
    downloads.download(plan, on_bytes=lambda done, total: None, should_stop=lambda: False)


def test_a_model_is_removed_with_the_bytes_shown_first(client: Client, hub: FakeHub, owner: User) -> None:
    dwarf("gamma", "", hf_model_id="studio/gamma")
    remove = "/settings/models/gamma/remove/"
    assert "is not installed" in words(client.post(remove, **HTMX))
    install("gamma")
    folder = downloads.installed_folder("studio/gamma")
    assert folder is not None
    frees = f"Frees {gigabytes(settings_page._folder_bytes(folder)).replace(THIN_SPACE, ' ')} on this disk."
    assert frees in words(client.get("/settings/"))

    def refusal() -> str:
        answer = client.post(remove, **HTMX)
        assert answer.status_code == 400
        assert folder.is_dir()
        return words(answer)

    activate_model("gamma")
    assert "is active and cannot be removed" in refusal()
    activate_model("musicgen-demo")
    switch = request_switch("gamma").switch
    assert switch is not None
    assert "A switch to Gamma is under way" in refusal()
    cancel_switch(switch)
    job = make_job(owner, model_id="gamma")
    assert "Jobs for Gamma are in the queue" in refusal()
    job.delete()
    host = engine(("gamma", 10))
    assert "is loaded. Free its memory first." in refusal()
    host.delete()
    answer = client.post(remove, **HTMX)
    assert answer.status_code == 200
    assert "Removed Gamma:" in words(answer)
    assert "freed" in words(answer)
    assert not folder.exists()
    assert downloads.installed_folder("studio/gamma") is None


def test_a_folder_of_ones_own_is_never_removed(client: Client, dwarfs: Path) -> None:
    dwarf("here", dwarfs / "mono")
    answer = client.post("/settings/models/here/remove/", **HTMX)
    assert answer.status_code == 400
    assert "a folder of its own" in words(answer)
    assert (dwarfs / "mono" / "model.safetensors").exists()
    assert client.post("/settings/models/no-such/remove/", **HTMX).status_code == 404
    assert client.get("/settings/models/here/remove/").status_code == 405


# Who may.


@pytest.mark.usefixtures("shared_mode")
def test_in_shared_mode_only_staff_change_the_engine(client: Client, alice: User, staff: User) -> None:
    actions = ["switch/", "switch/cancel/", "free-memory/", f"models/{SMALL}/remove/"]
    client.force_login(alice)
    for action in actions:
        assert client.post(f"/settings/{action}", {"model_id": SMALL}).status_code == 403, action
    assert client.get(f"/settings/switch/{SMALL}/").status_code == 403
    shown = client.get("/settings/").content.decode()
    assert "Only staff switch models here." in shown
    assert "data-switch-open" not in shown
    assert not ModelSwitch.objects.exists()
    client.force_login(staff)
    assert "data-switch-open" in client.get("/settings/").content.decode()
    assert client.post("/settings/switch/", {"model_id": SMALL}).status_code == 302
    assert ModelSwitch.objects.get().requested_by == staff
    client.force_login(alice)
    assert client.post("/settings/switch/cancel/").status_code == 403
    assert ModelSwitch.objects.get().is_open
    assert "Switching to MusicGen Small" in words(client.get("/settings/")), "anybody may watch"


def test_the_page_shows_what_is_loaded_and_for_how_long(client: Client) -> None:
    engine(("musicgen-demo", 400_000_000), (SMALL, 2_500_000_000))
    shown = words(client.get("/settings/"))
    assert "2.9 GB" in shown
    assert "stays loaded" in shown
    assert "ends in about 14 min" in shown or "ends in 14 min" in shown, shown
    ModelSwitch.objects.create(model_id=SMALL, stage=SwitchStage.READY, open_slot=None)
    assert 'data-state="none"' in client.get("/settings/").content.decode(), "a success needs no notice"

"""`manage.py switch_model`: asks the running server, or switches by itself; its exit status tells scripts the truth."""

import json
import os
import pty
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from generation.models import EngineHost
from registry.models import ModelSwitch
from registry.services import open_switch, request_switch
from tests.conftest import ROOT, Prepare, wait_until
from tests.site.test_studio_settings import manage
from tests.switching.models import PATIENCE
from tests.switching.servers import (
    HELD_MANAGE,
    active_models,
    ask,
    assert_plays,
    copy_home,
    last_switch,
    make_home,
    rows,
    served,
    until_stage,
)


@pytest.fixture(scope="module")
def made_home(prepared: Prepare, dwarfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two dwarf models and a broken one."""
    models: dict[str, dict[str, Any]] = {
        "alpha": {"local_path": str(dwarfs / "mono")},
        "beta": {"local_path": str(dwarfs / "stereo"), "channels": 2},
        "broken": {"local_path": str(dwarfs / "truncated")},
    }
    return make_home(prepared, tmp_path_factory.mktemp("made") / "home", models, active="alpha")


@pytest.fixture
def environment(made_home: Path, tmp_path: Path) -> dict[str, str]:
    """Of a studio in a copy of that home."""
    return copy_home(made_home, tmp_path / "home")


def home_of(environment: dict[str, str]) -> Path:
    return Path(environment["MUSICGEN_HOME"])


def switch_model(
    *arguments: str, environment: dict[str, str], status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the command and hold its exit status against what is expected."""
    ended = manage("switch_model", *arguments, environment=environment)
    assert ended.returncode == status, (ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr
    return ended


def told(*arguments: str, environment: dict[str, str], status: int = 0) -> dict[str, Any]:
    """What it prints with --json: one object, and nothing else."""
    ended = switch_model(*arguments, "--json", environment=environment, status=status)
    facts: dict[str, Any] = json.loads(ended.stdout)
    return facts


@pytest.mark.slow
def test_it_asks_the_running_server(environment: dict[str, str]) -> None:
    with served(environment) as studio:
        wait_until(
            lambda: bool(rows(studio.home, "SELECT * FROM generation_enginehost")),
            seconds=60,
            what="an engine that says it lives",
        )
        facts = told("beta", environment=environment)
        assert (facts["outcome"], facts["model_id"]) == ("started", "beta")
        assert facts["switch"]["stage"] == "ready"
        assert facts["switch"]["elapsed_seconds"] > 0
        assert active_models(studio.home) == ["beta"]
        hosts = rows(studio.home, "SELECT * FROM generation_enginehost")
        assert [host["pid"] for host in hosts] == [studio.process.pid], "the server carried it out"
        assert_plays(studio, "beta")

        said = switch_model("beta", environment=environment)
        assert said.stdout.strip() == "Beta is already active. Reload it to start it anew."
        failed = switch_model("broken", "--json", environment=environment, status=1)
        assert "model.safetensors of truncated is damaged." in failed.stderr
        assert "Beta stays active." in failed.stderr
        facts = json.loads(failed.stdout)
        assert facts["error_code"] == "FILE_CORRUPT"
        assert "Beta stays active." in facts["error"]

        facts = told("beta", "--reload", "--no-wait", environment=environment)
        assert (facts["outcome"], facts["switch"]["is_reload"]) == ("started", True)
        until_stage(studio.home, "ready")

        listed = {model["id"]: model for model in ask(studio, "models")["models"]}
        assert listed["beta"]["is_active"]
        assert listed["broken"]["is_installed"], "the folder is there"
        wait_until(
            lambda: any(
                model["id"] == "beta" and model["is_loaded"] for model in ask(studio, "models")["models"]
            ),
            seconds=PATIENCE,
            what="it being loaded",
        )
        assert any(line.startswith("*  beta") and "loaded" in line for line in list_models(environment))


def list_models(environment: dict[str, str]) -> list[str]:
    """The lines of `list_models`."""
    return manage("list_models", environment=environment).stdout.splitlines()


@pytest.mark.slow
def test_without_a_server_it_switches_by_itself(environment: dict[str, str]) -> None:
    home = home_of(environment)
    said = switch_model("beta", environment=environment)
    assert said.stdout.startswith("Beta is ready. It took ")
    assert "\r" not in said.stderr, "progress is for terminals"
    assert "░" not in said.stderr
    assert active_models(home) == ["beta"]
    assert rows(home, "SELECT * FROM generation_enginehost") == []
    assert not list((home / "scratch").glob("*"))

    with served(environment) as studio:
        assert_plays(studio, "beta")  # the next start uses it


# What needs no engine to be told.


def printed(*arguments: str) -> dict[str, Any]:
    """What the command prints with --json, in this process."""
    out = StringIO()
    call_command("switch_model", *arguments, "--json", stdout=out, stderr=StringIO())
    facts: dict[str, Any] = json.loads(out.getvalue())
    return facts


def refused(*arguments: str) -> tuple[str, str]:
    """Code and sentence of a refusal; it exits 1 and prints both."""
    out = StringIO()
    with pytest.raises(CommandError) as problem:
        call_command("switch_model", *arguments, "--json", stdout=out, stderr=StringIO())
    facts = json.loads(out.getvalue())
    assert problem.value.returncode == 1
    assert str(problem.value) == facts["error"]
    return facts["error_code"], facts["error"]


@pytest.mark.django_db
def test_what_cannot_be_is_refused_at_once(locked: str) -> None:
    assert refused("no-such")[0] == "MODEL_NOT_FOUND"
    assert refused(locked)[0] == "MODEL_NOT_PLAYABLE"
    code, sentence = refused("musicgen-small", "--no-wait")
    assert (code, sentence[:20]) == ("NO_ENGINE", "No server is running")
    assert ModelSwitch.objects.get().stage == "cancelled", "nobody would carry it out"
    request_switch("musicgen-small")
    code, sentence = refused("musicgen-medium")
    assert code == "SWITCH_UNDER_WAY"
    assert "A switch to MusicGen Small is under way" in sentence
    assert open_switch() is not None


@pytest.mark.django_db
def test_without_waiting_it_only_asks() -> None:
    EngineHost.objects.create(name="host", hostname="h", pid=1)
    facts = printed("musicgen-demo")
    assert (facts["outcome"], facts["switch"], facts["model_id"]) == ("already active", None, "musicgen-demo")
    facts = printed("facebook/musicgen-small", "--no-wait")
    assert (facts["outcome"], facts["switch"]["stage"]) == ("started", "queued")
    assert printed("musicgen-small", "--no-wait")["outcome"] == "joined"
    assert ModelSwitch.objects.count() == 1


# On a terminal.


def test_ctrl_c_cancels_while_that_is_possible(environment: dict[str, str]) -> None:
    command = subprocess.Popen(
        [sys.executable, HELD_MANAGE, "manage.py", "switch_model", "beta"],
        cwd=ROOT,
        env={**environment, "HOLD_IN": "verifying"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    home = home_of(environment)
    try:
        wait_until(
            lambda: bool(rows(home, "SELECT * FROM registry_modelswitch")), seconds=PATIENCE, what="a switch"
        )
        until_stage(home, "verifying")
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=PATIENCE)
    finally:
        command.kill()
        command.wait()
    assert command.returncode == 130, (out, err)
    assert out == ""
    assert "Cancelled. Alpha stays active." in err
    assert last_switch(home)["stage"] == "cancelled"
    assert active_models(home) == ["alpha"]
    assert rows(home, "SELECT * FROM generation_enginehost") == []


def test_on_a_terminal_it_shows_progress(environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "manage.py", "switch_model", "broken"],
        cwd=ROOT,
        env={**environment, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        out, _ = command.communicate(timeout=PATIENCE)
    finally:
        os.close(ours)
        command.kill()
        command.wait()
    text = shown.decode()
    assert command.returncode == 1
    assert "░" in text
    assert "Broken: " in text
    assert text.count("\r\033[K") >= 2, "it is drawn over itself and wiped away"
    assert "Alpha stays active." in text
    assert active_models(home_of(environment)) == ["alpha"]
    assert out == b""

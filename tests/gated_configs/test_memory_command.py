"""`manage.py model_memory` over ids: built-in and saved models, and those of the hub."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from gated_configs.models import UserModelConfig
from gated_configs.services.submission import save_config
from tests.conftest import ROOT
from tests.gated_configs.conftest import TINY
from tests.hub import FakeHub


def _output(*arguments: object) -> str:
    out = StringIO()
    call_command("model_memory", *map(str, arguments), stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_names_the_source_of_each(fake: FakeHub, owner: User) -> None:
    save_config(owner=owner, model_id="studio/mine", config=dict(TINY), submitted_by=owner)
    sources = {
        "studio/mine": ("own", "Your saved config, version 1"),
        "musicgen-small": ("builtin", "Built in"),
        "studio/tiny": ("hub", "From the hub, commit"),
    }
    for name, (source, words) in sources.items():
        facts = json.loads(_output(name, "--json"))
        assert (facts["source"], facts["model_id"].endswith(name)) == (source, True)
        assert facts["source_detail"].startswith(words)
        assert words in _output(name).splitlines()[0]


@pytest.mark.django_db
def test_a_gated_model_is_told_with_what_to_do_and_then_computed(fake: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"is gated.*model_memory meta-llama/gated --config FILE"):
        _output("meta-llama/gated")
    path = tmp_path / "downloaded.json"
    path.write_text(json.dumps(TINY))
    fake.forget_requests()
    assert "version 1" in _output("meta-llama/gated", "--config", path)
    assert json.loads(_output("meta-llama/gated", "--json"))["source"] == "own"
    assert UserModelConfig.objects.get().owner is not None
    assert fake.fetched() == []


@pytest.mark.django_db
def test_a_config_that_is_none_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "page.json"
    path.write_text("<html></html>")
    with pytest.raises(CommandError, match="HTML page"):
        _output("meta-llama/gated", "--config", path)
    with pytest.raises(CommandError, match="There is no file"):
        _output("meta-llama/gated", "--config", tmp_path / "none.json")
    assert not UserModelConfig.objects.exists()


@pytest.mark.django_db
def test_in_shared_mode_nobodys_config_is_used_or_saved(
    shared_mode: None, fake: FakeHub, alice: User, tmp_path: Path
) -> None:
    save_config(owner=alice, model_id="meta-llama/gated", config=dict(TINY), submitted_by=alice)
    with pytest.raises(CommandError, match="is gated"):
        _output("meta-llama/gated")
    with pytest.raises(CommandError, match="shared mode"):
        _output("meta-llama/gated", "--config", tmp_path)


@pytest.mark.django_db
def test_a_refusal_is_json_too(fake: FakeHub) -> None:
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("model_memory", "meta-llama/gated", "--json", stdout=out)
    refusal = json.loads(out.getvalue())
    assert (refusal["error_code"], refusal["requires_config"]) == ("MODEL_GATED", True)


def test_an_empty_home_is_enough_for_what_is_built_in(studio_environment: dict[str, str]) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", "model_memory", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=studio_environment, capture_output=True, text=True, check=False
        )

    found = run("musicgen-small", "--duration", "10")
    assert found.returncode == 0, found.stderr
    assert "10 s of music" in found.stdout
    refused = run("studio/tiny")
    assert refused.returncode == 1
    assert "manage.py migrate" in refused.stderr
    assert "Traceback" not in refused.stderr

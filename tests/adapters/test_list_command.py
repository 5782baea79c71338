"""`manage.py list_adapters`: what is there, what works with a model, and why the rest does not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from adapters.models import Adapter, AdapterProof, ProofStatus
from adapters.services.importing import ZipSource, import_adapter
from tests.adapters.test_importing import home, small_files, write_zip  # noqa: F401 - a fixture
from tests.adapters.zips import adapter_files


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command("list_adapters", *arguments, stdout=output)
    return output.getvalue()


@pytest.fixture
def adapter(db: None, tmp_path: Path) -> Adapter:
    return import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip", small_files()), "jazz.zip")).adapter


def test_without_any_it_says_how_to_get_one(db: None) -> None:
    assert "import_adapter" in run()
    assert "that works with MusicGen Small" in run("--compatible-with", "musicgen-small")


def test_each_is_judged_for_the_active_model(adapter: Adapter) -> None:
    head, line = run().splitlines()
    assert head.split()[:2] == ["id", "adapter"]
    assert line.split()[0] == str(adapter.pk)
    assert "Jazz v1.0" in line
    assert "MusicGen Small" in line
    assert "no: Requires MusicGen Small" in line


def test_those_that_work_with_a_model_are_listed(adapter: Adapter, tmp_path: Path) -> None:
    other = import_adapter(
        source=ZipSource(write_zip(tmp_path / "b.zip", adapter_files(seed=8)), "tiny.zip")
    ).adapter
    said = run("--compatible-with", "facebook/musicgen-small")
    assert "works: Made for MusicGen Small" in said
    assert str(other) not in said
    assert str(other) in run()


def test_proofs_are_told(adapter: Adapter) -> None:
    AdapterProof.objects.create(
        adapter=adapter,
        model_id="musicgen-small",
        status=ProofStatus.FAILED,
        error_code="X",
        error_message="Why.",
    )
    assert " failed " in run("--compatible-with", "musicgen-small")


def test_json_tells_what_the_api_tells(adapter: Adapter) -> None:
    told = json.loads(run("--json"))
    assert [row["id"] for row in told["adapters"]] == [adapter.pk]
    assert told["adapters"][0]["verdict"]["is_usable"] is False
    told = json.loads(run("--json", "--compatible-with", "musicgen-small"))
    assert told["adapters"][0]["verdict"]["verdict"] == "exact"


def test_a_model_that_is_not_there_is_refused(db: None) -> None:
    with pytest.raises(CommandError, match="There is no model 'none'"):
        run("--compatible-with", "none")

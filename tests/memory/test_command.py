"""`manage.py model_memory` over files."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.memory.conftest import sample_config


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(sample_config("llama-3-8b")))
    return path


def _output(*arguments: object) -> str:
    out = StringIO()
    call_command("model_memory", *map(str, arguments), stdout=out)
    return out.getvalue()


def test_prints_what_a_person_asks_first(config_file: Path) -> None:
    text = _output(config_file, "--gpu", "rtx-4090")
    assert "8,030,261,248" in text
    assert "16.06 GB (14.96 GiB)" in text
    assert "GeForce RTX 4090 24 GB: fits" in text


def test_takes_the_folder_too(config_file: Path) -> None:
    assert "LlamaForCausalLM" in _output(config_file.parent)


def test_prints_one_json_object(config_file: Path) -> None:
    facts = json.loads(
        _output(
            config_file,
            "--json",
            "--precision",
            "int4",
            "--batch",
            2,
            "--context",
            4096,
            "--gpu",
            "a100-80gb",
        )
    )
    assert facts["architecture"]["parameters"]["total"] == 8_030_261_248
    assert facts["estimate"]["key_value_bytes"] == 2 * 4096 * 131_072
    assert facts["gpu"]["fits"] is True


def test_takes_seconds_for_music(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(sample_config("musicgen-small")))
    facts = json.loads(_output(path, "--json", "--duration", 12))
    assert facts["estimate"]["steps"] == 603


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["./nothing/here"], "There is no file 'nothing/here'"),
        (["nothing.json"], "There is no file 'nothing.json'"),
        (["no model"], "no model's name has"),
        (["FILE", "--gpu", "abacus"], "no card in the list"),
        (["FILE", "--precision", "int3"], "no known format"),
        (["FILE", "--batch", "0"], "batch_size is a whole number from 1"),
        (["FILE", "--duration", "nan"], "duration_seconds is a number above 0"),
        (["FILE", "--config", "FILE"], "name the model as owner/name"),
    ],
)
def test_refuses_with_one_sentence(config_file: Path, arguments: list[str], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        _output(*[str(config_file) if argument == "FILE" else argument for argument in arguments])


def test_refuses_what_is_no_config(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(CommandError, match="HTML page"):
        _output(path)

"""`manage.py import_adapter`: a folder, a zip or the hub, by one word."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from adapters.models import Adapter
from tests.adapters.test_importing import (  # noqa: F401 - fixtures
    REPO,
    home,
    hub,
    left_in,
    small_files,
    write_folder,
    write_zip,
)
from tests.adapters.zips import adapter_files
from tests.conftest import ROOT
from tests.hub import FakeHub


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command("import_adapter", *arguments, stdout=output)
    return output.getvalue()


def refused(*arguments: str) -> tuple[str, Any]:
    """The sentence, and the object that --json prints."""
    output = io.StringIO()
    with pytest.raises(CommandError) as error:
        call_command("import_adapter", *arguments, "--json", stdout=output)
    return str(error.value), json.loads(output.getvalue())


def test_a_folder_is_imported_and_said_so(db: None, tmp_path: Path) -> None:
    said = run(str(write_folder(tmp_path / "my_jazz-adapter", small_files())))
    adapter = Adapter.objects.get()
    assert f"Imported My Jazz Adapter v1.0 as adapter {adapter.pk}" in said
    assert "rank 4" in said
    assert "Requires MusicGen Small" in said
    assert adapter.imported_by is None


def test_a_zip_is_imported_with_wishes(db: None, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", small_files(base_model_name_or_path=None))
    wishes = ["--name", "Jazz", "--version", "2.1", "--description", "Warm", "--trigger-words", "swing"]
    run(str(path), *wishes, "--base-model", "musicgen-small")
    adapter = Adapter.objects.get()
    assert (str(adapter), adapter.description, adapter.trigger_words) == ("Jazz v2.1", "Warm", "swing")
    assert adapter.base_model_id == "musicgen-small"


def test_the_weights_file_stands_for_its_folder(db: None, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "jazz")
    run(str(folder / "adapter_model.safetensors"))
    assert Adapter.objects.get().name == "Jazz"


def test_a_relative_path_is_read_from_here(db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "jazz")
    monkeypatch.chdir(tmp_path)
    run("jazz")
    monkeypatch.chdir(tmp_path / "jazz")
    assert "is there already" in run(".")
    assert Adapter.objects.get().name == "Jazz"


def test_a_hub_id_is_fetched(db: None, hub: FakeHub) -> None:  # noqa: F811
    run(REPO)
    assert Adapter.objects.get().source == "hub"
    hub.publish(REPO, adapter_files(seed=9), ref="v2")
    run(f"{REPO}@v2", "--version", "2")
    assert Adapter.objects.count() == 2


def test_json_tells_what_the_api_tells(db: None, tmp_path: Path) -> None:
    path = str(write_zip(tmp_path / "jazz.zip", small_files()))
    told = json.loads(run(path, "--json"))
    assert told["created"] is True
    assert told["adapter"]["label"] == "Jazz v1.0"
    assert told["adapter"]["base_model_config"]["display_name"] == "MusicGen Small"
    assert json.loads(run(path, "--json"))["created"] is False


def test_the_same_again_is_said(db: None, tmp_path: Path) -> None:
    path = str(write_zip(tmp_path / "jazz.zip"))
    run(path)
    assert "Jazz v1.0 is there already" in run(path)


def test_notes_are_said(db: None, tmp_path: Path) -> None:
    said = run(str(write_folder(tmp_path / "a", {**adapter_files(), "optimizer.pt": b"x"})))
    assert "optimizer.pt" in said


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("none", "no folder or file 'none' here"),
        ("./none", "Check the path"),
        ("~nobody-of-this-name/x", "Check the path"),
        ("/none/at/all", "Check the path"),
        ("none.zip", "no folder or file"),
        ("a/b/c", "Check the path"),
        ("", "no folder or file"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_a_word_that_is_nothing_is_explained(word: str, says: str, db: None) -> None:
    sentence, told = refused(word)
    assert told["error_code"] == "FOLDER_NOT_FOUND"
    assert sentence.endswith(".")
    assert says in sentence or says.removesuffix(" here") in sentence


def test_a_refusal_is_a_sentence_and_leaves_nothing(db: None, home: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "a.zip").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(99))
    sentence, told = refused(str(tmp_path / "a.zip"))
    assert "7z archive" in sentence
    assert told["error_code"] == "NOT_A_ZIP"
    assert left_in(home) == []


def test_a_base_that_is_not_there_is_refused(db: None, tmp_path: Path) -> None:
    _, told = refused(str(write_zip(tmp_path / "a.zip")), "--base-model", "none")
    assert told["error_code"] == "MODEL_NOT_FOUND"


def test_without_a_database_it_says_so(studio_environment: dict[str, str], tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    ended = subprocess.run(
        [sys.executable, "manage.py", "import_adapter", str(path)],
        cwd=ROOT,
        env=studio_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "manage.py migrate" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_works_without_torch_in_a_studio_of_its_own(
    studio_environment: dict[str, str], tmp_path: Path
) -> None:
    path = write_zip(tmp_path / "jazz.zip", small_files())

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-X", "importtime", "manage.py", *arguments],
            cwd=ROOT,
            env=studio_environment,
            capture_output=True,
            text=True,
            check=True,
        )

    manage("migrate", "--verbosity", "0")
    imported = manage("import_adapter", str(path), "--json")
    assert json.loads(imported.stdout)["created"] is True
    listed = manage("list_adapters", "--json")
    assert json.loads(listed.stdout)["total"] == 1
    for ended in (imported, listed):
        assert not any(
            f" {name}\n" in ended.stderr for name in ("torch", "transformers", "peft", "safetensors")
        )
        assert " django\n" in ended.stderr

"""Adapters in the admin: edit, read verdicts and proofs, import a zip; no deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from adapters.models import Adapter, AdapterProof, ProofStatus
from adapters.services.importing import ZipSource, import_adapter
from registry.models import ModelConfig
from tests.adapters.test_importing import home, left_in, small_files, write_zip  # noqa: F401 - a fixture
from tests.adapters.zips import adapter_files, zipped
from tests.media_files import weights_file

LIST = "/admin/adapters/adapter/"
ADD = f"{LIST}add/"


@pytest.fixture
def adapter(db: None, tmp_path: Path) -> Adapter:
    return import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip", small_files()), "jazz.zip")).adapter


@pytest.fixture
def admin(client: Client, owner: User) -> Client:
    return client


def page(admin: Client, path: str) -> str:
    answer = admin.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def fields(adapter: Adapter, **changes: Any) -> dict[str, Any]:
    said = {
        "name": adapter.name,
        "version": adapter.version,
        "description": adapter.description,
        "trigger_words": adapter.trigger_words,
        "default_strength": adapter.default_strength,
        "base_model": adapter.base_model_id or "",
        "proofs-TOTAL_FORMS": 0,
        "proofs-INITIAL_FORMS": 0,
    }
    return {**said, **changes}


def test_they_are_listed_and_found(admin: Client, adapter: Adapter) -> None:
    assert "Jazz" in page(admin, LIST)
    assert "Jazz" not in page(admin, f"{LIST}?q=trumpet").split('id="changelist-form"')[1]


def test_verdicts_and_proofs_are_shown(admin: Client, adapter: Adapter) -> None:
    AdapterProof.objects.create(
        adapter=adapter,
        model_id="musicgen-small",
        status=ProofStatus.FAILED,
        error_code="X",
        error_message="It failed so.",
    )
    shown = page(admin, f"{LIST}{adapter.pk}/change/")
    assert "MusicGen Small: exact (Made for MusicGen Small)" in shown
    assert "MusicGen Large: incompatible (Requires MusicGen Small)" in shown
    assert "It failed so." in shown
    assert adapter.sha256 in shown


def test_what_is_said_can_be_edited(admin: Client, adapter: Adapter) -> None:
    answer = admin.post(f"{LIST}{adapter.pk}/change/", fields(adapter, name="Slow", default_strength="0.5"))
    assert answer.status_code == 302, answer.content.decode()[-3000:]
    adapter.refresh_from_db()
    assert (adapter.name, adapter.default_strength, adapter.base_model_id) == ("Slow", 0.5, "musicgen-small")


def test_an_impossible_base_is_refused(admin: Client, adapter: Adapter) -> None:
    answer = admin.post(f"{LIST}{adapter.pk}/change/", fields(adapter, base_model="musicgen-large"))
    assert answer.status_code == 200
    assert "MusicGen Large cannot be its base model" in answer.content.decode()
    adapter.refresh_from_db()
    assert adapter.base_model_id == "musicgen-small"


def test_a_name_of_another_is_refused(admin: Client, adapter: Adapter, tmp_path: Path) -> None:
    import_adapter(source=ZipSource(write_zip(tmp_path / "b.zip")), name="Other")
    answer = admin.post(f"{LIST}{adapter.pk}/change/", fields(adapter, name="other"))
    assert "Choose another version" in answer.content.decode()


def test_what_is_said_keeps_to_the_same_rules(admin: Client, adapter: Adapter) -> None:
    answer = admin.post(f"{LIST}{adapter.pk}/change/", fields(adapter, name="\u200b"))
    assert "Give the adapter a name." in answer.content.decode()
    admin.post(f"{LIST}{adapter.pk}/change/", fields(adapter, name="Slow\u202e Jazz"))
    adapter.refresh_from_db()
    assert adapter.name == "Slow Jazz"


def test_facts_of_the_file_cannot_be_edited(admin: Client, adapter: Adapter) -> None:
    admin.post(f"{LIST}{adapter.pk}/change/", fields(adapter, rank=99, sha256="0" * 64, source_name="x"))
    before = adapter.rank, adapter.sha256, adapter.source_name
    adapter.refresh_from_db()
    assert (adapter.rank, adapter.sha256, adapter.source_name) == before


def test_a_zip_is_imported(admin: Client, owner: User, home: Path) -> None:  # noqa: F811
    assert 'enctype="multipart/form-data"' in page(admin, ADD)
    file = SimpleUploadedFile("night_drive.zip", zipped(small_files(base_model_name_or_path=None)))
    answer = admin.post(
        ADD, {"file": file, "version": "2", "base_model": "musicgen-small", "description": "Dark"}
    )
    assert answer.status_code == 302, answer.content.decode()[-3000:]
    adapter = Adapter.objects.get()
    assert (str(adapter), adapter.description, adapter.imported_by) == ("Night Drive v2", "Dark", owner)
    assert adapter.base_model == ModelConfig.objects.get(pk="musicgen-small")
    assert left_in(home) == [weights_file(adapter).name]


def test_the_same_zip_again_is_told(admin: Client, adapter: Adapter) -> None:
    file = SimpleUploadedFile("jazz.zip", zipped(small_files()))
    answer = admin.post(ADD, {"file": file}, follow=True)
    assert "was there already" in answer.content.decode()
    assert Adapter.objects.count() == 1


def test_a_refused_zip_says_why_at_the_form(admin: Client, home: Path) -> None:  # noqa: F811
    evil = zipped({**adapter_files(), "../evil": b"x"})
    answer = admin.post(ADD, {"file": SimpleUploadedFile("a.zip", evil), "default_strength": "1"})
    assert answer.status_code == 200
    assert "leads out of its folder" in answer.content.decode()
    assert left_in(home) == []
    assert not Adapter.objects.exists()


def test_a_form_without_a_zip_is_refused(admin: Client, db: None) -> None:
    assert "This field is required" in admin.post(ADD, {"name": "x"}).content.decode()


def test_deleting_is_done_elsewhere(admin: Client, adapter: Adapter) -> None:
    assert admin.post(f"{LIST}{adapter.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Adapter.objects.exists()


@pytest.mark.usefixtures("shared_mode")
def test_only_staff_get_there(client: Client, adapter: Adapter, alice: User) -> None:
    client.force_login(alice)
    assert client.get(LIST).status_code == 302
    assert client.post(ADD, {"file": SimpleUploadedFile("a.zip", zipped(adapter_files()))}).status_code == 302
    assert Adapter.objects.count() == 1

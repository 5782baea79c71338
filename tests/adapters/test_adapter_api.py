"""The adapters' API: list, look, import and edit, for those who may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from adapters.models import Adapter, AdapterProof, ProofStatus
from adapters.services.importing import ZipSource, import_adapter
from registry.models import ModelConfig
from tests.adapters.hostile import HOSTILE
from tests.adapters.test_importing import (  # noqa: F401 - fixtures
    REPO,
    home,
    hub,
    left_in,
    small_files,
    write_folder,
    write_zip,
)
from tests.adapters.zips import WEIGHTS, adapter_files, zipped
from tests.hub import FakeHub
from tests.media_files import weights_file

URL = "/api/adapters"


@pytest.fixture
def adapter(db: None, tmp_path: Path) -> Adapter:
    """An adapter of MusicGen Small."""
    return import_adapter(source=ZipSource(write_zip(tmp_path / "a.zip", small_files()), "jazz.zip")).adapter


@pytest.fixture
def local(client: Client, owner: User) -> Client:
    return client


def get(client: Client, path: str = "", status: int = 200) -> Any:
    answer = client.get(f"{URL}{path}")
    assert answer.status_code == status, answer.content
    return answer.json()


def upload(client: Client, content: bytes, name: str = "night_drive.zip", **fields: str) -> Any:
    return client.post(URL, {"file": SimpleUploadedFile(name, content), **fields})


def send(client: Client, path: str = "", method: str = "post", **body: Any) -> Any:
    return getattr(client, method)(f"{URL}{path}", json.dumps(body), content_type="application/json")


def assert_refused(answer: Any, status: int, code: str) -> Any:
    assert answer.status_code == status, answer.content
    told = answer.json()
    assert told["error_code"] == code, told
    assert told["error"].endswith(".")
    return told


# --- looking ---


def test_the_list_tells_each_adapter_with_its_base_and_verdict(local: Client, adapter: Adapter) -> None:
    told = get(local)
    assert told["total"] == 1
    assert told["current_model"] == ModelConfig.objects.get(is_active=True).pk
    (row,) = told["adapters"]
    assert (row["id"], row["label"], row["name"], row["version"]) == (adapter.pk, "Jazz v1.0", "Jazz", "1.0")
    assert row["base_model"] == "facebook/musicgen-small"
    base = row["base_model_config"]
    assert (base["id"], base["display_name"]) == ("musicgen-small", "MusicGen Small")
    assert (base["max_duration_seconds"], base["hf_model_id"]) == (30, "facebook/musicgen-small")
    assert isinstance(base["max_duration_seconds"], int), "30 and not 30.0"
    verdict = row["verdict"]
    assert (verdict["model_id"], verdict["verdict"]) == (told["current_model"], "incompatible")
    assert verdict["is_usable"] is False
    assert verdict["reason"] == "Requires MusicGen Small"
    assert verdict["required_model_id"] == "musicgen-small"
    assert row["proofs"] == []


def test_the_verdict_is_for_the_model_that_is_asked_for(local: Client, adapter: Adapter) -> None:
    (row,) = get(local, "?compatible_with=musicgen-small")["adapters"]
    assert (row["verdict"]["model_id"], row["verdict"]["verdict"]) == ("musicgen-small", "exact")
    assert get(local, "?compatible_with=facebook/musicgen-small")["total"] == 1
    assert get(local, "?compatible_with=musicgen-large")["adapters"] == []
    one = get(local, f"/{adapter.pk}?model=musicgen-large")
    assert (one["verdict"]["model_id"], one["verdict"]["is_usable"]) == ("musicgen-large", False)


def test_a_model_that_is_not_there_is_refused(local: Client, adapter: Adapter) -> None:
    assert get(local, "?compatible_with=none", 404)["error_code"] == "MODEL_NOT_FOUND"
    assert get(local, f"/{adapter.pk}?model=none", 404)["error_code"] == "MODEL_NOT_FOUND"


def test_words_are_searched_for(local: Client, adapter: Adapter) -> None:
    Adapter.objects.update(description="warm brushes")
    assert get(local, "?q=jazz+brushes")["total"] == 1
    assert get(local, "?q=jazz+trumpet")["total"] == 0


def test_proofs_are_told(local: Client, adapter: Adapter) -> None:
    AdapterProof.objects.create(
        adapter=adapter,
        model_id="musicgen-small",
        status=ProofStatus.PASSED,
        tensors_expected=16,
        tensors_matched=16,
        logit_change=0.25,
        logit_change_at_zero=0.0,
        logit_change_after=0.0,
        is_restored=True,
    )
    (proof,) = get(local, f"/{adapter.pk}")["proofs"]
    assert (proof["model_id"], proof["status"], proof["tensors_matched"]) == ("musicgen-small", "passed", 16)
    assert (proof["logit_change"], proof["logit_change_at_zero"], proof["is_restored"]) == (0.25, 0.0, True)


def test_an_adapter_that_is_not_there_is_not_found(local: Client, db: None) -> None:
    for number in (1, 2**63, 10**30):
        assert get(local, f"/{number}", 404)["error_code"] == "ADAPTER_NOT_FOUND"


def test_the_list_takes_few_queries(
    local: Client, adapter: Adapter, tmp_path: Path, django_assert_max_num_queries: Any
) -> None:
    for number in range(5):
        import_adapter(
            source=ZipSource(write_zip(tmp_path / "b.zip", adapter_files(seed=number + 5))), name=f"a{number}"
        )
    with django_assert_max_num_queries(8):
        assert get(local)["total"] == 6


# --- importing ---


def test_a_zip_is_uploaded(local: Client, owner: User, home: Path) -> None:  # noqa: F811
    answer = upload(local, zipped(adapter_files()), version="2.0", description="Dark", default_strength="0.7")
    assert answer.status_code == 201, answer.content
    told = answer.json()
    adapter = Adapter.objects.get()
    assert told["created"] is True
    assert told["adapter"]["id"] == adapter.pk
    assert (told["adapter"]["label"], told["adapter"]["imported_by"]) == ("Night Drive v2.0", owner.username)
    assert (adapter.description, adapter.default_strength) == ("Dark", 0.7)
    assert left_in(home) == [weights_file(adapter).name]


def test_the_same_zip_again_answers_what_is_there(local: Client) -> None:
    first = upload(local, zipped(adapter_files())).json()
    again = upload(local, zipped(adapter_files()))
    assert again.status_code == 200
    assert again.json()["created"] is False
    assert again.json()["adapter"]["id"] == first["adapter"]["id"]


def test_a_large_upload_is_read_from_its_file(local: Client, home: Path, settings: Any) -> None:  # noqa: F811
    settings.FILE_UPLOAD_MAX_MEMORY_SIZE = 100
    assert upload(local, zipped(adapter_files())).status_code == 201


@pytest.mark.parametrize("hostile", HOSTILE[:3] + HOSTILE[-6:], ids=lambda hostile: hostile.name)
def test_what_a_zip_is_refused_for_is_answered(hostile: Any, local: Client, home: Path) -> None:  # noqa: F811
    told = assert_refused(upload(local, hostile.make()), 400, hostile.code)
    assert hostile.says in told["error"]
    assert left_in(home) == []


def test_a_zip_over_the_limit_is_refused(local: Client, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_adapter_mb": 1})
    files = {**adapter_files(), "notes.txt": bytes(range(256)) * 5000}
    assert_refused(upload(local, zipped(files, method=0)), 413, "ADAPTER_TOO_LARGE")


def test_a_form_without_a_file_is_refused(local: Client) -> None:
    told = assert_refused(local.post(URL, {"name": "x"}), 400, "NO_FILE")
    assert told["errors"]["file"]


def test_an_unknown_field_is_refused(local: Client) -> None:
    assert_refused(upload(local, zipped(adapter_files()), strength="1"), 400, "INVALID_REQUEST")
    assert_refused(send(local, hf_model_id="a/b", strength=1), 400, "INVALID_REQUEST")
    assert not Adapter.objects.exists()


@pytest.mark.parametrize("strength", ["nan", "inf", "-1", "2.01", "a lot"])
def test_a_strength_out_of_bounds_is_refused(strength: str, local: Client) -> None:
    answer = upload(local, zipped(adapter_files()), default_strength=strength)
    assert answer.status_code == 400
    assert answer.json()["errors"]["default_strength"]
    assert not Adapter.objects.exists()


def test_a_name_that_is_taken_is_refused(local: Client) -> None:
    first = upload(local, zipped(adapter_files())).json()["adapter"]
    told = assert_refused(upload(local, zipped(adapter_files(seed=3))), 409, "ADAPTER_NAME_TAKEN")
    assert told["adapter_id"] == first["id"]
    assert told["errors"]["version"] == told["error"]


def test_an_impossible_base_is_refused(local: Client) -> None:
    told = assert_refused(
        upload(local, zipped(small_files()), base_model="musicgen-large"), 400, "BASE_MODEL_IMPOSSIBLE"
    )
    assert told["model_id"] == "musicgen-large"
    assert_refused(upload(local, zipped(small_files()), base_model="none"), 404, "MODEL_NOT_FOUND")


def test_a_repository_of_the_hub_is_imported(local: Client, hub: FakeHub) -> None:  # noqa: F811
    answer = send(local, hf_model_id=REPO, name="From the hub")
    assert answer.status_code == 201, answer.content
    assert answer.json()["adapter"]["source"] == "hub"
    assert answer.json()["adapter"]["name"] == "From the hub"


def test_a_failure_of_the_hub_is_answered(local: Client, hub: FakeHub) -> None:  # noqa: F811
    hub.gate(REPO)
    assert_refused(send(local, hf_model_id=REPO), 400, "GATED_NO_TOKEN")


def test_a_folder_is_imported_in_local_mode(local: Client, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine")
    assert send(local, folder=str(folder)).status_code == 201
    assert_refused(send(local, folder="mine"), 400, "FOLDER_NOT_FOUND")
    assert_refused(send(local, folder=str(tmp_path / "none")), 400, "FOLDER_NOT_FOUND")
    assert_refused(send(local, folder="/tmp/\0"), 400, "FOLDER_NOT_FOUND")


@pytest.mark.usefixtures("shared_mode")
def test_a_folder_of_the_server_is_nobodys_in_shared_mode(
    client: Client, staff: User, tmp_path: Path
) -> None:
    client.force_login(staff)
    for folder in (write_folder(tmp_path / "mine"), Path("/etc"), tmp_path / "none"):
        told = assert_refused(send(client, folder=str(folder)), 400, "FOLDER_NOT_ALLOWED")
        assert "zip" in told["error"]
    assert not Adapter.objects.exists()


def test_where_the_adapter_is_must_be_said_once(local: Client, tmp_path: Path) -> None:
    assert_refused(send(local), 400, "NO_SOURCE")
    assert_refused(send(local, hf_model_id="a/b", folder=str(tmp_path)), 400, "NO_SOURCE")


@pytest.mark.parametrize("body", ["", "[]", "null", "{", "[" * 50_000, '{"hf_model_id": 1}', "\xff"])
def test_a_body_that_is_none_is_refused(body: str, local: Client) -> None:
    answer = local.post(URL, body.encode("latin-1"), content_type="application/json")
    assert_refused(answer, 400, "INVALID_REQUEST")


def test_a_large_body_of_json_is_refused(local: Client) -> None:
    answer = local.post(URL, json.dumps({"name": "a" * 70_000}), content_type="application/json")
    assert_refused(answer, 413, "REQUEST_TOO_LARGE")
    answer = local.post(URL, b"x" * 3_000_000, content_type="application/json")
    assert_refused(answer, 413, "REQUEST_TOO_LARGE")


# --- editing ---


def test_what_is_said_of_it_can_be_edited(local: Client, adapter: Adapter) -> None:
    answer = send(
        local, f"/{adapter.pk}", "patch", name="Slow Jazz", trigger_words="slow", default_strength=1.5
    )
    assert answer.status_code == 200, answer.content
    adapter.refresh_from_db()
    assert (adapter.name, adapter.version, adapter.trigger_words) == ("Slow Jazz", "1.0", "slow")
    assert answer.json()["default_strength"] == adapter.default_strength == 1.5
    assert weights_file(adapter).is_file()


def test_an_edit_of_nothing_changes_nothing(local: Client, adapter: Adapter) -> None:
    assert send(local, f"/{adapter.pk}", "patch").json()["name"] == "Jazz"


def test_a_base_can_be_set_and_taken_away(local: Client, adapter: Adapter) -> None:
    assert send(local, f"/{adapter.pk}", "patch", base_model="").json()["base_model_config"] is None
    told = send(local, f"/{adapter.pk}", "patch", base_model="musicgen-small").json()
    assert told["base_model_config"]["id"] == "musicgen-small"
    assert_refused(
        send(local, f"/{adapter.pk}", "patch", base_model="musicgen-large"), 400, "BASE_MODEL_IMPOSSIBLE"
    )
    adapter.refresh_from_db()
    assert adapter.base_model_id == "musicgen-small"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": ""}, "FIELD_INVALID"),
        ({"name": "a" * 121}, "FIELD_INVALID"),
        ({"default_strength": 3}, "FIELD_INVALID"),
        ({"default_strength": True}, "INVALID_REQUEST"),
        ({"default_strength": "1"}, "INVALID_REQUEST"),
        ({"rank": 3}, "INVALID_REQUEST"),
        ({"sha256": "0" * 64}, "INVALID_REQUEST"),
        ({"broken_code": ""}, "INVALID_REQUEST"),
    ],
    ids=str,
)
def test_an_edit_out_of_bounds_is_refused(
    change: dict[str, Any], code: str, local: Client, adapter: Adapter
) -> None:
    told = assert_refused(send(local, f"/{adapter.pk}", "patch", **change), 400, code)
    assert set(told["errors"]) == set(change), "fields as the request calls them"
    adapter.refresh_from_db()
    assert (adapter.name, adapter.default_strength) == ("Jazz", 1.0)


def test_a_name_of_another_cannot_be_taken(local: Client, adapter: Adapter, tmp_path: Path) -> None:
    import_adapter(source=ZipSource(write_zip(tmp_path / "b.zip")), name="Other")
    told = assert_refused(send(local, f"/{adapter.pk}", "patch", name="OTHER"), 409, "ADAPTER_NAME_TAKEN")
    assert "Other v1.0" in told["error"]
    assert send(local, f"/{adapter.pk}", "patch", name="JAZZ").status_code == 200, (
        "its own name in another case"
    )


def test_what_is_not_there_cannot_be_edited(local: Client, db: None) -> None:
    assert_refused(send(local, "/77", "patch", name="x"), 404, "ADAPTER_NOT_FOUND")


# --- who may ---


@pytest.mark.usefixtures("shared_mode")
def test_without_a_login_nothing_is_told(client: Client, adapter: Adapter) -> None:
    for answer in (
        client.get(URL),
        client.get(f"{URL}/{adapter.pk}"),
        upload(client, zipped(adapter_files())),
        send(client, f"/{adapter.pk}", "patch", name="x"),
    ):
        assert_refused(answer, 401, "LOGIN_REQUIRED")


@pytest.mark.usefixtures("shared_mode")
def test_people_see_adapters_and_only_staff_import_and_edit(
    client: Client,
    adapter: Adapter,
    alice: User,
    staff: User,
    home: Path,  # noqa: F811
) -> None:
    client.force_login(alice)
    assert get(client)["total"] == 1
    assert get(client, f"/{adapter.pk}")["id"] == adapter.pk
    for answer in (
        upload(client, zipped(adapter_files())),
        upload(client, b"not even a zip"),
        send(client, hf_model_id="a/b"),
        send(client, f"/{adapter.pk}", "patch", name="x"),
        send(client, "/77", "patch", name="x"),
    ):
        assert_refused(answer, 403, "STAFF_ONLY")
    assert left_in(home) == [weights_file(adapter).name]
    client.force_login(staff)
    assert upload(client, zipped(adapter_files())).status_code == 201


def test_another_site_cannot_import(local: Client) -> None:
    answer = local.post(
        URL,
        {"file": SimpleUploadedFile("a.zip", zipped(adapter_files()))},
        headers={"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
    )
    assert_refused(answer, 403, "CROSS_SITE")
    assert not Adapter.objects.exists()


def test_other_methods_are_refused(local: Client, adapter: Adapter) -> None:
    assert_refused(local.put(URL, "{}", content_type="application/json"), 405, "METHOD_NOT_ALLOWED")
    assert_refused(
        local.put(f"{URL}/{adapter.pk}", "{}", content_type="application/json"), 405, "METHOD_NOT_ALLOWED"
    )


def test_a_weights_file_is_not_told(local: Client, adapter: Adapter) -> None:
    """Where files lie on the server is nobody's business."""
    assert str(weights_file(adapter).parent) not in json.dumps(get(local))
    assert WEIGHTS not in json.dumps(get(local, f"/{adapter.pk}"))

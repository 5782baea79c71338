"""The memory part of the JSON API: validate, submit, check, read, calculate, analyse, compare."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from gated_configs import submission_bounds
from gated_configs.memory import CalculatorUnavailable, shared_calculator
from gated_configs.memory.validation import MAX_BYTES
from gated_configs.models import ConfigVersion, UserModelConfig
from gated_configs.services import submission
from gated_configs.services.curation import share, verify
from musicgen_site.request_bounds import MAX_BODY_BYTES, body_limit
from tests.conftest import ROOT
from tests.gated_configs.conftest import TINY
from tests.hub import FakeHub
from tests.memory.conftest import sample_config

pytestmark = pytest.mark.django_db

GATED = "meta-llama/gated"
SUBMIT = "config/submit"
ROUTES = [
    ("POST", "validate", {"model_url": "studio/tiny"}),
    ("POST", SUBMIT, {"model_uri": "studio/tiny", "config": TINY}),
    ("GET", "config/check/studio/tiny", None),
    ("GET", "studio/tiny/config", None),
    ("POST", "calculate", {"model_id": "studio/tiny"}),
    ("POST", "analyze", {"model_id": "studio/tiny"}),
    ("POST", "compare", {"models": ["studio/tiny"]}),
]


def ask(
    client: Client, method: str, route: str, body: Any = None, **extra: Any
) -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    answer = client.generic(
        method, f"/api/models/{route}", content if body is not None else b"", "application/json", **extra
    )
    return answer.status_code, answer.json()


def post(client: Client, route: str, body: Any) -> tuple[int, dict[str, Any]]:
    return ask(client, "POST", route, body)


def get(client: Client, route: str) -> tuple[int, dict[str, Any]]:
    return ask(client, "GET", route)


def submit(client: Client, model_id: str = GATED, config: Any = TINY) -> tuple[int, dict[str, Any]]:
    return post(client, SUBMIT, {"model_uri": model_id, "config": config})


@pytest.fixture
def people(shared_mode: None, alice: User, bob: User) -> tuple[Client, Client]:
    """Alice's browser and Bob's."""
    browsers = Client(), Client()
    for browser, person in zip(browsers, (alice, bob), strict=True):
        browser.force_login(person)
    return browsers


# --- all of them ---


@pytest.mark.parametrize(("method", "route", "body"), ROUTES)
def test_a_route_works_needs_a_login_and_is_idempotent(
    method: str, route: str, body: Any, client: Client, fake: FakeHub, request: pytest.FixtureRequest
) -> None:
    first = ask(client, method, route, body)
    assert first[0] == 200, first[1]
    again = ask(client, method, route, body)
    for status, answer in (first, again):
        assert status == 200
        answer.pop("message", None)  # the second time it was saved already
    assert again == first
    request.getfixturevalue("shared_mode")
    status, refusal = ask(Client(), method, route, body)
    assert (status, refusal["error_code"]) == (401, "LOGIN_REQUIRED")


@pytest.mark.parametrize(("method", "route", "body"), ROUTES)
def test_another_method_is_refused(method: str, route: str, body: Any, client: Client) -> None:
    status, refusal = ask(client, "DELETE", route)
    assert (status, refusal["error_code"]) == (405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(("method", "route", "body"), [route for route in ROUTES if route[0] == "POST"])
@pytest.mark.parametrize("sent", [b"", b"{", b"[]", b"null", b'{"prompt": 1}', b"\xff\xfe", b'{"a":' * 3000])
def test_a_body_that_cannot_be_read_is_refused(
    method: str, route: str, body: Any, sent: bytes, client: Client
) -> None:
    status, refusal = post(client, route, sent)
    assert (status, refusal["error_code"]) == (400, "INVALID_REQUEST")
    assert refusal["error"].endswith(".")


def test_the_routes_come_before_that_of_one_model(client: Client) -> None:
    assert get(client, "musicgen-small")[1]["display_name"] == "MusicGen Small"
    assert get(client, "facebook/musicgen-small")[1]["id"] == "musicgen-small"
    assert get(client, "musicgen-small/config")[1]["model_id"] == "facebook/musicgen-small"


def test_the_document_names_every_code_that_the_api_may_answer() -> None:
    document = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    sources = [*(ROOT / "gated_configs").glob("*.py"), *(ROOT / "gated_configs" / "services").glob("*.py")]
    sources += [
        ROOT / "gated_configs" / "memory" / f"{name}.py"
        for name in ("errors", "validation", "recognition", "bounds")
    ]
    codes = {
        code
        for path in sources
        for code in re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', path.read_text(encoding="utf-8"))
    }
    inner = {"CALCULATOR_ERROR", "DOES_NOT_FIT", "TOO_MANY_REQUESTS", "REMOTE_ADDR"}
    assert {"MODEL_GATED", "MISSING_FIELDS", "LOWER_PRECISION"} <= codes
    assert sorted(code for code in codes - inner if f"`{code}`" not in document) == []


# --- validate ---


def test_validate_takes_ids_and_addresses(client: Client, fake: FakeHub) -> None:
    expected = {
        "valid": True,
        "error": None,
        "error_code": None,
        "model_id": "studio/tiny",
        "requires_config": False,
        "config_submission_url": None,
        "source": "hub",
    }
    addresses = (
        "studio/tiny",
        " https://huggingface.co/studio/tiny/tree/main?x=1 ",
        f"{fake.endpoint}/studio/tiny",
    )
    for text in addresses:
        assert post(client, "validate", {"model_url": text}) == (200, expected)
    builtin = post(client, "validate", {"model_url": "musicgen-small"})[1]
    assert (builtin["model_id"], builtin["source"]) == ("facebook/musicgen-small", "builtin")


def test_validate_says_that_a_model_is_gated(client: Client, fake: FakeHub) -> None:
    status, answer = post(client, "validate", {"model_url": GATED})
    assert status == 200
    assert answer["valid"] is False
    assert answer["error"] == "Model is gated and requires access approval"
    assert answer["error_code"] == "MODEL_GATED"
    assert answer["model_id"] == GATED
    assert answer["requires_config"] is True
    assert answer["config_submission_url"] == "/api/models/config/submit"
    assert answer["source"] is None
    assert answer["reason"] == "GATED_NO_TOKEN"
    assert answer["model_page"] == f"{fake.endpoint}/{GATED}"
    assert "paste" in answer["next_step"]


def test_validate_tells_failures_apart(
    client: Client, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(text: str) -> tuple[int, str, bool]:
        status, answer = post(client, "validate", {"model_url": text})
        assert answer["valid"] is False
        assert answer["error"].endswith(".")
        assert (answer["config_submission_url"] is not None) == answer["requires_config"]
        return status, answer["error_code"], answer["requires_config"]

    assert asked("no such model") == (400, "INVALID_MODEL_ID", False)
    assert asked("https://huggingface.co/datasets/a/b") == (400, "INVALID_MODEL_ID", False)
    assert asked("studio/none") == (404, "MODEL_NOT_FOUND", False)
    assert asked("studio/empty") == (404, "NO_CONFIG", False)
    fake.publish("studio/odd", {"config.json": b'{"model_type": "nobody-knows-it"}'})
    assert asked("studio/odd") == (422, "UNSUPPORTED_ARCHITECTURE", False)
    fake.publish("studio/short", {"config.json": b'{"model_type": "llama"}'})
    assert asked("studio/short") == (422, "INVALID_CONFIG", False)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert asked("studio/tiny") == (503, "BAD_TOKEN", False)
    monkeypatch.delenv("HF_TOKEN")
    fake.limit_rate(retry_after="77")
    assert asked("studio/tiny") == (429, "RATE_LIMITED", False)
    fake.heal()
    fake.refuse_connections()
    assert asked("studio/tiny") == (503, "HUB_UNREACHABLE", True)


def test_a_busy_hub_says_when_to_come_back(client: Client, fake: FakeHub) -> None:
    fake.limit_rate(retry_after="77")
    for route, body in (
        ("validate", {"model_url": "studio/tiny"}),
        ("calculate", {"model_id": "studio/tiny"}),
    ):
        answer = client.post(f"/api/models/{route}", json.dumps(body), "application/json")
        assert (answer.status_code, answer["Retry-After"]) == (429, "77")


# --- submit ---


def test_submit_saves_what_then_answers_without_the_hub(client: Client, fake: FakeHub) -> None:
    status, answer = submit(client)
    assert status == 200
    assert set(answer) == {"success", "message", "model_id", "validation"}
    assert answer["success"] is True
    assert answer["model_id"] == GATED
    assert answer["validation"] == {
        "valid": True,
        "model_type": "decoder-only",
        "attention_type": "gqa",
        "parameter_count": 106_816,
    }
    fake.forget_requests()
    assert post(client, "calculate", {"model_id": GATED})[1]["source"] == "own"
    assert post(client, "validate", {"model_url": GATED})[1]["source"] == "own"
    assert fake.fetched() == []


def test_submit_takes_the_text_of_the_file_too(client: Client) -> None:
    as_object, as_text = submit(client), submit(client, config=json.dumps(TINY, indent=4))
    assert as_object[1]["validation"] == as_text[1]["validation"]
    assert "already" in as_text[1]["message"]
    assert ConfigVersion.objects.count() == 1


def test_submit_says_what_a_family_requires(client: Client) -> None:
    status, answer = submit(client, config={"model_type": "llama", "hidden_size": 64})
    assert status == 400
    assert answer["success"] is False
    assert answer["error_code"] == "INVALID_CONFIG"
    assert answer["message"] == answer["error"]
    assert answer["required_fields"] == [
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
    ]
    assert answer["missing_fields"] == ["num_hidden_layers", "num_attention_heads"]
    assert answer["problems"] == ["MISSING_FIELDS"]
    musicgen = submit(client, config={"model_type": "musicgen", "decoder": {}})[1]
    assert "text_encoder" in musicgen["required_fields"]
    assert not UserModelConfig.objects.exists()


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ('{"model_type": "llama", "hidden_size": 64, "hidden_size": 128}', "DUPLICATE_KEY"),
        ('{"model_type": "llama", "rope_scaling": {"a": 1, "a": 2}}', "DUPLICATE_KEY"),
        ('{"model_type": "llama", "hidden_size": NaN}', "NOT_FINITE"),
        ('{"model_type": "llama", "hidden_size": -Infinity}', "NOT_FINITE"),
        ('{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}", "NUMBER_TOO_LONG"),
        ('{"a":' * 4000 + "1" + "}" * 4000, "TOO_DEEP"),
        ('{"model_type": "llama", "a": ' + "[" * 90_000 + "]" * 90_000 + "}", "TOO_DEEP"),
        ("[]", "NOT_AN_OBJECT"),
        ("null", "NOT_AN_OBJECT"),
        ("17", "NOT_AN_OBJECT"),
    ],
)
def test_submit_sees_in_an_object_what_it_sees_in_a_text(written: str, problem: str, client: Client) -> None:
    as_text = submit(client, config=written)
    as_object = post(client, SUBMIT, f'{{"config": {written}, "model_uri": "{GATED}"}}')
    assert as_object == as_text
    assert as_text[0] == 400
    assert as_text[1]["problems"] == [problem]


def test_what_is_not_used_may_be_infinite_and_is_told_as_null(client: Client) -> None:
    written = json.dumps({**TINY, "time_step_limit": [0.0, float("inf")], "note": float("nan")})
    assert submit(client, config=written)[0] == 200
    answer = client.get(f"/api/models/{GATED}/config")
    assert b"Infinity" not in answer.content
    assert b"NaN" not in answer.content
    assert answer.json()["config"]["time_step_limit"] == [0.0, None]


def test_submit_tells_what_is_no_config_from_what_cannot_be_computed(client: Client) -> None:
    status, answer = submit(client, config={"model_type": "nobody-knows-it"})
    assert (status, answer["error_code"], answer["success"]) == (422, "UNSUPPORTED_ARCHITECTURE", False)
    assert answer["required_fields"] == answer["missing_fields"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"config": TINY}, "model_uri"),
        ({"model_uri": GATED}, "config"),
        ({"model_uri": 7, "config": TINY}, "model_uri"),
        ({"model_uri": None, "config": TINY}, "model_uri"),
    ],
)
def test_submit_names_the_field_of_the_request(body: Any, field: str, client: Client) -> None:
    status, answer = post(client, SUBMIT, body)
    assert (status, answer["error_code"], answer["success"]) == (400, "INVALID_REQUEST", False)
    assert field in answer["errors"]


@pytest.mark.parametrize(
    "body",
    ['{"model_uri": "a/b", "config": {}, "config": {}}', '{"config": {}} x', '{"config": {"a": }}', "{} {}"],
)
def test_submit_refuses_an_envelope_that_is_broken(body: str, client: Client) -> None:
    status, answer = post(client, SUBMIT, body)
    assert (status, answer["error_code"]) == (400, "INVALID_REQUEST")


def test_submit_refuses_what_names_no_model(client: Client) -> None:
    for text in ("", "..", "https://example.com/a/b", "a" * 3000, "a/b\u0000"):
        status, answer = submit(client, text)
        assert (status, answer["error_code"], answer["success"]) == (400, "INVALID_MODEL_ID", False)


def padded(size_bytes: int) -> str:
    """A valid config of that many bytes, large as real ones are: by the names of its labels."""
    labels = {
        str(number): f"label {number:06} with a name as long as people give them" for number in range(50_000)
    }
    text = json.dumps({**TINY, "id2label": labels}, indent=2)
    assert len(text) < size_bytes
    return text[:-1] + " " * (size_bytes - len(text)) + "}"


@pytest.mark.parametrize("quoted", [True, False])
def test_submit_takes_four_megabytes_and_no_more(quoted: bool, client: Client) -> None:
    def sent(text: str) -> tuple[int, dict[str, Any]]:
        config = json.dumps(text) if quoted else text
        return post(client, SUBMIT, f'{{"model_uri": "{GATED}", "config": {config}}}')

    largest = padded(MAX_BYTES)
    assert sent(largest)[0] == 200
    status, answer = sent(largest[:-1] + " }")
    assert (status, answer["error_code"], answer["success"]) == (413, "CONFIG_TOO_LARGE", False)
    status, answer = sent("x" * submission_bounds.MAX_BODY_BYTES)
    assert (status, answer["success"]) == (413, False)
    assert answer["error_code"] == "REQUEST_TOO_LARGE"
    assert answer["error"].count(".") == 2  # one sentence, with the name of a file in it


def test_only_where_configs_are_posted_a_request_may_be_as_large() -> None:
    for path in (
        "/api/models/config/submit",
        "/memory/config/",
        "/admin/gated_configs/usermodelconfig/1/change/",
    ):
        assert body_limit("POST", path) == submission_bounds.MAX_BODY_BYTES > MAX_BYTES
        assert body_limit("PUT", path) == MAX_BODY_BYTES
    for path in ("/api/models/calculate", "/memory/", "/admin/registry/", "/api/models/config/submit/x"):
        assert body_limit("POST", path) == MAX_BODY_BYTES


@pytest.mark.usefixtures("clock_stands")
def test_too_many_submissions_are_told_when_to_come_back(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(submission.SUBMISSIONS.per_person):
        assert submit(client, config="no config")[0] == 400
    answer = client.post(
        f"/api/models/{SUBMIT}", json.dumps({"model_uri": GATED, "config": TINY}), "application/json"
    )
    assert (answer.status_code, answer.json()["error_code"]) == (429, "TOO_MANY_SUBMISSIONS")
    assert 0 < int(answer["Retry-After"]) <= submission.SUBMISSIONS.window_seconds
    assert answer.json()["success"] is False


def test_a_person_who_saved_too_much_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "MAX_SAVED_BYTES", 10)
    status, answer = submit(client)
    assert (status, answer["error_code"]) == (409, "TOO_MUCH_SAVED")


def test_a_calculator_that_cannot_start_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(config: Any) -> Any:
        raise CalculatorUnavailable("The calculator's process did not start.")

    monkeypatch.setattr(shared_calculator(), "describe", unavailable)
    status, answer = submit(client)
    assert (status, answer["error_code"], answer["success"]) == (503, "CALCULATOR_UNAVAILABLE", False)
    status, answer = post(client, "calculate", {"model_id": "musicgen-small"})
    assert (status, answer["error_code"]) == (503, "CALCULATOR_UNAVAILABLE")


# --- whose configs ---


def test_nobody_sees_the_config_of_another(people: tuple[Client, Client], fake: FakeHub) -> None:
    alices, bobs = people
    assert submit(alices)[0] == 200
    assert get(alices, f"config/check/{GATED}")[1]["has_config"] is True
    assert get(alices, f"{GATED}/config")[1]["source"] == "own"
    checked = get(bobs, f"config/check/{GATED}")
    assert checked == (
        200,
        {"has_config": False, "model_id": GATED, "submitted_at": None, "is_verified": False},
    )
    assert get(bobs, f"{GATED}/config")[0] == 403
    assert post(bobs, "validate", {"model_url": GATED})[1]["error_code"] == "MODEL_GATED"
    assert post(bobs, "calculate", {"model_id": GATED})[0] == 403
    assert post(bobs, "analyze", {"model_id": GATED})[0] == 403
    row = post(bobs, "compare", {"models": [GATED]})[1]["models"][0]
    assert (row["error_code"], row["requires_config"]) == ("MODEL_GATED", True)
    # And what Bob submits is his.
    assert submit(bobs, config={**TINY, "num_hidden_layers": 1})[1]["validation"]["parameter_count"] < 106_816
    assert get(alices, f"{GATED}/config")[1]["parameter_count"] == 106_816


def test_what_an_admin_shares_everybody_gets(
    people: tuple[Client, Client], fake: FakeHub, staff: User
) -> None:
    alices, bobs = people
    submit(alices)
    config = UserModelConfig.objects.get()
    share(config, by=staff)
    verify(config, by=staff)
    checked = get(bobs, f"config/check/{GATED}")[1]
    assert (checked["has_config"], checked["is_verified"]) == (True, True)
    assert checked["submitted_at"] is not None
    answer = post(bobs, "calculate", {"model_id": GATED})[1]
    assert answer["source"] == "shared"
    assert "admin" in answer["source_detail"]


# --- read ---


def test_config_is_told_with_what_was_read_from_it(client: Client) -> None:
    submit(client, "meta-llama/Llama-3-8B", sample_config("llama-3-8b"))
    status, answer = get(client, "meta-llama/Llama-3-8B/config")
    assert status == 200
    assert (answer["model_type"], answer["attention_type"]) == ("decoder-only", "gqa")
    assert answer["parameter_count"] == answer["architecture"]["parameters"]["total"] == 8_030_261_248
    assert answer["config"]["num_key_value_heads"] == 8
    assert answer["source"] == "own"
    assert answer["source_detail"].startswith("Your saved config, version 1")


def test_config_of_no_model_is_refused(client: Client, fake: FakeHub) -> None:
    assert get(client, "studio/none/config")[0] == 404
    assert get(client, "a/b/c/config")[0] == 400
    assert get(client, "config/check/a/b/c")[0] == 400
    status, refusal = get(client, f"{GATED}/config")
    assert (status, refusal["error_code"]) == (403, "MODEL_GATED")


# --- calculate ---


def test_calculate_tells_every_part_in_each_unit(client: Client) -> None:
    submit(client, "meta-llama/Llama-3-8B", sample_config("llama-3-8b"))
    body = {
        "model_id": "meta-llama/Llama-3-8B",
        "precision": "float16",
        "batch_size": 2,
        "seq_length": 4096,
        "gpu": "rtx-4090",
    }
    status, answer = post(client, "calculate", body)
    assert status == 200
    parts = answer["memory_breakdown"]
    assert parts["weights"] == {"bytes": 16_060_523_008, "gb": 16.061, "gib": 14.958}
    assert parts["key_value"]["bytes"] == parts["cache"]["bytes"] == 2 * 4096 * 131_072
    assert parts["state"]["bytes"] == parts["cross"]["bytes"] == 0
    assert parts["total"]["bytes"] == answer["total_bytes"]
    assert answer["total_bytes"] == sum(
        parts[name]["bytes"] for name in ("weights", "cache", "activations", "overhead")
    )
    assert (answer["precision"], answer["cache_precision"], answer["batch_size"]) == ("fp16", "fp16", 2)
    assert (answer["seq_length"], answer["duration_seconds"]) == (4096, None)
    assert answer["cache_bytes_per_token"] == 131_072
    assert answer["gpu"]["name"] == "GeForce RTX 4090 24 GB"
    assert answer["gpu"]["used_bytes"] == answer["total_bytes"]
    assert answer["recommendations"][0]["code"] == "FITS"
    assert all(each["sentence"].endswith(".") for each in answer["recommendations"])


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("float32", "fp32"),
        ("bf16", "bf16"),
        ("torch.bfloat16", "bf16"),
        ("FP16", "fp16"),
        ("half", "fp16"),
        ("8bit", "int8"),
        ("int4", "int4"),
        ("4-bit", "int4"),
        ("nf4", "nf4"),
    ],
)
def test_calculate_knows_the_usual_spellings(spelling: str, name: str, client: Client) -> None:
    body = {"model_id": "musicgen-small", "precision": spelling}
    assert post(client, "calculate", body)[1]["precision"] == name


def test_calculate_takes_each_optional_field(client: Client) -> None:
    def total(**changes: Any) -> int:
        status, answer = post(client, "calculate", {"model_id": "musicgen-small", **changes})
        assert status == 200, answer
        return int(answer["total_bytes"])

    usual = total()
    assert total(duration_seconds=10) < usual < total(duration_seconds=60.5)
    assert total(guidance=False) < usual < total(batch_size=2)
    assert total(encoder_tokens=500) > usual
    assert total(activation_precision="bf16") < usual
    assert total(cache_precision="int8") < usual
    submit(client)
    tiny = post(client, "calculate", {"model_id": GATED, "tensor_parallel": 2})[1]
    assert tiny["memory_breakdown"]["weights"]["bytes"] < 2 * 106_816


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("precision", "int3"),
        ("precision", 16),
        ("precision", "stored"),
        ("cache_precision", "nf4"),
        ("activation_precision", "int8"),
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", 1.5),
        ("batch_size", "8"),
        ("batch_size", True),
        ("batch_size", 10**30),
        ("seq_length", 0),
        ("seq_length", 10**12),
        ("duration_seconds", 0),
        ("duration_seconds", -3),
        ("duration_seconds", 1e300),
        ("duration_seconds", float("nan")),
        ("duration_seconds", float("inf")),
        ("duration_seconds", True),
        ("duration_seconds", "30"),
        ("encoder_tokens", -1),
        ("tensor_parallel", 0),
        ("tensor_parallel", 10**6),
        ("gpu", "abacus"),
        ("gpu", "x" * 5000),
        ("guidance", "maybe"),
        ("model_id", None),
    ],
)
def test_calculate_names_a_bad_field(field: str, value: Any, client: Client) -> None:
    status, refusal = post(client, "calculate", {"model_id": "musicgen-small", field: value})
    assert status == 400
    assert refusal["error_code"] in {"INVALID_REQUEST", "INVALID_QUESTION"}
    assert field in refusal["error"]
    assert list(refusal["errors"]) == [field]


def test_calculate_of_a_gated_model_says_where_to_submit(client: Client, fake: FakeHub) -> None:
    status, refusal = post(client, "calculate", {"model_id": GATED})
    assert status == 403
    assert refusal["error_code"] == "MODEL_GATED"
    assert refusal["requires_config"] is True
    assert refusal["config_submission_url"] == "/api/models/config/submit"
    assert refusal["model_id"] == GATED
    assert refusal["error"].endswith(".")


@pytest.mark.parametrize("route", ["calculate", "analyze"])
def test_a_config_of_the_hub_that_cannot_be_computed_is_422(
    route: str, client: Client, fake: FakeHub
) -> None:
    fake.publish("studio/odd", {"config.json": b'{"model_type": "nobody-knows-it"}'})
    fake.publish("studio/short", {"config.json": b'{"model_type": "llama"}'})
    assert post(client, route, {"model_id": "studio/odd"})[0] == 422
    status, refusal = post(client, route, {"model_id": "studio/short"})
    assert (status, refusal["error_code"]) == (422, "INVALID_CONFIG")
    assert "hidden_size" in refusal["missing_fields"]


# --- analyse ---


def test_analyze_lays_out_a_grid(client: Client) -> None:
    submit(client, "meta-llama/Llama-3-8B", sample_config("llama-3-8b"))
    body = {
        "model_id": "meta-llama/Llama-3-8B",
        "gpu": "rtx-4090",
        "batch_sizes": [1, 4, 16],
        "seq_lengths": [1024, 8192],
    }
    status, answer = post(client, "analyze", body)
    assert status == 200
    assert (answer["batch_sizes"], answer["lengths"], answer["length_unit"]) == (
        [1, 4, 16],
        [1024, 8192],
        "tokens",
    )
    verdicts = [[cell["verdict"] for cell in row] for row in answer["grid"]]
    assert verdicts == [["comfortable"] * 2, ["comfortable", "barely"], ["comfortable", "not"]]
    cell = answer["grid"][2][1]
    assert (cell["batch_size"], cell["length"], cell["cache_bytes"]) == (16, 8192, 16 * 8192 * 131_072)
    asked = {"model_id": "meta-llama/Llama-3-8B", "batch_size": 16, "seq_length": 8192}
    assert cell["total_bytes"] == post(client, "calculate", asked)[1]["total_bytes"]
    assert any("outgrows" in sentence or "stays smaller" in sentence for sentence in answer["insights"])


def test_analyze_of_music_is_in_seconds(client: Client) -> None:
    body = {"model_id": "musicgen-small", "durations_seconds": [5, 30], "seq_lengths": [7]}
    answer = post(client, "analyze", body)[1]
    assert (answer["length_unit"], answer["lengths"]) == ("seconds", [5, 30])
    assert any("Guidance" in sentence for sentence in answer["insights"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_sizes", []),
        ("batch_sizes", list(range(1, 14))),
        ("batch_sizes", [0]),
        ("batch_sizes", ["1"]),
        ("batch_sizes", [10**9]),
        ("seq_lengths", list(range(1, 14))),
        ("seq_lengths", [-5]),
        ("durations_seconds", [0]),
        ("durations_seconds", [1e9]),
    ],
)
def test_analyze_names_a_bad_axis(field: str, value: Any, client: Client) -> None:
    status, refusal = post(client, "analyze", {"model_id": "musicgen-small", field: value})
    assert status == 400
    assert refusal["error"].startswith(field)


# --- compare ---


def test_compare_keeps_errors_in_their_rows(client: Client, fake: FakeHub) -> None:
    body = {"models": ["studio/tiny", GATED, "a b", "studio/none", "musicgen-small"], "gpu": "t4"}
    status, answer = post(client, "compare", body)
    assert status == 200
    rows = answer["models"]
    assert [row["model"] for row in rows] == body["models"]
    assert [row["error_code"] for row in rows] == [
        None,
        "MODEL_GATED",
        "INVALID_MODEL_ID",
        "MODEL_NOT_FOUND",
        None,
    ]
    assert [row["requires_config"] for row in rows] == [False, True, False, False, False]
    assert rows[1]["config_submission_url"] == "/api/models/config/submit"
    assert rows[1]["error"].endswith(".")
    assert rows[0]["parameter_count"] == 106_816
    assert rows[4]["model_id"] == "facebook/musicgen-small"
    assert rows[4]["gpu"]["verdict"] == "comfortable"


@pytest.mark.parametrize("models", [[], ["a/b"] * 11, "a/b", [7], None])
def test_compare_refuses_none_and_too_many(models: Any, client: Client) -> None:
    status, refusal = post(client, "compare", {"models": models})
    assert (status, refusal["error_code"]) == (400, "INVALID_REQUEST")
    assert "models" in refusal["error"]


def test_compare_refuses_a_bad_question_as_a_whole(client: Client) -> None:
    status, refusal = post(client, "compare", {"models": ["musicgen-small"], "gpu": "abacus"})
    assert (status, refusal["error_code"]) == (400, "INVALID_QUESTION")
    status, refusal = post(client, "compare", {"models": [" ", ""]})
    assert (status, refusal["error_code"]) == (400, "INVALID_QUESTION")

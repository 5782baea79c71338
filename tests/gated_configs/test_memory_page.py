"""The memory page: what it shows for each action, what it refuses and where, and to whom."""

import csv
import html as html_module
import io
import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import QueryDict
from django.test import Client
from django.utils.html import strip_tags

from gated_configs.memory import shared_calculator
from gated_configs.models import UserModelConfig
from gated_configs.pages.asked import asked_in
from gated_configs.services import questions, submission
from gated_configs.services.questions import Machine
from gated_configs.wording import THIN_SPACE
from tests.hub import FakeHub

pytestmark = pytest.mark.django_db

#: As the page itself asks.
OF_PAGE = {"HX-Request": "true", "HX-Target": "memory"}
GATED = "meta-llama/gated"
HOSTILE = "<script>alert(1)</script>"


def words(answer: Any) -> str:
    """What people read of an answer, with plain spaces."""
    text = html_module.unescape(strip_tags(answer.content.decode().replace("<", " <")))
    return " ".join(text.replace(THIN_SPACE, " ").split())


def ask(client: Client, path: str, *, of_page: bool = False) -> Any:
    """GET below /memory/."""
    return client.get(f"/memory/{path}", headers=OF_PAGE if of_page else {})


def paste(client: Client, text: str, *, of_page: bool = False, **more: Any) -> Any:
    """POST a text for the gated model, which a calculation waits for."""
    sent = {"action": "calculate", "model": GATED, "config_for": GATED, "config": text, **more}
    return client.post("/memory/config/", sent, headers=OF_PAGE if of_page else {})


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has a card of 1 GB."""
    monkeypatch.setattr(questions, "_machine_reader", lambda: Machine("Toy card", 10**9, "cuda"))


# --- The three actions ---


def test_empty_page_offers_the_musicgen_models(client: Client) -> None:
    answer = ask(client, "")
    assert answer.status_code == 200
    assert "Will it fit?" in words(answer)
    assert 'href="/memory/?action=calculate&amp;model=facebook/musicgen-small"' in answer.content.decode()


def test_opening_the_page_starts_the_calculator(client: Client) -> None:
    shared_calculator().close()
    ask(client, "")
    assert shared_calculator().process_id is not None


def test_page_opens_where_the_calculator_cannot_be_started(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_calculator().close()
    monkeypatch.setattr("gated_configs.memory.child.sys.executable", "/no/such/python")
    assert ask(client, "").status_code == 200


def test_calculate_says_the_sentence_the_parts_and_the_parameters(client: Client) -> None:
    answer = ask(client, "?action=calculate&model=musicgen-small&duration_seconds=10&gpu=rtx-4090")
    page = words(answer)
    assert answer.status_code == 200
    assert re.search(
        r"MusicGen small needs [\d.]+ GB at \w+ and 10 s of music; fits a GeForce RTX 4090 24 GB", page
    )
    assert "586,884,674" in page
    for part in ("Weights", "Cache", "Activations", "Overhead", "GiB", "Longest take", "Most variations"):
        assert part in page
    assert "Built in." in page


def test_analyse_gives_each_cell_its_verdict_in_words(
    client: Client, fake: FakeHub, small_machine: None
) -> None:
    answer = ask(client, "?action=analyse&model=gpt2&gpu=this")
    page = answer.content.decode()
    cells = re.findall(r'<td class="heat-cell.*?</td>', page, re.DOTALL)
    assert len(cells) == page.count('scope="row"') * page.count('scope="col"')
    assert any("does not fit" in cell for cell in cells)
    assert any(", fits" in cell for cell in cells)
    assert all("batch_size=" in cell and "seq_length=" in cell for cell in cells)


def test_analyse_without_a_card_is_held_against_this_machine(
    client: Client, fake: FakeHub, small_machine: None
) -> None:
    page = words(ask(client, "?action=analyse&model=gpt2"))
    assert "this machine (1.00 GB)" in page


def test_compare_keeps_the_row_of_a_model_that_failed(client: Client, fake: FakeHub) -> None:
    answer = ask(client, "?action=compare&model=gpt2+studio/tiny,no/where&gpu=rtx-4090")
    page = words(answer)
    assert answer.status_code == 200
    assert "124,439,808" in page
    assert "The hub has no model no/where" in page
    assert "2 of 2 with figures fit" in page


def test_more_models_than_can_be_compared_are_refused_at_the_field(client: Client) -> None:
    many = "".join(f"&model=studio/m{number}" for number in range(11))
    answer = ask(client, f"?action=compare{many}")
    assert answer.status_code == 400
    assert "Up to 10 models can be compared" in words(answer)


def test_machine_link_compares_what_is_built_in(client: Client, small_machine: None) -> None:
    address = re.search(r'href="([^"]+)"[^>]*>What fits on this machine', ask(client, "").content.decode())
    assert address is not None
    asked = asked_in(QueryDict(html_module.unescape(address[1]).partition("?")[2]))
    assert (asked.action, asked.options) == ("compare", {"gpu": "this"})
    assert "facebook/musicgen-large" in asked.models
    assert len(asked.models) <= 10


# --- Links ---


def test_htmx_answer_pushes_the_address_that_reproduces_it(client: Client, fake: FakeHub) -> None:
    sent = "?model=https://huggingface.co/gpt2&action=calculate&precision=&batch_size=2&gpu=&nonsense=1"
    answer = ask(client, sent, of_page=True)
    assert answer["HX-Push-Url"] == "/memory/?action=calculate&model=gpt2&batch_size=2"
    again = client.get(answer["HX-Push-Url"])
    headline = r"data-memory-headline>.*?</h2>"
    shown = re.search(headline, answer.content.decode(), re.DOTALL)
    assert shown is not None
    assert shown[0] in again.content.decode()


def test_every_option_survives_the_round_trip_through_the_address() -> None:
    sent = (
        "action=analyse&model=a/b&precision=int4&cache_precision=int8&activation_precision=fp16&batch_size=3"
        "&seq_length=32k&duration_seconds=4.5&guidance=off&encoder_tokens=7&tensor_parallel=2&gpu=t4&memory_gb=9.5"
    )
    asked = asked_in(QueryDict(sent))
    assert asked.address == f"/memory/?{sent}"
    assert asked_in(QueryDict(asked.address.partition("?")[2])) == asked


def test_names_are_those_of_the_lists_whatever_was_typed() -> None:
    asked = asked_in(
        QueryDict("action=calculate&model=a&gpu=H100%2080GB&precision=bfloat16&cache_precision=FP8")
    )
    assert (asked.options["gpu"], asked.options["precision"]) == ("h100", "bf16")
    assert asked.options["cache_precision"] == "fp8"
    assert asked_in(QueryDict("action=calculate&model=a&gpu=abacus")).options["gpu"] == "abacus"


@pytest.mark.parametrize("typed", ["-1", "0", "1.5", "a few"])
def test_batch_that_is_none_is_refused_at_its_field(client: Client, typed: str) -> None:
    answer = ask(client, f"?action=calculate&model=musicgen-small&batch_size={typed}")
    assert answer.status_code == 400
    assert "1" in answer.content.decode().split('id="id_batch_size_error"')[1].split("</p>")[0]


def test_csv_has_whole_bytes_and_no_formula(client: Client, fake: FakeHub) -> None:
    rows = list(
        csv.DictReader(io.StringIO(ask(client, "?action=calculate&model=gpt2&format=csv").content.decode()))
    )
    assert rows[0]["parameters"] == "124439808"
    parts = ("weight_bytes", "cache_bytes", "activation_bytes", "overhead_bytes")
    assert sum(int(rows[0][name]) for name in parts) == int(rows[0]["total_bytes"])
    answer = ask(client, "?action=compare&model=gpt2&model==cmd()&format=csv")
    assert answer["Content-Disposition"] == 'attachment; filename="memory-comparison.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert rows[1]["model"] == "'=cmd()"
    grid = list(
        csv.DictReader(io.StringIO(ask(client, "?action=analyse&model=gpt2&format=csv").content.decode()))
    )
    assert {row["length_unit"] for row in grid} == {"tokens"}


# --- Refusals, each at its place ---


@pytest.mark.parametrize(
    ("query", "status", "field", "sentence"),
    [
        ("model=datasets/a/b", 400, "model", "This is the address of a dataset"),
        ("model=no/where", 404, "model", "The hub has no model no/where"),
        ("model=studio/empty", 404, "model", "has no config.json"),
        ("model=gpt2&batch_size=many", 400, "batch_size", "is a whole number"),
        ("model=gpt2&batch_size=0", 400, "batch_size", "Batch is a whole number"),
        ("model=gpt2&seq_length=-4", 400, "seq_length", "is a whole number"),
        ("model=gpt2&precision=fp3", 400, "precision", "is no known format"),
        ("model=gpt2&gpu=abacus", 400, "gpu", "is no card in the list"),
        ("model=gpt2&memory_gb=0", 400, "memory_gb", "above 0"),
        ("model=gpt2&tensor_parallel=9999999", 400, "tensor_parallel", "whole number"),
    ],
)
def test_refusal_stands_at_its_field(
    client: Client, fake: FakeHub, query: str, status: int, field: str, sentence: str
) -> None:
    answer = ask(client, f"?action=calculate&{query}")
    assert answer.status_code == status
    error = re.search(rf'id="id_{field}_error"[^>]*>(.*?)</p>', answer.content.decode())
    assert error is not None
    assert sentence in html_module.unescape(error[1])
    part = ask(client, f"?action=calculate&{query}", of_page=True)
    assert (part.status_code, part["HX-Retarget"]) == (status, "#memory-form")
    assert part.content.decode().lstrip().startswith("<form")


def test_bad_token_and_rate_limit_say_who_can_help(
    client: Client, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_stale")
    assert "An operator makes a new one" in words(ask(client, "?action=calculate&model=gpt2"))
    monkeypatch.delenv("HF_TOKEN")
    fake.limit_rate(retry_after="30")
    answer = ask(client, "?action=calculate&model=studio/tiny")
    assert (answer.status_code, answer["Retry-After"]) == (429, "30")


# --- The panel ---


def test_gated_model_opens_the_panel_in_place(client: Client, fake: FakeHub) -> None:
    answer = ask(client, f"?action=analyse&model={GATED}&batch_size=4", of_page=True)
    assert (answer.status_code, answer["HX-Retarget"], answer["HX-Push-Url"]) == (
        403,
        "#memory-panel",
        "false",
    )
    page = answer.content.decode()
    assert f'href="{fake.endpoint}/{GATED}" target="_blank" rel="noopener noreferrer"' in page
    for name, value in (("action", "analyse"), ("model", GATED), ("batch_size", "4")):
        assert f'<input type="hidden" name="{name}" value="{value}">' in page


def test_unreachable_hub_opens_the_panel_too(client: Client) -> None:
    answer = ask(client, "?action=calculate&model=some/model")
    assert answer.status_code == 503
    assert "data-config-panel" in answer.content.decode()


def test_paste_goes_on_with_what_was_asked(
    client: Client, fake: FakeHub, tiny: dict[str, Any], owner: User
) -> None:
    answer = paste(client, json.dumps(tiny), batch_size="3")
    assert answer.status_code == 302
    assert answer["Location"] == f"/memory/?action=calculate&model={GATED}&batch_size=3"
    fake.forget_requests()
    page = words(client.get(answer["Location"]))
    assert "Your saved config, version 1" in page
    assert fake.requests == []
    assert UserModelConfig.objects.get().owner == owner


def test_paste_of_the_page_answers_with_the_result(
    client: Client, fake: FakeHub, tiny: dict[str, Any]
) -> None:
    answer = paste(client, json.dumps(tiny), of_page=True)
    assert answer.status_code == 200
    assert answer["HX-Push-Url"] == f"/memory/?action=calculate&model={GATED}"
    assert "data-memory-headline" in answer.content.decode()


def test_chosen_file_counts_before_the_field(client: Client, fake: FakeHub, tiny: dict[str, Any]) -> None:
    upload = SimpleUploadedFile("config.json", json.dumps(tiny).encode())
    assert paste(client, "not this", file=upload).status_code == 302


def test_invalid_text_stays_with_its_reasons(client: Client, fake: FakeHub, tiny: dict[str, Any]) -> None:
    broken = json.dumps({key: value for key, value in tiny.items() if key != "num_hidden_layers"})
    answer = paste(client, broken, reason="MODEL_GATED")
    assert answer.status_code == 422
    assert "Missing: num_hidden_layers" in words(answer)
    assert html_module.escape(broken) in answer.content.decode()
    part = paste(client, broken, of_page=True)
    assert (part.status_code, part["HX-Retarget"]) == (422, "#memory-panel")
    assert "There is no text yet" in words(paste(client, " "))
    assert not UserModelConfig.objects.exists()


def test_too_many_submissions_say_when_to_try_again(
    client: Client, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(submission, "SUBMISSIONS", replace(submission.SUBMISSIONS, per_person=1))
    paste(client, "{}")
    answer = paste(client, "{}")
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) > 0
    assert "Try again in" in words(answer)


def test_comparison_asks_for_one_config_after_the_other(
    client: Client, fake: FakeHub, tiny: dict[str, Any]
) -> None:
    fake.publish("meta-llama/second", {"config.json": json.dumps(tiny).encode()})
    fake.gate("meta-llama/second")
    both = f"action=compare&model={GATED}&model=meta-llama/second&model=gpt2"
    page = ask(client, f"?{both}")
    assert page.context["panel"].model_id == GATED
    assert page.context["panel"].count == "1 of 2 that need one"
    answer = paste(client, json.dumps(tiny), action="compare", model=[GATED, "meta-llama/second", "gpt2"])
    assert answer["Location"] == f"/memory/?{both}"
    assert client.get(answer["Location"]).context["panel"].model_id == "meta-llama/second"
    assert ask(client, f"?{both}&panel=off").context["panel"] is None


def test_own_config_is_replaced_and_says_what_changed(
    client: Client, fake: FakeHub, tiny: dict[str, Any]
) -> None:
    address = paste(client, json.dumps(tiny))["Location"]
    assert ask(client, f"?action=calculate&model={GATED}&panel={GATED}").context["panel"] is not None
    paste(client, json.dumps({**tiny, "num_hidden_layers": 4}))
    page = words(client.get(address))
    assert "version 2" in page
    assert "num_hidden_layers: 2 → 4" in page


def test_own_config_is_deleted_and_brought_back(client: Client, fake: FakeHub, tiny: dict[str, Any]) -> None:
    address = paste(client, json.dumps(tiny))["Location"]
    sent = {"action": "calculate", "model": GATED, "config_for": GATED}
    assert client.post("/memory/config/retire/", sent)["Location"] == address
    notice = client.get(address)
    assert notice.status_code == 403
    config = UserModelConfig.objects.get()
    assert f"/memory/config/{config.pk}/restore/" in notice.content.decode()
    assert client.post(f"/memory/config/{config.pk}/restore/")["Location"] == address
    assert client.get(address).status_code == 200
    assert client.post("/memory/config/retire/", {**sent, "config_for": "gpt2"}).status_code == 404


# --- To whom ---


@pytest.mark.usefixtures("shared_mode")
def test_shared_mode_needs_a_login_and_keeps_configs_apart(
    client: Client, fake: FakeHub, alice: User, bob: User, tiny: dict[str, Any]
) -> None:
    assert ask(client, "").status_code == 302
    assert paste(client, json.dumps(tiny), of_page=True).status_code == 401
    client.force_login(alice)
    paste(client, json.dumps(tiny))
    pk = UserModelConfig.objects.get().pk
    client.force_login(bob)
    assert ask(client, f"?action=calculate&model={GATED}").status_code == 403
    assert client.post("/memory/config/retire/", {"config_for": GATED}).status_code == 404
    assert client.post(f"/memory/config/{pk}/restore/").status_code == 404
    assert "Add to models" not in words(ask(client, "?action=calculate&model=musicgen-small"))


def test_staff_can_add_a_musicgen_model(client: Client, fake: FakeHub) -> None:
    assert "Add to models" in words(ask(client, "?action=calculate&model=musicgen-small"))
    assert "Add to models" not in words(ask(client, "?action=calculate&model=gpt2"))


def test_bad_methods_are_refused(client: Client) -> None:
    assert client.post("/memory/").status_code == 405
    assert client.get("/memory/config/")["Location"] == "/memory/"
    assert client.get("/memory/config/retire/").status_code == 405


def test_hostile_names_and_values_are_only_text(client: Client, fake: FakeHub, tiny: dict[str, Any]) -> None:
    for query in (f"action=calculate&model={HOSTILE}", f"action=compare&model={HOSTILE}&model=gpt2"):
        answer = ask(client, f"?{query}&gpu={HOSTILE}&batch_size={HOSTILE}")
        assert answer.status_code < 500
        assert HOSTILE not in answer.content.decode()
    tiny |= {"architectures": ["LlamaForCausalLM", HOSTILE], HOSTILE: HOSTILE}
    address = paste(client, json.dumps(tiny))["Location"]
    paste(client, json.dumps({**tiny, HOSTILE: "</pre><b>other"}))
    shown = client.get(address).content.decode()
    assert html_module.escape(HOSTILE) in shown
    assert HOSTILE not in shown
    assert "<b>other" not in shown


@pytest.mark.parametrize(
    "query",
    [
        "action=calculate&model=%00",
        "action=nothing&model=gpt2",
        "action=compare&model=%20,%20;",
        "action=calculate&model=" + "a" * 3000,
        "model=gpt2&seq_length=" + "9" * 5000 + "&action=calculate",
        "action=calculate&model=gpt2&duration_seconds=nan&memory_gb=inf",
        "action=calculate&model=gpt2&panel=%2F%2F",
        "format=csv",
    ],
)
def test_nonsense_is_never_a_failure_of_ours(client: Client, fake: FakeHub, query: str) -> None:
    assert ask(client, f"?{query}").status_code < 500

"""Jobs that name adapters: what is refused and how, what is kept, and that every edge says the same. No engine runs."""

import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.http import QueryDict
from django.test import Client

from adapters.models import Adapter
from adapters.services import proofs
from generation import cards
from generation.forms import GenerationForm
from generation.models import Job, JobAdapter, JobStatus, Take
from generation.services import jobs
from generation.services.adapter_names import wish_of
from generation.services.job_adapters import MAX_ADAPTERS, AdapterWish, use_of
from generation.services.refusals import GenerationRefused
from generation.services.submission import GenerationRequest, submit_job
from generation.services.takes import recipe_of
from registry.models import ModelConfig
from tests.adapters.conftest import AdapterOn, CheckpointOf
from tests.generation.adapting import bring_in, dwarf_model
from tests.generation.music import HOST, make_job, recipe_for, save
from tests.generation.test_api import assert_refused, post
from tests.media_files import weights_file

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def submit(owner: User, *wishes: AdapterWish, **fields: Any) -> Job:
    """Queue a job that uses these adapters."""
    return submit_job(owner=owner, request=GenerationRequest(prompt="slow piano", adapters=wishes, **fields))


def refusal_of(owner: User, *wishes: AdapterWish, **fields: Any) -> Any:
    """Why it is refused; nothing is queued then."""
    with pytest.raises(GenerationRefused) as refused:
        submit(owner, *wishes, **fields)
    assert list(refused.value.refusals) == ["adapters"]
    assert not Job.objects.exists()
    return refused.value.first


@pytest.fixture
def wide(checkpoint_of: CheckpointOf) -> ModelConfig:
    """Another model, of another width."""
    return dwarf_model("wide", checkpoint_of("wide"))


@pytest.fixture
def orchestra(mono: ModelConfig, wide: ModelConfig, adapter_on: AdapterOn) -> Adapter:
    """An adapter for that one."""
    return bring_in(adapter_on("wide", "whole"), "Orchestra HD", base_model=wide.pk)


# What is kept.


def test_a_job_keeps_what_it_uses_in_order(owner: User, jazz: Adapter, funk: Adapter) -> None:
    job = submit(owner, AdapterWish(funk.pk), AdapterWish(jazz.pk, 0.25))
    assert [(used.adapter, used.label, used.strength, used.position) for used in job.adapters.all()] == [
        (funk, "Funk v1.0", 0.7, 0),
        (jazz, "Jazz v1.0", 0.25, 1),
    ]
    first = job.adapters.first()
    assert first is not None
    assert (first.sha256, first.weights_sha256) == (funk.sha256, funk.weights_sha256)
    assert [str(used) for used in job.adapters.all()] == ["Funk v1.0 0.7", "Jazz v1.0 0.25"]
    assert submit(owner).adapters.count() == 0


def test_the_engine_is_told_what_it_needs(jazz: Adapter) -> None:
    use = use_of(jazz, 0.5)
    assert (use.path, use.sha256, use.strength, use.name) == (
        str(weights_file(jazz)),
        jazz.weights_sha256,
        0.5,
        "Jazz v1.0",
    )
    assert json.loads(use.config) == jazz.config


def test_a_job_outlives_its_adapter(owner: User, jazz: Adapter) -> None:
    job = submit(owner, AdapterWish(jazz.pk, 0.5))
    jazz.delete()
    used = job.adapters.get()
    assert (used.adapter, str(used)) == (None, "Jazz v1.0 0.5")
    assert used.as_recipe()["id"] is None


@pytest.mark.parametrize("strength", [-0.1, 2.1])
def test_rows_hold_no_other_strength(owner: User, jazz: Adapter, strength: float) -> None:
    job = submit(owner, AdapterWish(jazz.pk))
    with pytest.raises(IntegrityError), transaction.atomic():
        JobAdapter.objects.filter(job=job).update(strength=strength)


# What is refused.


def test_one_for_another_model_is_refused_with_both_names(
    owner: User, mono: ModelConfig, wide: ModelConfig, orchestra: Adapter
) -> None:
    refusal = refusal_of(owner, AdapterWish(orchestra.pk))
    assert refusal.message == "Adapter 'Orchestra HD' requires Dwarf Wide, but Dwarf Mono is active"
    assert refusal.code == "ADAPTER_INCOMPATIBLE"
    assert (refusal.facts["adapter_id"], refusal.facts["model_id"], refusal.facts["required_model_id"]) == (
        orchestra.pk,
        mono.pk,
        wide.pk,
    )
    assert submit(owner, AdapterWish(orchestra.pk), model_id=wide.pk).model == wide


def test_one_for_another_model_than_the_job_asks_for(
    owner: User, wide: ModelConfig, jazz: Adapter, mono: ModelConfig
) -> None:
    refusal = refusal_of(owner, AdapterWish(jazz.pk), model_id=wide.pk)
    assert refusal.message == "Adapter 'Jazz' requires Dwarf Mono, but the job asks for Dwarf Wide"
    assert refusal.facts["required_model_id"] == mono.pk


def test_one_whose_base_nobody_knows_says_what_differs(owner: User, orchestra: Adapter) -> None:
    Adapter.objects.filter(pk=orchestra.pk).update(base_model=None)
    refusal = refusal_of(owner, AdapterWish(orchestra.pk))
    assert refusal.message.startswith("Adapter 'Orchestra HD' does not fit Dwarf Mono: made for ")
    assert refusal.facts["required_model_id"] is None


def test_a_missing_one_is_refused(owner: User, mono: ModelConfig) -> None:
    for missing in (12, 0, -3, 2**63, 10**30):
        refusal = refusal_of(owner, AdapterWish(missing))
        assert (refusal.code, refusal.facts) == ("ADAPTER_NOT_FOUND", {"adapter_id": missing})


def test_a_broken_one_is_refused_with_its_reason(owner: User, jazz: Adapter) -> None:
    proofs.mark_broken(jazz, code="ADAPTER_NOT_FOUND", reason="Its file is gone.")
    refusal = refusal_of(owner, AdapterWish(jazz.pk))
    assert (refusal.code, refusal.message) == (
        "ADAPTER_BROKEN",
        "Adapter 'Jazz v1.0' is broken: Its file is gone.",
    )


def test_one_whose_proof_failed_is_refused_on_that_model_alone(
    owner: User, mono: ModelConfig, wide: ModelConfig, jazz: Adapter
) -> None:
    proofs.record_failure(adapter=jazz, model=mono, code="ADAPTER_NO_EFFECT", message="It changes nothing.")
    refusal = refusal_of(owner, AdapterWish(jazz.pk))
    assert refusal.code == "ADAPTER_NOT_PROVEN"
    assert refusal.message == (
        "Adapter 'Jazz v1.0' was tried with Dwarf Mono and does not work: It changes nothing."
    )
    twin = dwarf_model("stereo", Path(mono.checkpoint))  # its folder, under another name
    assert submit(owner, AdapterWish(jazz.pk), model_id=twin.pk).adapters.count() == 1


@pytest.mark.parametrize("strength", [-0.01, 2.01, math.nan, math.inf, -math.inf, True, "0.5"])
def test_a_strength_goes_from_0_to_2(owner: User, jazz: Adapter, strength: Any) -> None:
    refusal = refusal_of(owner, AdapterWish(jazz.pk, strength))
    assert (refusal.code, refusal.message) == (
        "PARAMETER_OUT_OF_RANGE",
        "Jazz v1.0: Strength must be a number from 0 to 2.",
    )
    assert refusal.facts["adapter_id"] == jazz.pk


@pytest.mark.parametrize("strength", [0, 0.0, 1e-9, 2, 2.0])
def test_the_ends_count(owner: User, jazz: Adapter, strength: float) -> None:
    assert submit(owner, AdapterWish(jazz.pk, strength)).adapters.get().strength == strength


def test_twice_the_same_is_refused(owner: User, jazz: Adapter) -> None:
    refusal = refusal_of(owner, AdapterWish(jazz.pk), AdapterWish(jazz.pk, 0.1))
    assert refusal.code == "ADAPTER_TWICE"


def test_there_is_a_limit(owner: User, mono: ModelConfig) -> None:
    refusal = refusal_of(owner, *[AdapterWish(number) for number in range(1, MAX_ADAPTERS + 2)])
    assert (refusal.code, refusal.facts["max_adapters"]) == ("TOO_MANY_ADAPTERS", MAX_ADAPTERS)


def test_with_a_model_that_is_not_there_the_model_is_the_reason(owner: User, jazz: Adapter) -> None:
    with pytest.raises(GenerationRefused) as refused:
        submit(owner, AdapterWish(jazz.pk), model_id="no-such-model")
    assert list(refused.value.refusals) == ["model"]


# Again.


def test_trying_again_keeps_the_adapters(owner: User, jazz: Adapter, funk: Adapter) -> None:
    job = submit(owner, AdapterWish(jazz.pk, 0.3), AdapterWish(funk.pk, 1.5))
    jobs.request_cancel(job)
    again = jobs.retry_job(job)
    assert again is not None
    assert [(used.adapter, used.strength) for used in again.adapters.all()] == [(jazz, 0.3), (funk, 1.5)]


def test_trying_again_without_the_adapter_is_refused_until_it_is_back(
    owner: User, mono: ModelConfig, jazz: Adapter, adapter_on: AdapterOn
) -> None:
    job = submit(owner, AdapterWish(jazz.pk, 0.3))
    jobs.request_cancel(job)
    jazz.delete()
    with pytest.raises(GenerationRefused, match="was deleted") as refused:
        jobs.retry_job(job)
    assert refused.value.first.code == "ADAPTER_NOT_FOUND"
    back = bring_in(adapter_on("mono", "whole"), "Jazz again", base_model=mono.pk)
    again = jobs.retry_job(job)
    assert again is not None
    assert [(used.adapter, used.strength) for used in again.adapters.all()] == [(back, 0.3)]


# What people see.


def test_cards_and_takes_name_them(owner: User, jazz: Adapter, client: Client) -> None:
    job = submit(owner, AdapterWish(jazz.pk, 0.8), seed=5)
    assert cards.card_of(job).facts.endswith("seed 5 · Jazz v1.0 0.8")
    assert "Jazz v1.0 0.8" in client.get("/").content.decode()
    take = made_take(job)
    assert take.adapter_lines == ["Jazz v1.0 0.8"]
    assert "Jazz v1.0 0.8" in client.get("/library/").content.decode()


def made_take(job: Job) -> Take:
    """The take that an engine would save for it."""
    claimed = jobs.claim_next_job(HOST, only_job=job.pk)
    assert claimed is not None
    recipe = recipe_for(claimed, adapters=list(claimed.adapters.all()))
    take = save(claimed, recipe=recipe)
    assert take is not None
    jobs.end_job(claimed, JobStatus.FINISHED, host=HOST)
    return take


def test_the_board_asks_for_adapters_once(
    owner: User, jazz: Adapter, django_assert_max_num_queries: Any
) -> None:
    for _ in range(6):
        submit(owner, AdapterWish(jazz.pk))
    with django_assert_max_num_queries(6):
        cards.board(owner)


def test_the_recipe_names_them_always(owner: User, jazz: Adapter) -> None:
    bare = make_job(owner)
    facts: dict[str, Any] = {"seed": 1, "is_partial": False, "frames": 5, "engine_facts": {}}
    assert recipe_of(bare, **facts)["adapters"] == []
    job = submit(owner, AdapterWish(jazz.pk, 0.8))
    assert recipe_of(job, **facts, adapters=list(job.adapters.all()))["adapters"] == [
        {"id": jazz.pk, "name": "Jazz", "version": "1.0", "sha256": jazz.sha256, "strength": 0.8}
    ]


def test_the_library_filters_by_adapter(owner: User, jazz: Adapter, funk: Adapter, client: Client) -> None:
    with_jazz = made_take(submit(owner, AdapterWish(jazz.pk)))
    with_both = made_take(submit(owner, AdapterWish(jazz.pk), AdapterWish(funk.pk)))
    bare = made_take(submit(owner))
    page = client.get("/library/", {"adapter": funk.pk})
    assert page.context["adapter_filter"] == funk.pk
    assert list(page.context["takes"]) == [with_both]
    assert list(client.get("/library/", {"adapter": jazz.pk}).context["takes"]) == [with_both, with_jazz]
    for other in ("", "x", "9" * 40, "-1"):
        found = client.get("/library/", {"adapter": other}).context["takes"]
        assert list(found) == [bare, with_both, with_jazz]
    assert client.get("/library/").context["adapters"] == [funk, jazz], "by name"
    assert f'<option value="{funk.pk}" selected>Funk v1.0</option>' in page.content.decode()
    api = client.get("/api/takes", {"adapter": funk.pk}).json()
    assert [take["id"] for take in api["takes"]] == [with_both.pk]


def test_the_library_names_only_adapters_of_ones_own(
    shared_mode: None, alice: User, bob: User, jazz: Adapter, client: Client
) -> None:
    made_take(submit(alice, AdapterWish(jazz.pk)))
    client.force_login(bob)
    page = client.get("/library/", {"adapter": jazz.pk})
    assert (list(page.context["takes"]), page.context["adapters"]) == ([], [])


# Every edge.


def test_the_api_takes_and_shows_them(owner: User, jazz: Adapter, funk: Adapter, client: Client) -> None:
    wanted = {"prompt": "piano", "adapters": [{"id": jazz.pk, "strength": 0.8}, {"id": funk.pk}]}
    answer = post(client, wanted)
    assert answer.status_code == 202
    shown = [
        {"id": jazz.pk, "name": "Jazz", "version": "1.0", "sha256": jazz.sha256, "strength": 0.8},
        {"id": funk.pk, "name": "Funk", "version": "1.0", "sha256": funk.sha256, "strength": 0.7},
    ]
    assert answer.json()["adapters"] == shown
    take = made_take(Job.objects.get())
    assert client.get(f"/api/takes/{take.pk}").json()["adapters"] == shown
    assert client.get(f"/api/generations/{take.job_id}").json()["takes"][0]["adapters"] == shown
    assert post(client, {"prompt": "piano"}).json()["adapters"] == []


def test_the_api_refuses_in_the_one_shape(
    owner: User, mono: ModelConfig, wide: ModelConfig, orchestra: Adapter, client: Client
) -> None:
    answer = post(client, {"prompt": "piano", "adapters": [{"id": orchestra.pk}]})
    refusal = assert_refused(answer, 400, "ADAPTER_INCOMPATIBLE")
    sentence = "Adapter 'Orchestra HD' requires Dwarf Wide, but Dwarf Mono is active"
    assert refusal["error"] == refusal["errors"]["adapters"] == sentence
    assert (refusal["adapter_id"], refusal["model_id"], refusal["required_model_id"]) == (
        orchestra.pk,
        mono.pk,
        wide.pk,
    )


@pytest.mark.parametrize(
    "adapters",
    [
        "jazz", {"id": 1}, [1], ["1"], [{}], [{"id": "1"}], [{"id": True}], [{"id": 1.5}], [{"id": 1, "strength": "1"}],
        [{"id": 1, "strength": True}], [{"id": 1, "weight": 1}], [None], None,
    ],
)  # fmt: skip
def test_the_api_is_strict(mono: ModelConfig, client: Client, adapters: Any) -> None:
    assert_refused(post(client, {"prompt": "piano", "adapters": adapters}), 400, "INVALID_REQUEST")


def form(values: list[tuple[str, str]]) -> GenerationForm:
    """The studio's form as a browser sends it."""
    return GenerationForm(QueryDict(urlencode([("prompt", "piano"), *values])))


def test_the_form_reads_each_chosen_one_and_its_strength() -> None:
    sent = form(
        [("adapter", ""), ("adapter", "7"), ("strength-7", "0,8"), ("adapter", "9"), ("strength-8", "2")]
    )
    assert sent.is_valid()
    assert sent.as_request().adapters == (AdapterWish(7, 0.8), AdapterWish(9, None))
    none = form([("adapter", "")])
    assert none.is_valid()
    assert none.as_request().adapters == ()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([("adapter", "seven")], "Choose the adapters from the list."),
        ([("adapter", "7" * 19)], "Choose the adapters from the list."),
        ([("adapter", "٧")], "Choose the adapters from the list."),
        ([("adapter", "7"), ("strength-7", "loud")], "Strength must be a number from 0 to 2."),
    ],
)
def test_the_form_refuses_what_is_no_number(values: list[tuple[str, str]], sentence: str) -> None:
    sent = form(values)
    assert not sent.is_valid()
    assert sent.errors["adapters"] == [sentence]


def test_the_page_queues_and_refuses(owner: User, jazz: Adapter, orchestra: Adapter, client: Client) -> None:
    queued = client.post("/", {"prompt": "piano", "adapter": [str(jazz.pk)], f"strength-{jazz.pk}": "0.4"})
    assert queued.status_code == 302
    assert str(Job.objects.get().adapters.get()) == "Jazz v1.0 0.4"
    refused = client.post("/", {"prompt": "piano", "adapter": [str(orchestra.pk)]})
    assert refused.status_code == 400
    assert refused.context["form"].errors["adapters"] == [
        "Adapter 'Orchestra HD' requires Dwarf Wide, but Dwarf Mono is active"
    ]
    assert Job.objects.count() == 1


def test_the_admin_shows_them(owner: User, jazz: Adapter, staff: User, client: Client) -> None:
    job = submit(owner, AdapterWish(jazz.pk, 0.8))
    client.force_login(staff)
    page = client.get(f"/admin/generation/job/{job.pk}/change/").content.decode()
    assert "Jazz v1.0" in page
    assert jazz.sha256 in page


# Names, as a command is given them.


def test_names_numbers_and_strengths(mono: ModelConfig, jazz: Adapter, adapter_on: AdapterOn) -> None:
    second = bring_in(adapter_on("mono", "rslora"), "Jazz", version="v2", base_model=mono.pk)
    colon = bring_in(adapter_on("mono", "dora"), "Ratio 2:1", base_model=mono.pk)
    assert wish_of(str(jazz.pk)) == AdapterWish(jazz.pk)
    assert wish_of(f"{jazz.pk}:0.5") == AdapterWish(jazz.pk, 0.5)
    assert wish_of(" jazz V1.0 ") == AdapterWish(jazz.pk)
    assert wish_of("Jazz v2:1,25") == AdapterWish(second.pk, 1.25)
    assert wish_of("Jazz v2:-1") == AdapterWish(second.pk, -1.0), "the range is the submission's to refuse"
    assert wish_of("Ratio 2:1") == AdapterWish(colon.pk)
    assert wish_of("Ratio 2:1:0.5") == AdapterWish(colon.pk, 0.5)
    for line in (used := [str(jazz), str(second), str(colon)]):
        assert wish_of(f"{line}:2").strength == 2.0, used
    with pytest.raises(
        GenerationRefused, match=r"Several adapters are called 'Jazz'.*'Jazz v1.0', 'Jazz v2'"
    ):
        wish_of("Jazz")
    with pytest.raises(
        GenerationRefused, match=r"There is no adapter 'Polka'. There are: Jazz v1.0, Jazz v2"
    ) as refused:
        wish_of("Polka:0.5")
    assert refused.value.first.code == "ADAPTER_NOT_FOUND"


def test_without_any_adapter_it_says_how_to_get_one(mono: ModelConfig) -> None:
    with pytest.raises(GenerationRefused, match=r"manage.py import_adapter"):
        wish_of("Jazz\0")

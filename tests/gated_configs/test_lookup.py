"""Looking a model up: who gets which config, what the hub is asked, and what each failure says."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.utils import timezone

from gated_configs.models import HubConfig
from gated_configs.services import curation, hub_configs, lookup
from gated_configs.services.lookup import FoundConfig, LookupFailed, Source, find_config, has_config
from gated_configs.services.submission import submit_config
from tests.gated_configs.conftest import NOWHERE, TINY, text_of
from tests.hub import FakeHub
from tests.hub.fake_hub import TOKEN

pytestmark = pytest.mark.django_db


def found(user: User | None, model_id: str) -> FoundConfig:
    return find_config(user=user, model_id=model_id)


def failure(model_id: str, user: User | None = None) -> LookupFailed:
    with pytest.raises(LookupFailed) as caught:
        find_config(user=user, model_id=model_id)
    return caught.value


def save(user: User, model_id: str, **changes: Any) -> None:
    submit_config(user=user, model_id=model_id, config={**TINY, **changes}, address="")


# --- The order ---


def test_the_order_is_own_then_shared_then_builtin_then_hub(
    fake: FakeHub, alice: User, bob: User, staff: User
) -> None:
    model_id = "facebook/musicgen-small"
    fake.publish(model_id, {"config.json": text_of(TINY)})
    assert found(alice, model_id).source is Source.BUILTIN
    save(bob, model_id, num_hidden_layers=5)
    assert found(alice, model_id).source is Source.BUILTIN
    curation.share(has_config(user=bob, model_id=model_id).config, by=staff)  # type: ignore[union-attr]
    shared = found(alice, model_id)
    assert (shared.source, shared.config["num_hidden_layers"]) == (Source.SHARED, 5)
    save(alice, model_id, num_hidden_layers=7)
    own = found(alice, model_id)
    assert (own.source, own.config["num_hidden_layers"], own.version) == (Source.OWN, 7, 1)
    assert found(bob, model_id).source is Source.OWN
    assert found(staff, model_id).source is Source.SHARED
    assert not fake.requests
    assert found(alice, "studio/tiny").source is Source.HUB


def test_one_persons_paste_changes_nothing_for_another(fake: FakeHub, alice: User, bob: User) -> None:
    save(alice, "studio/tiny", num_hidden_layers=5)
    assert found(alice, "studio/tiny").config["num_hidden_layers"] == 5
    for other in (bob, AnonymousUser(), None):
        seen = find_config(user=other, model_id="studio/tiny")
        assert (seen.source, seen.config["num_hidden_layers"]) == (Source.HUB, 2)
    assert has_config(user=bob, model_id="studio/tiny") is None


def test_a_paste_after_sharing_is_seen_by_its_owner_alone(alice: User, bob: User, staff: User) -> None:
    save(alice, "meta-llama/gated", num_hidden_layers=5)
    saved = has_config(user=alice, model_id="meta-llama/gated")
    assert saved is not None
    curation.verify(saved.config, by=staff)
    curation.share(saved.config, by=staff)
    save(alice, "meta-llama/gated", num_hidden_layers=6)
    mine, shared = found(alice, "meta-llama/gated"), found(bob, "meta-llama/gated")
    assert (mine.version, mine.config["num_hidden_layers"], mine.is_verified) == (2, 6, False)
    assert (shared.version, shared.config["num_hidden_layers"], shared.is_verified) == (1, 5, True)


def test_a_retired_config_is_used_for_nobody_until_it_is_submitted_again(
    fake: FakeHub, alice: User, bob: User, staff: User
) -> None:
    save(alice, "studio/tiny", num_hidden_layers=5)
    saved = has_config(user=alice, model_id="studio/tiny")
    assert saved is not None
    curation.share(saved.config, by=staff)
    curation.retire(saved.config, by=staff)
    assert found(alice, "studio/tiny").source is Source.HUB
    assert found(bob, "studio/tiny").source is Source.HUB
    save(alice, "studio/tiny", num_hidden_layers=5)
    assert found(alice, "studio/tiny").source is Source.OWN
    assert found(bob, "studio/tiny").source is Source.HUB


def test_letters_of_either_case_mean_the_same_model(fake: FakeHub, alice: User) -> None:
    save(alice, "Studio/Tiny")
    assert found(alice, "studio/tiny").source is Source.OWN
    save(alice, "studio/TINY", num_hidden_layers=3)
    assert found(alice, "studio/tiny").version == 2


# --- What the hub is asked ---


def test_a_config_of_the_hub_says_its_commit_and_age(fake: FakeHub, alice: User) -> None:
    answer = found(alice, "studio/tiny")
    commit = fake.repositories["studio/tiny"].refs["main"]
    assert answer.config == TINY
    assert answer.commit == commit
    assert answer.source_sentence == f"From the hub, commit {commit[:7]}, fetched just now"
    assert answer.sha256 == hub_configs.content_hash(hub_configs.canonical_json(TINY))


def test_a_second_look_makes_no_request(fake: FakeHub, alice: User, bob: User) -> None:
    found(alice, "gpt2")
    assert [each.path for each in fake.requests] == ["/gpt2/resolve/main/config.json"]
    fake.forget_requests()
    assert found(alice, "gpt2") == found(bob, "gpt2")
    assert found(None, "gpt2").commit
    assert fake.requests == []


def test_a_saved_config_makes_no_request(fake: FakeHub, alice: User) -> None:
    failure("meta-llama/gated", alice)
    fake.forget_requests()
    save(alice, "meta-llama/gated")
    assert found(alice, "meta-llama/gated").source is Source.OWN
    assert fake.requests == []


def test_an_expired_answer_is_asked_for_again(fake: FakeHub, alice: User) -> None:
    first = found(alice, "studio/tiny").commit
    second = fake.publish("studio/tiny", {"config.json": text_of({**TINY, "num_hidden_layers": 9})})
    assert found(alice, "studio/tiny").commit == first
    expire()
    answer = found(alice, "studio/tiny")
    assert (answer.commit, answer.config["num_hidden_layers"]) == (second, 9)
    assert HubConfig.objects.count() == 1
    fake.forget_requests()
    found(alice, "studio/tiny")
    assert fake.requests == []


def expire(**ago: Any) -> None:
    now = timezone.now()
    HubConfig.objects.update(expires_at=now, fetched_at=now - timedelta(**(ago or {"days": 2})))


def switch_on(trouble: str, fake: FakeHub) -> None:
    match trouble:
        case "unreachable":
            fake.refuse_connections()
        case "failing":
            fake.answer(500)
        case "web page":
            fake.send_web_page()
        case "rate":
            fake.limit_rate()


@pytest.mark.parametrize("trouble", ["unreachable", "failing", "web page", "rate"])
def test_an_expired_answer_is_used_while_the_hub_cannot_be_asked(
    trouble: str, fake: FakeHub, alice: User
) -> None:
    found(alice, "studio/tiny")
    expire(hours=30)
    switch_on(trouble, fake)
    answer = found(alice, "studio/tiny")
    assert answer.config == TINY
    assert answer.is_expired
    assert "fetched on " in answer.source_sentence
    assert answer.source_sentence.endswith("the hub cannot be asked now")


@pytest.mark.parametrize("change", ["gated", "gone"])
def test_an_expired_answer_is_not_used_against_the_hubs_own_word(
    change: str, fake: FakeHub, alice: User
) -> None:
    found(alice, "studio/tiny")
    expire()
    if change == "gated":
        fake.gate("studio/tiny")
        assert failure("studio/tiny").error_code == "MODEL_GATED"
    else:
        del fake.repositories["studio/tiny"]
        assert failure("studio/tiny").error_code == "MODEL_NOT_FOUND"


def test_each_hub_has_its_own_answers(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    found(None, "studio/tiny")
    with FakeHub({"studio/tiny": {"config.json": text_of({**TINY, "num_hidden_layers": 4})}}) as other:
        monkeypatch.setenv("HF_ENDPOINT", other.endpoint)
        assert found(None, "studio/tiny").config["num_hidden_layers"] == 4
    monkeypatch.setenv("HF_ENDPOINT", fake.endpoint)
    assert found(None, "studio/tiny").config["num_hidden_layers"] == 2


def test_the_token_goes_to_the_hub_and_opens_what_it_may(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.gate("meta-llama/gated", allowed={TOKEN})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert found(None, "meta-llama/gated").config["num_hidden_layers"] == 3
    assert fake.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_renamed_model_is_found_under_its_old_name(fake: FakeHub) -> None:
    fake.rename("studio/tiny", "studio/small")
    assert found(None, "studio/tiny").config == TINY


def test_the_commit_is_known_of_a_file_that_lies_elsewhere(fake: FakeHub) -> None:
    commit = fake.repositories["studio/tiny"].refs["main"]
    elsewhere = f"{fake.store}/store/studio/tiny/{commit}/config.json"
    fake.answer(302, path="^/studio", headers={"Location": elsewhere, "X-Repo-Commit": commit})
    assert found(None, "studio/tiny").commit == commit


def test_a_commit_that_cannot_be_one_is_left_out(fake: FakeHub) -> None:
    headers = {"Content-Type": "application/json", "X-Repo-Commit": "<b>main"}
    fake.answer(200, headers=headers, body=text_of(TINY))
    answer = found(None, "studio/tiny")
    assert (answer.commit, answer.source_sentence) == ("", "From the hub, fetched just now")


def test_a_redirect_to_a_scheme_that_is_no_web_address_is_not_followed(fake: FakeHub) -> None:
    fake.answer(302, headers={"Location": "file:///etc/passwd"})
    assert failure("studio/tiny").error_code == "HUB_ERROR"


def test_the_oldest_answers_go_when_there_are_too_many(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_configs, "MAX_KEPT", 1)
    found(None, "studio/tiny")
    expire(hours=1)
    found(None, "gpt2")
    assert [row.model_id for row in HubConfig.objects.all()] == ["gpt2"]


def test_people_are_kept_from_using_up_the_hubs_limit(
    fake: FakeHub, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lookup, "HUB_LOOKUPS", dataclasses.replace(lookup.HUB_LOOKUPS, name="of-this-test", per_person=1)
    )
    found(alice, "studio/tiny")
    found(alice, "studio/tiny")
    found(alice, "facebook/musicgen-small")
    refused = failure("gpt2", alice)
    assert (refused.error_code, refused.status, refused.requires_config) == ("TOO_MANY_LOOKUPS", 429, False)
    assert refused.retry_after_seconds is not None
    assert len(fake.requests) == 1
    found(bob, "gpt2")


# --- What each failure says ---


def test_gated_without_a_token(fake: FakeHub) -> None:
    refused = failure("meta-llama/gated")
    assert (refused.error_code, refused.reason) == ("MODEL_GATED", "GATED_NO_TOKEN")
    assert (refused.status, refused.requires_config) == (403, True)
    assert str(refused) == (
        "meta-llama/gated is gated, and this studio has no token for the hub. Open"
        f" {fake.endpoint}/meta-llama/gated, copy its config.json and paste it here. An operator can also set HF_TOKEN."
    )
    assert refused.model_page == f"{fake.endpoint}/meta-llama/gated"


def test_gated_without_access_yet(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    refused = failure("meta-llama/gated")
    assert (refused.error_code, refused.reason) == ("MODEL_GATED", "GATED_NO_ACCESS")
    assert (refused.status, refused.requires_config) == (403, True)
    assert "token has no access to it yet. Ask for access on" in str(refused)


@pytest.mark.parametrize("model_id", ["studio/tiny", "meta-llama/gated", "studio/none"])
def test_a_bad_token(model_id: str, fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    refused = failure(model_id)
    assert (refused.error_code, refused.status, refused.requires_config) == ("BAD_TOKEN", 503, False)
    assert "wrong or has expired" in refused.sentence
    assert "HF_TOKEN" in refused.next_step
    assert "hf_expired" not in str(refused)


def test_a_token_that_cannot_be_one(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_with\nnewline")
    assert failure("studio/tiny").error_code == "BAD_TOKEN"
    assert fake.requests == []


@pytest.mark.parametrize("token", [None, TOKEN])
def test_no_such_model(token: str | None, fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    refused = failure("studio/none")
    assert (refused.error_code, refused.status, refused.requires_config) == ("MODEL_NOT_FOUND", 404, False)
    assert "has no model studio/none" in refused.sentence
    assert "Check the spelling" in refused.next_step


def test_no_config_in_it(fake: FakeHub) -> None:
    refused = failure("studio/empty")
    assert (refused.error_code, refused.status, refused.requires_config) == ("NO_CONFIG", 404, False)
    assert "has no config.json" in refused.sentence


@pytest.mark.parametrize(
    ("retry_after", "seconds", "said"),
    [
        ("30", 30, "in 30\u202fs"),
        ("2", 2, "in 2\u202fs"),
        (None, None, "a few minutes"),
        ("soon", None, "a few"),
    ],
)
def test_rate_limited(retry_after: str | None, seconds: int | None, said: str, fake: FakeHub) -> None:
    fake.limit_rate(retry_after=retry_after)
    refused = failure("studio/tiny")
    assert (refused.error_code, refused.status, refused.requires_config) == ("RATE_LIMITED", 429, False)
    assert refused.retry_after_seconds == seconds
    assert said in refused.next_step
    assert len(fake.requests) == 1


def test_unreachable() -> None:
    refused = failure("studio/tiny")
    assert (refused.error_code, refused.status, refused.requires_config) == ("HUB_UNREACHABLE", 503, True)
    assert str(refused) == (
        f"The hub at {NOWHERE} cannot be reached. Try again later, or paste the model's config.json here."
    )


def test_offline_by_the_environment(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused = failure("studio/tiny")
    assert (refused.error_code, refused.requires_config) == ("HUB_UNREACHABLE", True)
    assert "HF_HUB_OFFLINE is set" in refused.sentence
    assert fake.requests == []


def test_an_endpoint_that_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "the hub")
    refused = failure("studio/tiny")
    assert refused.error_code == "HUB_UNREACHABLE"
    assert "HF_ENDPOINT is not a web address" in refused.sentence


def test_a_hub_that_is_silent_is_given_up_and_left_alone_for_a_while(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_configs, "LOOKUP_SECONDS", 0.4)
    fake.slow(10, path="config")
    started = time.monotonic()
    refused = failure("studio/tiny")
    assert time.monotonic() - started < 2
    assert (refused.error_code, refused.requires_config) == ("HUB_UNREACHABLE", True)
    assert "does not answer in time" in refused.sentence
    asked = len(fake.requests)
    assert failure("gpt2").sentence == refused.sentence
    assert len(fake.requests) == asked
    fake.heal()
    monkeypatch.setattr(hub_configs, "_silent_until", {})
    assert found(None, "gpt2").source is Source.HUB


def test_a_failure_that_passes_is_tried_again(fake: FakeHub) -> None:
    fake.answer(502, times=1)
    assert found(None, "studio/tiny").config == TINY


def test_trouble_of_the_hub(fake: FakeHub) -> None:
    fake.answer(500)
    refused = failure("studio/tiny")
    assert (refused.error_code, refused.status, refused.requires_config) == ("HUB_ERROR", 503, False)
    assert "(500)" in refused.sentence
    assert refused.next_step == "Try again later."


def test_something_that_is_no_hub(fake: FakeHub) -> None:
    fake.send_web_page()
    refused = failure("studio/tiny")
    assert (refused.error_code, refused.status, refused.requires_config) == ("NOT_A_HUB", 503, False)
    assert "is not a model hub" in refused.sentence
    assert "Check HF_ENDPOINT" in refused.next_step


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not json", "is not valid JSON"),
        (b'{"a": ', "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[1, 2]", "is not a JSON object"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b'{"a": "' + b"x" * (4 * 1024 * 1024) + b'"}', "is larger than"),
    ],
)
def test_a_file_that_is_no_config(content: bytes, said: str, fake: FakeHub) -> None:
    fake.publish("studio/odd", {"config.json": content})
    refused = failure("studio/odd")
    assert (refused.error_code, refused.status) == ("CONFIG_UNREADABLE", 422)
    assert said in refused.sentence
    assert not HubConfig.objects.exists()


def test_every_failure_has_a_sentence_of_its_own(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [failure(model_id) for model_id in ("meta-llama/gated", "studio/none", "studio/empty")]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said.append(failure("meta-llama/gated"))
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    said.append(failure("studio/tiny"))
    monkeypatch.delenv("HF_TOKEN")
    for trouble in ("rate", "web page", "failing"):
        switch_on(trouble, fake)
        said.append(failure("studio/tiny"))
        fake.heal()
    fake.refuse_connections()
    said.append(failure("studio/tiny"))
    assert len({each.sentence for each in said}) == len(said)
    assert len({each.next_step for each in said}) == len(said)
    assert {each.error_code for each in said if each.requires_config} == {"MODEL_GATED", "HUB_UNREACHABLE"}
    for each in said:
        assert each.sentence.endswith(".")
        assert each.next_step.endswith(".")


def test_strange_content_survives_the_database(fake: FakeHub) -> None:
    odd = {**TINY, "note": "zero \0 and half a pair \ud800", "limit": float("nan")}
    fake.publish("studio/odd", {"config.json": json.dumps(odd).encode()})
    found(None, "studio/odd")
    kept = found(None, "studio/odd").config
    assert kept["note"] == odd["note"]
    assert kept["limit"] != kept["limit"]
    assert HubConfig.objects.get().content.isascii()
    assert "\0" not in HubConfig.objects.get().content

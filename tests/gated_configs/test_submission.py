"""Submitting a config: what is saved, what is refused, versions, and two submissions at one moment."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction

from gated_configs.memory import InvalidConfig, UnsupportedArchitecture
from gated_configs.models import ConfigVersion, UserModelConfig
from gated_configs.models.saved_config import VersionIsFinal
from gated_configs.services import submission
from gated_configs.services.submission import StorageFull, Submitted, TooManySubmissions, submit_config
from tests.gated_configs.conftest import TINY, text_of

pytestmark = pytest.mark.django_db


def submit(user: User, config: Any = None, *, model_id: str = "studio/tiny") -> Submitted:
    return submit_config(
        user=user, model_id=model_id, config=TINY if config is None else config, address="10.0.0.1"
    )


@pytest.mark.parametrize("form", ["object", "text", "bytes", "with a mark"])
def test_a_config_is_saved_in_every_form(form: str, alice: User) -> None:
    text = text_of(TINY)
    config: Any = {
        "object": TINY,
        "text": text.decode(),
        "bytes": text,
        "with a mark": b"\xef\xbb\xbf" + text,
    }[form]
    answer = submit(alice, config)
    version = ConfigVersion.objects.get()
    assert (answer.version, answer.config) == (version, UserModelConfig.objects.get())
    assert answer.is_new_version
    assert answer.config.owner == version.submitted_by == alice
    assert (answer.config.is_shared, answer.config.is_verified, answer.config.is_retired) == (False,) * 3
    assert version.number == 1
    assert version.as_config() == TINY
    assert version.content == json.dumps(TINY, sort_keys=True, separators=(",", ":"))
    assert version.size_bytes == len(version.content)
    assert (version.model_type, version.attention_type) == ("decoder-only", "gqa")
    assert version.parameter_count == answer.architecture.parameters.total > 0


def test_an_equal_paste_makes_no_version(alice: User) -> None:
    first = submit(alice)
    again = submit(alice, json.dumps(dict(reversed(TINY.items())), indent=7))
    assert not again.is_new_version
    assert again.version == first.version
    assert ConfigVersion.objects.count() == 1


def test_a_changed_paste_makes_the_next_version_and_keeps_the_old(alice: User) -> None:
    first = submit(alice)
    second = submit(alice, {**TINY, "num_hidden_layers": 4})
    back = submit(alice)
    assert [each.version.number for each in (first, second, back)] == [1, 2, 3]
    assert first.config == second.config
    assert back.config.current == back.version
    assert back.version.sha256 == first.version.sha256 != second.version.sha256
    assert second.config.updated_at > first.config.submitted_at


def test_people_have_configs_of_their_own(alice: User, bob: User) -> None:
    submit(alice)
    answer = submit(bob, {**TINY, "num_hidden_layers": 4})
    assert answer.version.number == 1
    assert UserModelConfig.objects.count() == 2


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        ({}, InvalidConfig, "empty"),
        ({"hidden_size": 8}, InvalidConfig, "model_type"),
        ({"model_type": "llama"}, InvalidConfig, "needs"),
        ({**TINY, "num_attention_heads": -1}, InvalidConfig, "num_attention_heads"),
        ({**TINY, "model_type": "nothing-known"}, UnsupportedArchitecture, "nothing-known"),
        ("not json", InvalidConfig, "JSON"),
        ("[]", InvalidConfig, ""),
        (b"\x00\x01", InvalidConfig, ""),
        ('{"a": 1, "a": 2}', InvalidConfig, "more than once"),
        ({**TINY, "note": "x" * (4 * 1024 * 1024)}, InvalidConfig, "bytes"),
        ({**TINY, "note": "é" * (2 * 1024 * 1024)}, InvalidConfig, "bytes"),
    ],
)
def test_what_is_refused_is_not_saved(config: Any, error: type[Exception], said: str, alice: User) -> None:
    with pytest.raises(error) as refused:
        submit(alice, config)
    assert said in str(refused.value)
    assert not UserModelConfig.objects.exists()
    assert not ConfigVersion.objects.exists()


def test_a_refused_paste_leaves_what_was_saved(alice: User) -> None:
    first = submit(alice)
    with pytest.raises(InvalidConfig):
        submit(alice, "{")
    assert first.config.current == first.version


@pytest.mark.usefixtures("clock_stands")
def test_refused_pastes_count_for_the_rate(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(submission.SUBMISSIONS.per_person):
        with pytest.raises(InvalidConfig):
            submit(alice, "{")
    with pytest.raises(TooManySubmissions) as refused:
        submit(alice)
    assert 0 < refused.value.retry_after_seconds <= submission.SUBMISSIONS.window_seconds
    assert str(refused.value).startswith(
        "Those were too many configs submitted in a short time. Try again in "
    )
    assert not UserModelConfig.objects.exists()


@pytest.mark.usefixtures("clock_stands")
def test_one_address_of_many_people_is_limited_too(db: None) -> None:
    people = [User.objects.create_user(f"person-{number}") for number in range(3)]
    for number in range(submission.SUBMISSIONS.per_address):
        with pytest.raises(InvalidConfig):
            submit(people[number % 3], "{")
    with pytest.raises(TooManySubmissions):
        submit(User.objects.create_user("fourth"), "{")


def test_nobody_fills_the_disk(alice: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    first = submit(alice)
    monkeypatch.setattr(submission, "MAX_SAVED_BYTES", first.version.size_bytes + 10)
    with pytest.raises(StorageFull) as refused:
        submit(alice, {**TINY, "num_hidden_layers": 4})
    assert "Ask an admin" in str(refused.value)
    assert not submit(alice).is_new_version
    submit(bob)


def test_text_that_databases_refuse_is_kept(alice: User) -> None:
    odd = {**TINY, "note": "zero \0, half a pair \ud800, 音楽", "unused": float("nan")}
    version = submit(alice, json.dumps(odd)).version
    version.refresh_from_db()
    assert version.content.isascii()
    assert "\0" not in version.content
    assert version.as_config()["note"] == odd["note"]


# --- Versions are final ---


def test_a_version_is_neither_changed_nor_deleted(alice: User) -> None:
    version = submit(alice).version
    version.content = "{}"
    for attempt in (
        version.save,
        lambda: version.save(update_fields=["content"]),
        version.delete,
        lambda: ConfigVersion.objects.update(content="{}"),
        lambda: ConfigVersion.objects.filter(pk=version.pk).delete(),
        lambda: ConfigVersion.objects.bulk_update([version], ["content"]),
    ):
        with pytest.raises(VersionIsFinal), transaction.atomic():
            attempt()
    assert ConfigVersion.objects.get().as_config() == TINY


def test_a_config_goes_with_its_versions(alice: User, staff: User) -> None:
    from gated_configs.services import curation

    config = submit(alice).config
    submit(alice, {**TINY, "num_hidden_layers": 4})
    curation.share(config, by=staff)
    curation.verify(config, by=staff)
    config.delete()
    assert not ConfigVersion.objects.exists()


def test_configs_outlive_their_owners_account(alice: User, bob: User, staff: User) -> None:
    from gated_configs.services import curation
    from gated_configs.services.lookup import Source, find_config

    config = submit(alice).config
    curation.share(config, by=staff)
    alice.delete()
    assert find_config(user=bob, model_id="studio/tiny").source is Source.SHARED
    config.refresh_from_db()
    assert config.owner is None
    assert str(config) == "studio/tiny of nobody"


@pytest.mark.parametrize(
    "values",
    [
        {"model_id": "studio/TINY"},
        {"model_id": ""},
        {"model_id": "a/b", "is_retired": True, "shared_version": "theirs"},
        {"model_id": "studio/tiny", "owner": None, "shared_version": "theirs"},
        {"model_id": "a/b", "verified_version": "theirs"},
    ],
)
def test_the_database_holds_the_rules(values: dict[str, Any], alice: User, staff: User) -> None:
    from gated_configs.services import curation

    first = submit(alice)
    curation.share(first.config, by=staff)
    row = {"owner": alice, **values}
    row = {name: first.version if value == "theirs" else value for name, value in row.items()}
    with pytest.raises(IntegrityError), transaction.atomic():
        UserModelConfig.objects.create(**row)


# --- At one moment ---


@pytest.mark.django_db(transaction=True)
def test_submissions_at_one_moment_do_not_collide(alice: User) -> None:
    submit(alice, model_id="studio/warm")
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def paste(number: int) -> None:
        try:
            start.wait()
            submit(alice, {**TINY, "num_hidden_layers": number})
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=paste, args=(number,)) for number in (3, 4, 5, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    config = UserModelConfig.objects.get(model_id="studio/tiny")
    versions = list(config.versions.order_by("number"))
    assert [version.number for version in versions] == list(range(1, len(versions) + 1))
    assert {version.as_config()["num_hidden_layers"] for version in versions} == {3, 4, 5}


def test_losing_the_race_for_a_number_is_tried_again(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PostgreSQL does when two people's first submissions of a model meet."""
    real, calls = submission._save, []

    def racing(*arguments: Any) -> Submitted:
        calls.append(arguments)
        if len(calls) < 3:
            raise IntegrityError("one_config_of_a_model_and_owner")
        return real(*arguments)

    monkeypatch.setattr(submission, "_save", racing)
    assert submit(alice).version.number == 1
    assert len(calls) == 3

"""What an admin does with saved configs, who may, and how configs differ."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError
from hypothesis import given, settings
from hypothesis import strategies as st

from gated_configs.models import UserModelConfig
from gated_configs.services import curation
from gated_configs.services.differences import (
    MAX_DIFFERENCES,
    MAX_VALUE_CHARACTERS,
    Change,
    differences,
    json_excerpt,
)
from gated_configs.services.lookup import LookupFailed, Source, find_config
from gated_configs.services.submission import submit_config
from tests.gated_configs.conftest import TINY
from tests.hub import FakeHub


def save(user: User, model_id: str = "studio/tiny", **changes: Any) -> UserModelConfig:
    return submit_config(user=user, model_id=model_id, config={**TINY, **changes}, address="").config


# --- Sharing and verifying ---


def test_sharing_one_takes_the_place_of_another(alice: User, bob: User, mallory: User, staff: User) -> None:
    first, second = save(alice, num_hidden_layers=3), save(bob, "Studio/TINY", num_hidden_layers=4)
    curation.share(first, by=staff)
    curation.share(second, by=staff)
    for config in (first, second):
        config.refresh_from_db()
    assert (first.is_shared, second.is_shared) == (False, True)
    assert find_config(user=mallory, model_id="studio/tiny").config["num_hidden_layers"] == 4
    assert list(UserModelConfig.objects.shared()) == [second]


def test_what_is_shared_no_longer_is_its_owners_alone(alice: User, bob: User, staff: User) -> None:
    config = save(alice, "meta-llama/gated")
    curation.share(config, by=staff)
    curation.unshare(config, by=staff)
    assert find_config(user=alice, model_id="meta-llama/gated").source is Source.OWN
    with pytest.raises(LookupFailed):
        find_config(user=bob, model_id="meta-llama/gated")


def test_sharing_again_puts_the_newest_version_out(alice: User, bob: User, staff: User) -> None:
    config = save(alice)
    assert curation.share(config, by=staff).number == 1
    save(alice, num_hidden_layers=4)
    assert find_config(user=bob, model_id="studio/tiny").version == 1
    assert curation.share(config, by=staff).number == 2
    assert find_config(user=bob, model_id="studio/tiny").version == 2


def test_a_retired_one_is_not_shared_until_it_is_restored(alice: User, staff: User) -> None:
    config = save(alice)
    curation.retire(config, by=staff)
    with pytest.raises(curation.CurationRefused, match="Restore it before"):
        curation.share(config, by=staff)
    curation.restore(config, by=staff)
    curation.share(config, by=staff)
    config.refresh_from_db()
    assert config.is_shared


def test_a_stale_row_does_not_share_what_was_retired(alice: User, staff: User) -> None:
    config = save(alice)
    stale = UserModelConfig.objects.get(pk=config.pk)
    curation.retire(config, by=staff)
    with pytest.raises(curation.CurationRefused, match="retired"):
        curation.share(stale, by=staff)
    config.refresh_from_db()
    assert not config.is_shared


def test_two_who_share_at_one_moment_are_told(
    alice: User, staff: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = save(alice)

    def collide(*_: Any, **__: Any) -> None:
        raise IntegrityError("one_shared_config_of_a_model")

    monkeypatch.setattr(UserModelConfig, "save", collide)
    with pytest.raises(curation.CurationRefused, match="at this very moment"):
        curation.share(config, by=staff)


def test_verifying_names_who_and_when_and_holds_for_that_version(alice: User, staff: User) -> None:
    config = save(alice)
    curation.verify(config, by=staff)
    config.refresh_from_db()
    assert (config.verified_by, config.is_verified) == (staff, True)
    assert config.verified_at is not None
    assert find_config(user=alice, model_id="studio/tiny").is_verified
    assert list(UserModelConfig.objects.verified()) == [config]
    save(alice, num_hidden_layers=4)
    assert not config.is_verified
    assert not find_config(user=alice, model_id="studio/tiny").is_verified
    assert not UserModelConfig.objects.verified()
    curation.verify(config, by=staff)
    assert find_config(user=alice, model_id="studio/tiny").is_verified
    curation.unverify(config, by=staff)
    assert UserModelConfig.objects.filter(verified_by=None, verified_at=None, verified_version=None).exists()


@pytest.mark.parametrize("verb", ["verify", "unverify", "share", "unshare", "retire", "restore"])
def test_only_curators_curate(verb: str, alice: User) -> None:
    config = save(alice)
    before = UserModelConfig.objects.values().get()
    with pytest.raises(PermissionDenied):
        getattr(curation, verb)(config, by=alice)
    assert UserModelConfig.objects.values().get() == before


def test_an_admins_edit_is_a_version_of_the_owners_config(alice: User, staff: User) -> None:
    config = save(alice)
    text = json.dumps({**TINY, "num_hidden_layers": 4})
    result = curation.take_over(config=config, model_id="", text=text, by=staff)
    assert (result.config, result.version.number) == (config, 2)
    assert (result.config.owner, result.version.submitted_by) == (alice, staff)
    with pytest.raises(PermissionDenied):
        curation.take_over(config=config, model_id="", text=text, by=alice)


def test_an_admins_edit_reaches_a_config_whose_owner_is_gone(alice: User, bob: User, staff: User) -> None:
    configs = [save(alice), save(bob)]
    alice.delete()
    bob.delete()
    for config in configs:
        config.refresh_from_db()
        text = json.dumps({**TINY, "num_hidden_layers": 4})
        result = curation.take_over(config=config, model_id="", text=text, by=staff)
        assert (result.config, result.version.number) == (config, 2)


def test_an_admins_edit_leaves_a_retired_one_retired(alice: User, staff: User) -> None:
    config = save(alice)
    curation.retire(config, by=staff)
    text = json.dumps({**TINY, "num_hidden_layers": 4})
    assert curation.take_over(config=config, model_id="", text=text, by=staff).config.is_retired


def test_people_give_up_a_config_of_their_own_and_take_it_back(fake: FakeHub, alice: User, bob: User) -> None:
    config = save(alice)
    with pytest.raises(UserModelConfig.DoesNotExist):
        curation.retire_own(user=bob, model_id="studio/tiny")
    assert curation.retire_own(user=alice, model_id="studio/TINY") == config
    assert find_config(user=alice, model_id="studio/tiny").source is Source.HUB
    with pytest.raises(UserModelConfig.DoesNotExist):
        curation.retire_own(user=alice, model_id="studio/tiny")
    with pytest.raises(UserModelConfig.DoesNotExist):
        curation.restore_own(user=bob, config_id=config.pk)
    curation.restore_own(user=alice, config_id=config.pk)
    assert find_config(user=alice, model_id="studio/tiny").source is Source.OWN


def test_an_owner_does_not_take_from_everybody_what_is_shared(alice: User, bob: User, staff: User) -> None:
    curation.share(save(alice), by=staff)
    with pytest.raises(curation.CurationRefused, match="only an admin retires it"):
        curation.retire_own(user=alice, model_id="studio/tiny")
    assert find_config(user=bob, model_id="studio/tiny").source is Source.SHARED


# --- Differences ---


def test_a_config_is_compared_with_the_hub(fake: FakeHub, alice: User) -> None:
    config = save(alice, num_hidden_layers=4)
    comparison = curation.compare_with_hub(config)
    assert comparison.commit == fake.repositories["studio/tiny"].refs["main"]
    assert [str(line) for line in comparison.differences.lines] == ["num_hidden_layers: 4 → 2"]
    assert not curation.compare_with_hub(save(alice)).differences
    with pytest.raises(LookupFailed):
        curation.compare_with_hub(save(alice, "meta-llama/gated"))


def test_a_version_tells_what_it_changed(alice: User) -> None:
    config = save(alice)
    save(alice, num_hidden_layers=4)
    save(alice, num_hidden_layers=4, rope_theta=5e5)
    first, second, third = config.versions.order_by("number")
    assert not curation.version_differences(first)
    assert [str(line) for line in curation.version_differences(second).lines] == ["num_hidden_layers: 2 → 4"]
    assert [str(line) for line in curation.version_differences(third).lines] == ["rope_theta: 500000.0 added"]


def test_differences_are_told_field_by_field() -> None:
    before = {"same": 1, "gone": None, "deep": {"a": [1, 2, {"b": 3}], "c": "x"}, "kind": 1, "flag": True}
    after = {"same": 1, "new": [], "deep": {"a": [1, 5, {"b": 4}, 9], "c": "x"}, "kind": 1.0, "flag": 1}
    told = differences(before, after)
    assert [str(line) for line in told.lines] == [
        "deep.a[1]: 2 → 5",
        "deep.a[2].b: 3 → 4",
        "deep.a[3]: 9 added",
        "flag: true → 1",
        "gone: null removed",
        "kind: 1 → 1.0",
        "new: [] added",
    ]
    assert told.is_complete
    assert {line.change for line in told.lines} == set(Change)


def test_not_a_number_equals_itself_here() -> None:
    nan = float("nan")
    assert not differences({"a": nan, "b": [nan]}, {"a": float("nan"), "b": [float("nan")]})


def test_what_is_told_is_bounded() -> None:
    many = differences({}, {f"key{number}": "x" * 10_000 for number in range(1000)})
    assert len(many.lines) == MAX_DIFFERENCES
    assert not many.is_complete
    assert all(len(line.after) <= MAX_VALUE_CHARACTERS for line in many.lines)
    long = differences({"k" * 10_000: 1}, {})
    assert len(long.lines[0].path) <= MAX_VALUE_CHARACTERS
    deep: Any = 1
    for _ in range(500):
        deep = {"a": deep}
    assert len(differences({"a": deep}, {"a": {"a": 2}}).lines) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=3), JSON), st.dictionaries(st.text(max_size=3), JSON))
def test_there_is_a_difference_exactly_where_the_texts_differ(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    told = differences(before, after)
    assert bool(told) == (json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True))
    assert len(told.lines) == len(differences(after, before).lines)
    assert not differences(before, before)


def test_a_long_config_is_shown_in_part() -> None:
    text = json_excerpt({"a": "x" * 1000}, max_characters=100)
    assert len(text) < 200
    assert text.endswith("characters more")

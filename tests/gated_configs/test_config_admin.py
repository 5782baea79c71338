"""The admin of saved configs and of the hub's answers, as a browser meets it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib import admin as django_admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from gated_configs.admin import register_config_action
from gated_configs.admin import saved_configs as saved_configs_admin
from gated_configs.admin import versions as versions_admin
from gated_configs.models import ConfigVersion, HubConfig, UserModelConfig
from gated_configs.services import curation
from gated_configs.services.lookup import find_config
from gated_configs.services.submission import submit_config
from tests.gated_configs.conftest import TINY, text_of
from tests.hub import FakeHub

LIST = "/admin/gated_configs/usermodelconfig/"
VERSIONS = "/admin/gated_configs/configversion/"
HUB_LIST = "/admin/gated_configs/hubconfig/"


@pytest.fixture
def curator(client: Client, staff: User, shared_mode: None) -> Client:
    """A browser in which staff is logged in."""
    client.force_login(staff)
    return client


@pytest.fixture
def saved(alice: User) -> UserModelConfig:
    """Alice's config of a small model."""
    return save(alice)


def save(user: User, model_id: str = "studio/tiny", **changes: Any) -> UserModelConfig:
    return submit_config(user=user, model_id=model_id, config={**TINY, **changes}, address="").config


def page(config: UserModelConfig, action: str = "change") -> str:
    return f"{LIST}{config.pk}/{action}/"


def act(browser: Client, action: str, *configs: UserModelConfig) -> str:
    chosen = {"action": action, "_selected_action": [config.pk for config in configs]}
    return browser.post(LIST, chosen, follow=True).content.decode()


def edit(browser: Client, address: str, **fields: Any) -> Any:
    inline = {"versions-TOTAL_FORMS": 0, "versions-INITIAL_FORMS": 0}
    return browser.post(address, {**inline, **fields}, follow=True)


# --- The list ---


def test_the_list_tells_owner_state_and_type(
    curator: Client, saved: UserModelConfig, bob: User, staff: User
) -> None:
    curation.share(save(bob, "studio/other"), by=staff)
    curation.verify(saved, by=staff)
    text = curator.get(LIST).content.decode()
    for said in ("studio/tiny", "studio/other", "alice", "bob", "decoder-only"):
        assert said in text
    parameters = saved.current.parameter_count
    assert f"{parameters:,}" in text
    assert text.count('alt="True"') == 2


def test_the_list_takes_as_many_queries_for_many(
    curator: Client,
    saved: UserModelConfig,
    django_assert_max_num_queries: DjangoAssertNumQueries,
    alice: User,
) -> None:
    for number in range(8):
        save(alice, f"studio/model-{number}")
    with django_assert_max_num_queries(12):
        curator.get(LIST)


@pytest.mark.parametrize(
    ("query", "model_ids"),
    [
        ("state=shared", {"a/shared"}),
        ("state=verified", {"a/verified"}),
        ("state=retired", {"a/retired"}),
        ("state=private", {"a/verified", "a/plain"}),
        ("type=decoder-only", {"a/shared", "a/verified", "a/retired", "a/plain"}),
        ("type=hybrid", set()),
        ("q=plain", {"a/plain"}),
        ("q=alice", {"a/shared", "a/verified", "a/retired", "a/plain"}),
    ],
)
def test_the_list_is_filtered(
    query: str, model_ids: set[str], curator: Client, alice: User, staff: User
) -> None:
    configs = {name: save(alice, f"a/{name}") for name in ("shared", "verified", "retired", "plain")}
    curation.share(configs["shared"], by=staff)
    curation.verify(configs["verified"], by=staff)
    curation.retire(configs["retired"], by=staff)
    answer = curator.get(f"{LIST}?{query}")
    assert {config.model_id for config in answer.context["cl"].result_list} == model_ids


# --- Actions ---


def test_the_actions_curate_and_are_noted(curator: Client, saved: UserModelConfig, staff: User) -> None:
    assert "Verified 1 config." in act(curator, "verify", saved)
    assert "Shared 1 config." in act(curator, "share", saved)
    saved.refresh_from_db()
    assert (saved.is_shared, saved.is_verified, saved.verified_by) == (True, True, staff)
    assert "Took verification back from 1 config." in act(curator, "unverify", saved)
    assert "Stopped sharing 1 config." in act(curator, "unshare", saved)
    assert "Retired 1 config." in act(curator, "retire", saved)
    saved.refresh_from_db()
    assert (saved.is_shared, saved.is_verified, saved.is_retired) == (False, False, True)
    assert "Restore it before you share it." in act(curator, "share", saved)
    assert "Restored 1 config." in act(curator, "restore", saved)
    notes = [entry.change_message for entry in LogEntry.objects.order_by("action_time")]
    assert notes[:2] == ["Verified version 1.", "Shared version 1."]
    assert len(notes) == 6


def test_actions_take_several(curator: Client, saved: UserModelConfig, bob: User) -> None:
    other = save(bob, "studio/other")
    assert "Shared 2 configs." in act(curator, "share", saved, other)
    assert UserModelConfig.objects.shared().count() == 2


def test_there_is_no_deletion_in_bulk(curator: Client, saved: UserModelConfig) -> None:
    curator.post(LIST, {"action": "delete_selected", "_selected_action": [saved.pk], "post": "yes"})
    assert UserModelConfig.objects.exists()


def test_another_app_can_add_an_action(
    curator: Client, saved: UserModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_configs_admin, "_extra_actions", [])

    @django_admin.action(description="Play it")
    def play(modeladmin: Any, request: Any, queryset: Any) -> None:
        modeladmin.message_user(request, f"Played {queryset.get().model_id}.")

    register_config_action(play)
    assert "Play it" in curator.get(LIST).content.decode()
    assert "Played studio/tiny." in act(curator, "play", saved)


# --- Comparing with the hub ---


def test_a_config_is_compared_with_the_hub(curator: Client, fake: FakeHub, alice: User) -> None:
    config = save(alice, num_hidden_layers=4)
    text = act(curator, "compare_with_hub", config)
    assert fake.repositories["studio/tiny"].refs["main"][:7] in text
    assert "num_hidden_layers" in text
    assert page(config, "hub") in curator.get(page(config)).content.decode()
    save(alice)
    assert "They are equal." in curator.get(page(config, "hub")).content.decode()


def test_a_failure_of_the_hub_is_told(
    curator: Client, fake: FakeHub, saved: UserModelConfig, alice: User
) -> None:
    fake.gate("studio/tiny")
    assert "studio/tiny is gated" in act(curator, "compare_with_hub", saved)
    assert "Choose one config" in act(curator, "compare_with_hub", saved, save(alice, "a/b"))
    assert curator.get(f"{LIST}999/hub/").status_code == 302


# --- Editing ---


def test_an_edit_makes_a_version(curator: Client, saved: UserModelConfig, alice: User, staff: User) -> None:
    shown = curator.get(page(saved)).context["adminform"].form.initial["content"]
    assert json.loads(shown) == TINY
    answer = edit(curator, page(saved), content=json.dumps({**TINY, "num_hidden_layers": 4}, indent=4))
    assert answer.redirect_chain
    versions = list(saved.versions.order_by("number"))
    assert [version.as_config()["num_hidden_layers"] for version in versions] == [2, 4]
    assert versions[1].submitted_by == staff
    assert find_config(user=alice, model_id="studio/tiny").version == 2
    text = curator.get(page(saved)).content.decode()
    assert "num_hidden_layers: 2 → 4" in text
    assert "the first" in text


def test_an_edit_of_a_shared_one_says_what_others_still_see(
    curator: Client, saved: UserModelConfig, bob: User
) -> None:
    act(curator, "share", saved)
    answer = edit(curator, page(saved), content=json.dumps({**TINY, "num_hidden_layers": 4}))
    assert "Everybody still sees version 1" in answer.content.decode()
    assert find_config(user=bob, model_id="studio/tiny").version == 1


def test_the_same_text_changes_nothing(curator: Client, saved: UserModelConfig) -> None:
    answer = edit(curator, page(saved), content=text_of(TINY).decode())
    assert "nothing was changed" in answer.content.decode()
    edit(curator, page(saved), content="")
    assert ConfigVersion.objects.count() == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "too early"),
        ("hello", "not"),
        (json.dumps({**TINY, "num_attention_heads": 0}), "num_attention_heads"),
        (json.dumps({"model_type": "llama"}), "needs"),
        (json.dumps({**TINY, "model_type": "unheard-of"}), "not one that this calculator knows"),
    ],
)
def test_a_bad_text_stays_in_the_field_with_the_reasons(
    content: str, said: str, curator: Client, saved: UserModelConfig
) -> None:
    answer = edit(curator, page(saved), content=content)
    form = answer.context["adminform"].form
    assert said in " ".join(form.errors["content"])
    assert form["content"].value() == content
    assert ConfigVersion.objects.count() == 1


def test_a_file_is_taken_instead_of_the_text(curator: Client, saved: UserModelConfig) -> None:
    file = SimpleUploadedFile("config.json", text_of({**TINY, "num_hidden_layers": 5}))
    edit(curator, page(saved), content=text_of(TINY).decode(), file=file)
    assert saved.current.as_config()["num_hidden_layers"] == 5
    bad = SimpleUploadedFile("config.json", b"GGUF\x00")
    answer = edit(curator, page(saved), file=bad)
    assert "GGUF" in str(answer.context["adminform"].form.errors["file"])
    large = SimpleUploadedFile("config.json", b" " * (4 * 1024 * 1024 + 1))
    answer = edit(curator, page(saved), file=large)
    assert "are read" in str(answer.context["adminform"].form.errors["file"])


def test_a_new_one_is_the_admins_own(curator: Client, staff: User) -> None:
    address = "https://huggingface.co/studio/new/tree/main"
    answer = curator.post(f"{LIST}add/", {"model_id": address, "content": text_of(TINY).decode()})
    assert answer.status_code == 302
    config = UserModelConfig.objects.get()
    assert (config.model_id, config.owner, config.is_shared) == ("studio/new", staff, False)
    refused = curator.post(f"{LIST}add/", {"model_id": "../etc", "content": "{}"})
    assert "not the id of a model" in str(refused.context["adminform"].form.errors["model_id"])
    refused = curator.post(f"{LIST}add/", {"model_id": "studio/other", "content": ""})
    assert refused.context["adminform"].form.errors["content"]
    assert UserModelConfig.objects.count() == 1


def test_a_long_text_is_not_put_into_the_field(curator: Client, alice: User) -> None:
    config = save(alice, note="x" * 600_000)
    answer = curator.get(page(config))
    assert "content" not in answer.context["adminform"].form.initial
    assert "Too long to be edited here" in answer.content.decode()
    assert len(answer.content) < 500_000


def test_a_text_is_shown_and_not_run(curator: Client, alice: User) -> None:
    config = save(alice, note="</textarea><script>alert(1)</script>")
    save(alice, note="<script>alert(2)</script>")
    for address in (page(config), page(config, "history"), f"{VERSIONS}{config.current.pk}/change/"):
        assert "<script>alert" not in curator.get(address).content.decode()


# --- Versions and deletion ---


def test_versions_are_to_read(curator: Client, saved: UserModelConfig) -> None:
    version = saved.current
    assert curator.get(VERSIONS).status_code == 200
    address = f"{VERSIONS}{version.pk}/change/"
    assert "num_key_value_heads" in curator.get(address).content.decode()
    assert curator.post(address, {"content": "{}"}).status_code == 403
    assert curator.post(f"{VERSIONS}{version.pk}/delete/", {"post": "yes"}).status_code == 403
    assert curator.get(f"{VERSIONS}add/").status_code == 403
    curator.post(VERSIONS, {"action": "delete_selected", "_selected_action": [version.pk], "post": "yes"})
    assert ConfigVersion.objects.get() == version


def test_only_the_newest_versions_are_listed(
    curator: Client, saved: UserModelConfig, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions_admin, "SHOWN_VERSIONS", 2)
    for layers in (3, 4):
        save(alice, num_hidden_layers=layers)
    text = curator.get(page(saved)).content.decode()
    assert "num_hidden_layers: 3 → 4" in text
    assert "the first" not in text


def test_only_what_is_retired_is_deleted(curator: Client, saved: UserModelConfig, staff: User) -> None:
    assert curator.post(page(saved, "delete"), {"post": "yes"}).status_code == 403
    curation.verify(saved, by=staff)
    curation.retire(saved, by=staff)
    assert curator.post(page(saved, "delete"), {"post": "yes"}).status_code == 302
    assert not UserModelConfig.objects.exists()
    assert not ConfigVersion.objects.exists()


# --- Who may ---


@pytest.fixture
def onlooker(client: Client, bob: User, shared_mode: None) -> Client:
    """Staff who may look and no more."""
    bob.is_staff = True
    bob.save(update_fields=["is_staff"])
    bob.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(bob)
    return client


def test_who_may_look_changes_nothing(onlooker: Client, saved: UserModelConfig) -> None:
    assert onlooker.get(LIST).status_code == 200
    text = onlooker.get(page(saved)).content.decode()
    assert "studio/tiny" in text
    assert "<textarea" not in text
    for action in ("verify", "share", "retire"):
        act(onlooker, action, saved)
    assert edit(onlooker, page(saved), content="{}").status_code == 403
    saved.refresh_from_db()
    assert (saved.is_shared, saved.is_verified, saved.is_retired) == (False, False, False)


def test_staff_without_any_right_sees_nothing(onlooker: Client, bob: User, saved: UserModelConfig) -> None:
    bob.user_permissions.clear()
    for address in (LIST, page(saved), page(saved, "hub"), VERSIONS, HUB_LIST):
        assert onlooker.get(address).status_code == 403


def test_who_is_not_staff_sees_nothing(
    client: Client, mallory: User, saved: UserModelConfig, shared_mode: None
) -> None:
    client.force_login(mallory)
    for address in (LIST, page(saved), page(saved, "hub"), VERSIONS, HUB_LIST):
        assert client.get(address).status_code == 302


# --- The hub's answers ---


def test_an_answer_of_the_hub_is_read_and_forgotten(curator: Client, fake: FakeHub) -> None:
    find_config(user=None, model_id="studio/tiny")
    row = HubConfig.objects.get()
    assert row.commit[:7] in curator.get(HUB_LIST).content.decode()
    address = f"{HUB_LIST}{row.pk}/change/"
    assert "num_key_value_heads" in curator.get(address).content.decode()
    assert curator.post(address, {"content": "{}"}).status_code == 403
    assert curator.get(f"{HUB_LIST}add/").status_code == 403
    fake.forget_requests()
    chosen = {"action": "forget", "_selected_action": [row.pk]}
    assert "Forgot 1 config" in curator.post(HUB_LIST, chosen, follow=True).content.decode()
    assert not HubConfig.objects.exists()
    find_config(user=None, model_id="studio/tiny")
    assert len(fake.requests) == 1


def test_who_may_look_forgets_nothing(onlooker: Client, fake: FakeHub) -> None:
    find_config(user=None, model_id="studio/tiny")
    chosen = {"action": "forget", "_selected_action": [HubConfig.objects.get().pk]}
    onlooker.post(HUB_LIST, chosen, follow=True)
    assert HubConfig.objects.exists()

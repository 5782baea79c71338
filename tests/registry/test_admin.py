"""The admin of models: what it refuses, and how one becomes active."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from registry.models import ModelConfig
from registry.services import get_active_model, open_switch

LIST = "/admin/registry/modelconfig/"


@pytest.fixture
def admin(client: Client, staff: User, shared_mode: None) -> Client:
    """A browser in which staff is logged in."""
    client.force_login(staff)
    return client


def page(model_id: str, action: str = "change") -> str:
    """Address of one model's page."""
    return f"{LIST}{model_id.replace('_', '_5F')}/{action}/"


def form_of(model_id: str, **changes: Any) -> dict[str, Any]:
    """The change form as the browser would send it, with some fields changed."""
    model = ModelConfig.objects.get(pk=model_id)
    names = [
        "display_name", "description", "position", "hf_model_id", "revision", "local_path", "max_duration_seconds",
        "max_extended_seconds", "recommended_duration_seconds", "vram_requirement_gb", "sample_rate", "channels", "codebooks",
        "tokens_per_second", "parameters", "licence", "licence_url", "unplayable_reason",
    ]  # fmt: skip
    values = {name: "" if getattr(model, name) is None else getattr(model, name) for name in names}
    if model.is_playable:
        values["is_playable"] = "on"
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def test_an_edit_is_stored(admin: Client) -> None:
    changes = {"max_duration_seconds": 45, "max_extended_seconds": ""}
    answer = admin.post(page("musicgen-small"), form_of("musicgen-small", **changes))
    assert answer.status_code == 302
    model = ModelConfig.objects.get(pk="musicgen-small")
    assert (model.max_duration_seconds, model.max_extended_seconds) == (45, None)


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        (
            {"recommended_duration_seconds": 31},
            "recommended_duration_seconds",
            "The recommended duration cannot be above the longest duration of 30 s.",
        ),
        ({"max_duration_seconds": 0}, "max_duration_seconds", "greater than or equal to 1"),
        ({"max_duration_seconds": 4000}, "max_duration_seconds", "less than or equal to 3600"),
        ({"max_extended_seconds": 3601}, "max_extended_seconds", "less than or equal to 3600"),
        ({"max_extended_seconds": -1}, "max_extended_seconds", "greater than or equal to 0"),
        ({"max_duration_seconds": "nan"}, "max_duration_seconds", "Enter a number."),
        ({"max_duration_seconds": ""}, "max_duration_seconds", "This field is required."),
        ({"vram_requirement_gb": 0}, "vram_requirement_gb", "greater than or equal to 0.1"),
        ({"sample_rate": 100}, "sample_rate", "greater than or equal to 8000"),
        ({"channels": 3}, "channels", "less than or equal to 2"),
        ({"hf_model_id": "no-owner"}, "hf_model_id", "Write the id as owner/name"),
        ({"hf_model_id": "facebook/musicgen-large"}, "hf_model_id", "already exists"),
        ({"revision": "../main"}, "revision", "Write a branch, a tag or a commit hash."),
        ({"is_playable": None}, "unplayable_reason", "Say in one sentence why it cannot be played."),
    ],
)
def test_a_bad_value_is_refused_at_its_field(
    changes: dict[str, Any], field: str, sentence: str, admin: Client
) -> None:
    before = ModelConfig.objects.filter(pk="musicgen-small").values().get()
    answer = admin.post(page("musicgen-small"), form_of("musicgen-small", **changes))
    assert answer.status_code == 200
    assert sentence in str(answer.context["adminform"].form.errors[field])
    assert ModelConfig.objects.filter(pk="musicgen-small").values().get() == before


def test_the_active_model_stays_playable(admin: Client) -> None:
    changes = {"is_playable": None, "unplayable_reason": "Broken."}
    answer = admin.post(page("musicgen-demo"), form_of("musicgen-demo", **changes))
    assert answer.status_code == 200
    assert "The active model must be playable" in answer.content.decode()
    assert get_active_model().pk == "musicgen-demo"


def test_a_new_model_needs_a_proper_id(admin: Client) -> None:
    values = form_of("musicgen-small", hf_model_id="us/ours")
    refused = admin.post(f"{LIST}add/", {**values, "id": "Our Model"})
    assert "Use lower-case letters" in str(refused.context["adminform"].form.errors["id"])
    assert admin.post(f"{LIST}add/", {**values, "id": "our-model"}).status_code == 302
    assert ModelConfig.objects.get(pk="our-model").hf_model_id == "us/ours"


def test_make_active_asks_for_a_switch(admin: Client) -> None:
    action = {"action": "make_active", "_selected_action": ["musicgen-small"]}
    answer = admin.post(LIST, action, follow=True)
    assert "Switching to MusicGen Small." in answer.content.decode()
    # The engine makes it active, once it is loaded and proven.
    assert get_active_model().pk == "musicgen-demo"
    switch = open_switch()
    assert switch is not None
    assert (switch.model_id, switch.stage) == ("musicgen-small", "queued")


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (["musicgen-small", "musicgen-large"], "Choose one model to make active."),
        (["musicgen-stereo-large"], "MusicGen Stereo Large cannot be played yet."),
    ],
)
def test_make_active_refuses(chosen: list[str], sentence: str, admin: Client, locked: str) -> None:
    answer = admin.post(LIST, {"action": "make_active", "_selected_action": chosen}, follow=True)
    assert sentence in answer.content.decode()
    assert get_active_model().pk == "musicgen-demo"


def test_the_active_model_is_not_deleted(admin: Client) -> None:
    assert admin.post(page("musicgen-demo", "delete"), {"post": "yes"}).status_code == 403
    assert get_active_model().pk == "musicgen-demo"
    assert admin.post(page("musicgen-small", "delete"), {"post": "yes"}).status_code == 302
    assert not ModelConfig.objects.filter(pk="musicgen-small").exists()


def test_there_is_no_deletion_in_bulk(admin: Client) -> None:
    for chosen in ("musicgen-demo", "musicgen-small"):
        action = {"action": "delete_selected", "_selected_action": [chosen], "post": "yes"}
        admin.post(LIST, action)
        assert ModelConfig.objects.filter(pk=chosen).exists()


def test_only_those_with_the_right_may_make_active(client: Client, bob: User, shared_mode: None) -> None:
    bob.is_staff = True
    bob.save(update_fields=["is_staff"])
    bob.user_permissions.add(Permission.objects.get(codename="view_modelconfig"))
    client.force_login(bob)
    assert client.get(LIST).status_code == 200
    client.post(LIST, {"action": "make_active", "_selected_action": ["musicgen-small"]})
    assert get_active_model().pk == "musicgen-demo"
    assert client.post(page("musicgen-small"), form_of("musicgen-small")).status_code == 403


def test_which_folder_is_read_is_for_superusers(client: Client, bob: User, shared_mode: None) -> None:
    bob.is_staff = True
    bob.save(update_fields=["is_staff"])
    bob.user_permissions.set(Permission.objects.filter(content_type__app_label="registry"))
    client.force_login(bob)
    sent = form_of("musicgen-small", local_path="/etc", max_duration_seconds=45)
    assert client.post(page("musicgen-small"), sent).status_code == 302
    model = ModelConfig.objects.get(pk="musicgen-small")
    assert (model.max_duration_seconds, model.local_path) == (45, "")

"""A MusicGen config becomes a model in one step, from the memory page and from the admin."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from gated_configs.models import UserModelConfig
from gated_configs.services.builtin import builtin_config
from gated_configs.services.submission import submit_config
from registry.described import described
from registry.fit import longest_take_estimate
from registry.models import ModelConfig
from registry.services import Addition, NotAddable, add_config, add_model, architecture_of
from tests.memory.conftest import sample_config

pytestmark = pytest.mark.django_db

ADD = "/settings/models/add/"
SONGSTARTER = "nateraw/musicgen-songstarter-v0.2"


def config_of(name: str = "musicgen-small", **decoder: Any) -> dict[str, Any]:
    config = copy.deepcopy(builtin_config(f"facebook/{name}"))
    assert config is not None
    config["decoder"].update(decoder)
    return config


@pytest.fixture
def added() -> Addition:
    return add_config(model_id=SONGSTARTER, config=config_of("musicgen-stereo-small"))


def test_limits_sound_and_memory_are_filled_in(added: Addition) -> None:
    assert added.is_new
    model = ModelConfig.objects.get(hf_model_id=SONGSTARTER)
    assert model.pk == "musicgen-songstarter-v0.2"
    assert model.display_name == "MusicGen Songstarter v0.2"
    assert (model.max_duration_seconds, model.recommended_duration_seconds) == (30, 10)
    assert (model.tokens_per_second, model.sample_rate, model.channels, model.codebooks) == (50, 32000, 2, 8)
    assert model.parameters == 603_665_986
    published = architecture_of(ModelConfig.objects.get(pk="musicgen-stereo-small"))
    built = architecture_of(model)
    names = ("family", "hidden_size", "layers", "ffn_dim", "heads", "text_width")
    assert [getattr(built, name) for name in names] == [getattr(published, name) for name in names]
    computed = longest_take_estimate(model, "cuda")
    assert computed is not None
    assert 0 <= model.vram_requirement_gb - computed.total_bytes / 1e9 < 0.1
    assert model.licence == ""
    assert model.licence_url.endswith(SONGSTARTER)
    assert model.is_playable
    assert not model.is_active
    assert described(model.architecture) is not None


def test_what_is_there_already_is_led_to(added: Addition) -> None:
    again = add_config(model_id=SONGSTARTER.upper().replace("NATERAW", "nateraw"), config=config_of())
    assert not again.is_new
    assert again.model == added.model
    assert "already" in again.sentence
    assert ModelConfig.objects.get(pk=added.model.pk).channels == 2, "nothing was changed"


def test_a_name_that_is_taken_gets_its_owner_and_then_a_number() -> None:
    ids = [
        add_config(model_id=model_id, config=config_of()).model.pk
        for model_id in ("a/musicgen-small", "a/MusicGen_Small", "A-/musicgen-small", "b/x.-", "c/x")
    ]
    assert ids == ["a-musicgen-small", "musicgen_small", "a--musicgen-small", "x", "c-x"]
    long = [add_config(model_id=f"{owner}/{'m' * 90}", config=config_of()).model.pk for owner in "de"]
    assert len(set(long)) == 2
    assert all(len(each) <= 80 for each in long)


@pytest.mark.parametrize("name", ["musicgen-melody", "musicgen-stereo-melody-large"])
def test_a_melody_model_can_be_played(name: str) -> None:
    model = add_config(model_id="someone/tune", config=config_of(name)).model
    assert (model.family, model.is_playable, model.unplayable_reason) == ("musicgen_melody", True, "")
    assert model.max_duration_seconds == 30


def test_a_short_reach_of_positions_is_the_limit() -> None:
    config = config_of(max_position_embeddings=403)
    assert add_config(model_id="someone/short", config=config).model.max_duration_seconds == 7
    # The pitches of a melody stand before the take: 235 of them.
    melody = config_of("musicgen-melody", max_position_embeddings=403 + 235)
    assert add_config(model_id="someone/melody", config=melody).model.max_duration_seconds == 7


@pytest.mark.parametrize(
    ("model_id", "config", "words"),
    [
        ("google/gemma-2-2b", {"model_type": "gemma2"}, "of the family gemma2. Only MusicGen"),
        ("someone/none", {}, "of an unknown family. Only MusicGen"),
        ("someone/odd", {"model_type": ["musicgen"]}, "Only MusicGen"),
        ("musicgen", {"model_type": "musicgen"}, "owner/musicgen"),
    ],
)
def test_what_makes_no_music_is_refused(model_id: str, config: dict[str, Any], words: str) -> None:
    before = ModelConfig.objects.count()
    with pytest.raises(NotAddable, match=words):
        add_config(model_id=model_id, config=config)
    assert ModelConfig.objects.count() == before


def test_it_is_the_config_that_this_person_gets(staff: User, alice: User) -> None:
    submit_config(user=alice, model_id="someone/ours", config=config_of(num_hidden_layers=2), address="")
    submit_config(user=staff, model_id="someone/ours", config=config_of(num_hidden_layers=3), address="")
    assert add_model(user=staff, model_id=" https://huggingface.co/someone/ours ").model.layers == 3


# The page's form.


@pytest.fixture
def browser(client: Client, staff: User, shared_mode: None) -> Client:
    submit_config(user=staff, model_id=SONGSTARTER, config=config_of(), address="")
    client.force_login(staff)
    return client


def test_the_form_leads_to_the_new_model(browser: Client) -> None:
    answer = browser.post(ADD, {"model_id": SONGSTARTER})
    assert (answer.status_code, answer["Location"]) == (302, "/settings/#model-musicgen-songstarter-v0.2")
    page = browser.get("/settings/").content.decode()
    assert "Added MusicGen Songstarter v0.2" in page
    assert 'id="model-musicgen-songstarter-v0.2"' in page
    assert "unknown: check the model" in page
    again = browser.post(ADD, {"model_id": SONGSTARTER}, headers={"HX-Request": "true"})
    assert again.status_code == 204
    assert json.loads(again["HX-Location"])["path"] == "/settings/#model-musicgen-songstarter-v0.2"


def test_a_refusal_is_told_where_it_was_asked(browser: Client, staff: User) -> None:
    submit_config(user=staff, model_id="google/t5-small", config=sample_config("t5-small"), address="")
    for model_id, words in (("google/t5-small", "Only MusicGen"), ("not a model!", "Write it as owner/name")):
        answer = browser.post(ADD, {"model_id": model_id}, headers={"HX-Request": "true"})
        assert answer.status_code == 400
        assert words in answer.content.decode()
        assert answer["HX-Reswap"] == "none"
        assert browser.post(ADD, {"model_id": model_id})["Location"] == "/settings/"
        assert words in browser.get("/settings/").content.decode()


def test_only_staff_add_models(client: Client, alice: User, shared_mode: None) -> None:
    client.force_login(alice)
    assert client.post(ADD, {"model_id": SONGSTARTER}).status_code == 403
    assert client.get(ADD).status_code == 405


# The admin's action.


def test_the_admin_adds_a_saved_config(browser: Client, staff: User) -> None:
    saved = UserModelConfig.objects.get(model_id=SONGSTARTER)
    act = {"action": "add_to_models", "_selected_action": [saved.pk]}
    permissions = Permission.objects.filter(codename__in=("view_usermodelconfig", "change_usermodelconfig"))
    staff.is_superuser = False
    staff.save()
    staff.user_permissions.set(permissions)
    page = browser.post("/admin/gated_configs/usermodelconfig/", act, follow=True).content.decode()
    assert "You may not add models" in page
    staff.user_permissions.add(Permission.objects.get(codename="add_modelconfig"))
    page = browser.post("/admin/gated_configs/usermodelconfig/", act, follow=True).content.decode()
    assert "Added MusicGen Songstarter v0.2" in page
    assert ModelConfig.objects.filter(hf_model_id=SONGSTARTER).exists()

"""The adapters pages and the adapters of the studio's form: what they show, what they refuse, and to whom."""

import html as html_module
import json
import re
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils.html import strip_tags

from adapters.events import AdaptersChanged
from adapters.models import Adapter, AdapterProof, ProofStatus
from gated_configs.wording import THIN_SPACE
from generation.adapter_pages.content import proof_card
from generation.adapter_pages.trial_card import trial_card
from generation.models import AdapterTrial, Job, JobAdapter, JobStatus, Take
from generation.services import jobs, trials
from generation.services.job_adapters import AdapterWish
from generation.services.submission import GenerationRequest, submit_job
from registry.events import SwitchChanged, send
from registry.models import ModelConfig
from registry.services import activate_model
from tests.adapters.zips import WEIGHTS, adapter_files, zipped
from tests.generation.adapting import bring_in_zip
from tests.generation.answers import assert_says_when_it_was_read
from tests.generation.music import HOST, recipe_for, save
from tests.generation.open_pages import Page, rows
from tests.media_files import weights_file

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]

HTMX = {"HX-Request": "true"}


def text_of(answer: Any) -> str:
    """The HTML with plain spaces and characters."""
    text: str = html_module.unescape(answer.content.decode())
    return text.replace(THIN_SPACE, " ")


def words_of(html: str) -> str:
    """Only what people read of it."""
    return " ".join(strip_tags(html.replace("<", " <")).split())


@pytest.fixture
def models(db: None) -> dict[str, ModelConfig]:
    """Two models of different width; the narrow one, which the adapters of these tests fit, is active."""
    made = {
        name: ModelConfig.objects.create(
            id=name,
            display_name=f"Model {name.title()}",
            hf_model_id=f"studio/{name}",
            max_duration_seconds=30,
            recommended_duration_seconds=4,
            vram_requirement_gb=1,
            family="musicgen",
            hidden_size=width,
            layers=2,
            ffn_dim=4 * width,
            heads=2,
            codebooks=4,
            channels=1,
            text_width=16,
        )
        for name, width in (("narrow", 16), ("wide", 32))
    }
    activate_model("narrow")
    return made


def zip_bytes(*, seed: int = 1, base: str = "studio/narrow", **files: bytes) -> bytes:
    """A zip of an adapter for the narrow model."""
    return zipped({**adapter_files(seed=seed, base_model_name_or_path=base), **files})


def bring_in(tmp_path: Path, name: str, *, seed: int = 1, **said: Any) -> Adapter:
    """Import one through the product's own service."""
    return bring_in_zip(zip_bytes(seed=seed), tmp_path, name, **said)


@pytest.fixture
def jazz(models: dict[str, ModelConfig], tmp_path: Path) -> Adapter:
    """An adapter that works with the active model."""
    return bring_in(tmp_path, "Jazz", trigger_words="brushed drums", default_strength=0.8)


@pytest.fixture
def brass(models: dict[str, ModelConfig], tmp_path: Path) -> Adapter:
    """One that needs the wide model."""
    adapter = bring_in(tmp_path, "Brass", seed=2)
    Adapter.objects.filter(pk=adapter.pk).update(base_model="wide", hidden_size=32, ffn_dim=None)
    adapter.refresh_from_db()
    return adapter


def upload(content: bytes, name: str = "jazz.zip") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content, "application/zip")


# The list.


def test_an_empty_list_has_one_action(client: Client) -> None:
    text = text_of(client.get("/adapters/"))
    assert "None is here yet" in text
    assert text.count("/adapters/import/") == 1
    assert "Search adapters" not in text


def test_the_list_says_verdict_reason_and_proof(client: Client, jazz: Adapter, brass: Adapter) -> None:
    text = text_of(client.get("/adapters/"))
    by_row = {
        name: words_of(row)
        for name, row in re.findall(
            r'<tr id="adapter-\d+".*?adapter-link[^>]*>(.*?)<(.*?)</tr>', text, re.DOTALL
        )
    }
    assert "exact" in by_row["Jazz v1.0"]
    assert "Requires Model Wide" in by_row["Brass v1.0"]
    assert "incompatible" in by_row["Brass v1.0"]
    assert "not yet" in by_row["Jazz v1.0"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["Brass v1.0", "Jazz v1.0"]),
        ("?show=usable", ["Jazz v1.0"]),
        ("?show=locked", ["Brass v1.0"]),
        ("?q=brushed", ["Jazz v1.0"]),
        ("?q=nothing+like+it", []),
        ("?q=%00&show=nonsense&page=x", ["Brass v1.0", "Jazz v1.0"]),
    ],
)
def test_the_list_is_searched_and_filtered(
    query: str, names: list[str], client: Client, jazz: Adapter, brass: Adapter
) -> None:
    answer = client.get(f"/adapters/{query}", headers={**HTMX, "HX-Target": "adapters-results"})
    assert [row.label for row in answer.context["rows"]] == names
    assert "<html" not in text_of(answer)


def test_other_installed_models_are_told_of(client: Client, jazz: Adapter, tmp_path: Path) -> None:
    ModelConfig.objects.filter(pk="wide").update(local_path=str(tmp_path))
    row = client.get("/adapters/").context["rows"][0]
    wide = next(other for other in row.others if other.model_name == "Model Wide")
    assert (wide.is_usable, wide.title) == (False, "Requires Model Narrow")


# Import.


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["plain", "htmx"])
def test_a_zip_is_imported(
    headers: dict[str, str], client: Client, models: dict[str, ModelConfig], owner: User
) -> None:
    sent = {"source": "zip", "zip": upload(zip_bytes()), "name": "My Jazz", "default_strength": "0,5"}
    answer = client.post("/adapters/import/", sent, headers=headers)
    adapter = Adapter.objects.get()
    assert (str(adapter), adapter.default_strength, adapter.imported_by) == ("My Jazz v1.0", 0.5, owner)
    assert weights_file(adapter).is_file()
    where = f"/adapters/{adapter.pk}/"
    if headers:
        assert json.loads(answer["HX-Location"])["path"] == where
    else:
        assert (answer.status_code, answer["Location"]) == (302, where)
    assert "Imported My Jazz v1.0." in text_of(client.get(where))


def test_the_same_adapter_twice_is_said_and_kept_once(client: Client, jazz: Adapter) -> None:
    client.post("/adapters/import/", {"source": "zip", "zip": upload(zip_bytes())})
    assert Adapter.objects.count() == 1
    assert "This adapter was here already, as Jazz v1.0." in text_of(client.get(f"/adapters/{jazz.pk}/"))


def test_a_refused_import_keeps_the_form(client: Client, models: dict[str, ModelConfig], home: Path) -> None:
    files = adapter_files(base_model_name_or_path="studio/narrow")
    files.pop(WEIGHTS)
    bad = upload(zipped({**files, "adapter_model.bin": b"\x80\x02pickle"}))
    sent = {
        "source": "zip",
        "zip": bad,
        "name": "Kept name",
        "description": "Kept words",
        "base_model": "wide",
    }
    answer = client.post("/adapters/import/", sent, headers=HTMX)
    text = text_of(answer)
    assert answer.status_code == 400
    assert "pickle" in words_of(re.findall(r'id="import-error".*?</p>', text, re.DOTALL)[0]).lower()
    assert 'value="Kept name"' in text
    assert "Kept words" in text
    assert '<option value="wide" selected>' in text
    assert 'id="import-more" open' in text
    assert "<html" not in text
    assert not Adapter.objects.exists()
    assert not list((home / "adapters").glob("*"))


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"source": "zip"}, "Choose a zip file first."),
        ({"source": "hub", "hf_model_id": " "}, "Write the repository as owner/name."),
        ({"source": "folder", "folder": ""}, "Write the full path of the folder."),
        ({"source": "folder", "folder": "here"}, "Write the full path of the folder."),
        ({"source": "folder", "folder": "~nobody-of-this-name/x"}, "Write the full path of the folder."),
    ],
)
def test_a_form_that_names_nothing_is_told_so(sent: dict[str, str], sentence: str, client: Client) -> None:
    answer = client.post("/adapters/import/", sent)
    assert answer.status_code == 400
    assert sentence in text_of(answer)


def test_a_wrong_strength_is_said_at_its_field(client: Client, models: dict[str, ModelConfig]) -> None:
    sent = {"source": "zip", "zip": upload(zip_bytes()), "default_strength": "9"}
    text = text_of(client.post("/adapters/import/", sent, headers=HTMX))
    assert re.search(r'id="id_default_strength_error">The strength goes from 0 to 2', text)
    assert not Adapter.objects.exists()


def test_a_folder_of_the_server_is_for_local_mode_only(
    shared_mode: None, client: Client, staff: User, tmp_path: Path
) -> None:
    for name, content in adapter_files().items():
        (tmp_path / name).write_bytes(content)
    client.force_login(staff)
    assert 'value="folder"' not in text_of(client.get("/adapters/import/"))
    answer = client.post("/adapters/import/", {"source": "folder", "folder": str(tmp_path)})
    assert answer.status_code == 400
    assert not Adapter.objects.exists()


def test_only_staff_curate(shared_mode: None, client: Client, alice: User, jazz: Adapter) -> None:
    paths = ["/adapters/import/", f"/adapters/{jazz.pk}/edit/", f"/adapters/{jazz.pk}/delete/"]
    for path in [*paths, "/adapters/", f"/adapters/{jazz.pk}/"]:
        assert client.get(path)["Location"].startswith("/login/")
    client.force_login(alice)
    for path in paths:
        assert client.get(path).status_code == 403
        assert client.post(path, {"name": "Mine now", "source": "hub"}).status_code == 403
    jazz.refresh_from_db()
    assert jazz.name == "Jazz"
    for path in ("/adapters/", f"/adapters/{jazz.pk}/"):
        text = text_of(client.get(path))
        assert "/import/" not in text
        assert "/edit/" not in text
        assert "/delete/" not in text


# One adapter.


def test_its_page_tells_facts_and_proof_in_words(client: Client, jazz: Adapter) -> None:
    AdapterProof.objects.create(
        adapter=jazz,
        model_id="narrow",
        status=ProofStatus.PASSED,
        tensors_expected=16,
        tensors_matched=16,
        logit_change=0.4213,
        logit_change_at_zero=0.0,
        logit_change_after=0.0,
        is_restored=True,
        device="cpu",
        dtype="float32",
        seconds=1.23,
    )
    words = words_of(text_of(client.get(f"/adapters/{jazz.pk}/")))
    assert "16 of 16 tensors matched." in words
    assert "It changes the output: 0.42 mean logit change at strength 1, none at 0." in words
    assert "Afterwards the model was exactly what it had been." in words
    assert "Measured on a fixed input in 1.2 s (CPU · float32)." in words
    assert "Rank 4 Alpha 8 Variants plain LoRA Made for Model Narrow" in words


def test_a_failed_proof_locks_it_and_says_why(client: Client, jazz: Adapter) -> None:
    proof = AdapterProof.objects.create(
        adapter=jazz,
        model_id="narrow",
        status=ProofStatus.FAILED,
        error_code="ADAPTER_NO_EFFECT",
        error_message="It changes nothing.",
    )
    assert proof_card(proof).sentence == "It changes nothing."
    page = client.get(f"/adapters/{jazz.pk}/").context["page"]
    assert (page.verdict, page.is_usable) == ("not_proven", False)
    text = text_of(client.get("/"))
    row = re.findall(rf'id="adapter-{jazz.pk}-row".*?</label>', text, re.DOTALL)[0]
    assert "data-locked" in row
    assert "disabled" in row
    assert "It changes nothing." in row
    for show, names in (("usable", []), ("locked", ["Jazz v1.0"])):
        listed = client.get(f"/adapters/?show={show}").context["rows"]
        assert [row.label for row in listed] == names


def test_a_base_that_was_chosen_wrongly_can_be_changed_for_any_that_the_shapes_allow(
    client: Client, jazz: Adapter
) -> None:
    twin = ModelConfig.objects.get(pk="narrow")
    twin.pk, twin.hf_model_id, twin.display_name, twin.is_active = "stereo", "studio/stereo", "Stereo", False
    twin.channels = 2
    twin.save(force_insert=True)
    Adapter.objects.filter(pk=jazz.pk).update(channels=None)
    jazz.refresh_from_db()
    assert not jazz.judge(twin).is_usable
    offered = [model.pk for model in client.get(f"/adapters/{jazz.pk}/edit/").context["models"]]
    assert "stereo" in offered
    assert "wide" not in offered


def test_an_adapter_that_is_not_there(client: Client) -> None:
    for path in ("/adapters/99/", "/adapters/99/edit/", "/adapters/99/delete/", "/adapters/99/try/1/"):
        assert client.get(path).status_code == 404


def test_edit_changes_what_people_say(client: Client, jazz: Adapter) -> None:
    sent = {
        "name": "Trio",
        "version": "2",
        "description": "Late",
        "trigger_words": "",
        "default_strength": "1.25",
        "base_model": "narrow",
    }
    answer = client.post(f"/adapters/{jazz.pk}/edit/", sent, headers=HTMX)
    assert json.loads(answer["HX-Location"])["path"] == f"/adapters/{jazz.pk}/"
    jazz.refresh_from_db()
    assert (str(jazz), jazz.description, jazz.trigger_words, jazz.default_strength) == (
        "Trio v2",
        "Late",
        "",
        1.25,
    )


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("name", "", "Give the adapter a name."),
        ("base_model", "wide", "Model Wide cannot be its base model"),
        ("version", "1.0", "There is another adapter called 'Brass v1.0'"),
        ("default_strength", "abc", "The strength goes from 0 to 2"),
        ("default_strength", "", "The strength goes from 0 to 2"),
    ],
)
def test_a_refused_edit_changes_nothing_and_keeps_the_form(
    field: str, value: str, sentence: str, client: Client, jazz: Adapter, brass: Adapter
) -> None:
    sent = {"name": "Brass", "version": "3", "default_strength": "1", "base_model": "", "description": "kept"}
    answer = client.post(f"/adapters/{jazz.pk}/edit/", {**sent, field: value}, headers=HTMX)
    text = text_of(answer)
    assert answer.status_code == 400
    assert re.search(rf'id="id_{field}_error">{re.escape(sentence)}', text)
    assert "kept" in text
    jazz.refresh_from_db()
    assert str(jazz) == "Jazz v1.0"


def test_delete_says_what_depends_on_it_and_then_does_it(client: Client, jazz: Adapter, owner: User) -> None:
    wanted = GenerationRequest(prompt="trio", seed=1, adapters=(AdapterWish(jazz.pk),))
    made, waiting = (submit_job(owner=owner, request=wanted) for _ in range(2))
    claimed = jobs.claim_next_job(HOST, only_job=made.pk)
    assert claimed is not None
    recipe = recipe_for(claimed, seed=claimed.seed, adapters=list(claimed.adapters.all()))
    save(claimed, recipe=recipe)
    jobs.end_job(claimed, JobStatus.FINISHED, host=HOST)
    words = words_of(text_of(client.get(f"/adapters/{jazz.pk}/delete/", headers=HTMX)))
    assert "1 take made with it stays" in words
    assert "1 job in the queue needs it and will be cancelled." in words
    assert Adapter.objects.exists()

    answer = client.post(f"/adapters/{jazz.pk}/delete/", headers=HTMX)
    assert json.loads(answer["HX-Location"])["path"] == "/adapters/"
    assert not Adapter.objects.exists()
    waiting.refresh_from_db()
    assert waiting.status == JobStatus.CANCELLED
    assert Take.objects.get().recipe["adapters"][0]["name"] == "Jazz"
    # The take's settings can be used again, and what is missing is named.
    assert "Jazz v1.0, which this take was made with, is gone" in text_of(
        client.get(f"/?take={Take.objects.get().pk}")
    )


# The form of the studio.


def group_of(text: str) -> str:
    """The adapters of the form."""
    return text.split('id="adapter-choices"')[1].split('<details class="fine"')[0]


def test_the_form_offers_none_then_usable_then_locked(client: Client, jazz: Adapter, brass: Adapter) -> None:
    group = group_of(text_of(client.get("/")))
    places = [group.index(part) for part in ('id="adapter-none"', "Jazz v1.0", ">Locked<", "Brass v1.0")]
    assert places == sorted(places)
    assert re.search(r'id="adapter-none"[^>]* checked', group)
    locked = group[group.index(f'id="adapter-{brass.pk}-row"') :]
    assert re.search(rf'id="adapter-{brass.pk}-on"[^>]* disabled', locked)
    assert "Requires Model Wide" in words_of(locked)
    assert f'href="/settings/switch/wide/?use={brass.pk}"' in locked
    assert "Switch to Model Wide and use" in words_of(locked)
    assert "Some adapters need another model. Models are switched in Settings" in words_of(group)
    assert f'name="strength-{jazz.pk}"' in group
    assert 'value="0.8"' in group


def test_who_may_not_switch_sees_the_reason_without_the_action(
    shared_mode: None, client: Client, alice: User, brass: Adapter
) -> None:
    client.force_login(alice)
    group = group_of(text_of(client.get("/")))
    assert "Requires Model Wide" in group
    assert "and use" not in group
    assert "Staff switch models in" in group


def test_without_adapters_the_form_says_so(client: Client) -> None:
    group = group_of(text_of(client.get("/")))
    assert "Import an adapter" in group
    assert "Some adapters need another model" not in group


def test_a_job_is_queued_with_the_chosen_adapters(client: Client, jazz: Adapter) -> None:
    sent = {"prompt": "trio", "adapter": ["", str(jazz.pk)], f"strength-{jazz.pk}": "0.4"}
    assert client.post("/", sent, headers=HTMX).status_code == 200
    used = JobAdapter.objects.get()
    assert (used.adapter, used.strength) == (jazz, 0.4)


def test_a_chosen_adapter_that_does_not_fit_is_refused_and_kept(
    client: Client, jazz: Adapter, brass: Adapter
) -> None:
    sent = {
        "prompt": "trio",
        "adapter": [str(jazz.pk), str(brass.pk)],
        f"strength-{jazz.pk}": "0.4",
        f"strength-{brass.pk}": "1.5",
    }
    answer = client.post("/", sent, headers=HTMX)
    group = group_of(text_of(answer))
    assert answer.status_code == 400
    assert "Adapter 'Brass' requires Model Wide, but Model Narrow is active" in group
    assert re.search(rf'id="adapter-{brass.pk}-on" checked', group)
    assert re.search(rf'id="adapter-{jazz.pk}-on" checked', group)
    assert 'value="0.4"' in group
    assert 'value="1.5"' in group
    assert not Job.objects.exists()


def test_switch_and_use_keeps_the_form_without_scripts(client: Client, brass: Adapter) -> None:
    sent = {"prompt": "kept prompt", "seed": "77", "adapter": "", "duration_seconds": "3"}
    answer = client.post(f"/adapters/{brass.pk}/switch/", sent)
    assert answer["Location"] == f"/settings/switch/wide/?use={brass.pk}"
    plan = text_of(client.get(answer["Location"]))
    assert "Switch to Model Wide and use Brass v1.0" in plan
    answer = client.post("/settings/switch/", {"model_id": "wide", "use": str(brass.pk)})
    assert answer.status_code == 302
    activate_model("wide")
    text = text_of(client.get(answer["Location"]))
    assert "kept prompt" in text
    assert 'value="77"' in text
    group = group_of(text)
    assert re.search(rf'id="adapter-{brass.pk}-on" checked', group)
    assert f'data-adapter="{brass.pk}" data-label="Brass v1.0"' in group
    assert "data-locked" not in group.split(f'id="adapter-{brass.pk}-row"')[1].split(">")[0]


def test_a_locked_choice_of_the_address_is_kept(client: Client, brass: Adapter) -> None:
    group = group_of(text_of(client.get(f"/?adapter={brass.pk}&adapter=x&adapter=999")))
    assert re.search(rf'id="adapter-{brass.pk}-on" checked', group)
    assert not re.search(r'id="adapter-none"[^>]* checked', group)


# Comparing by ear.


def start(client: Client, adapter: Adapter, **fields: str) -> AdapterTrial:
    sent = {"prompt": "late trio", "duration_seconds": "2", "seed": "9", **fields}
    answer = client.post(f"/adapters/{adapter.pk}/try/", sent, headers=HTMX)
    trial = AdapterTrial.objects.get()
    assert json.loads(answer["HX-Location"])["path"] == f"/adapters/{adapter.pk}/try/{trial.pk}/"
    return trial


def test_a_comparison_has_three_lanes_and_an_address(client: Client, jazz: Adapter) -> None:
    trial = start(client, jazz)
    strengths = [used.strength for used in JobAdapter.objects.order_by("job")]
    assert (Job.objects.count(), strengths) == (3, [0.5, 1.0])
    assert {job.seed for job in Job.objects.all()} == {9}
    text = text_of(client.get(f"/adapters/{jazz.pk}/try/{trial.pk}/"))
    words = words_of(text.split('class="lanes"')[1].split("</section>")[0])
    for label in ("Base", "Strength 0.5", "Strength 1.0", "Next in line", "2nd in line"):
        assert label in words
    assert 'data-state="busy"' in text
    assert f'view=adapter-{jazz.pk}-{trial.pk}"' in text


def make_takes(trial: AdapterTrial, levels: list[float]) -> list[Take]:
    """Carry the comparison out with takes of those levels."""
    made = []
    for job, level in zip(trial.jobs.order_by("pk"), levels, strict=True):
        claimed = jobs.claim_next_job(HOST, only_job=job.pk)
        assert claimed is not None
        take = save(claimed, level=level)
        assert take is not None
        made.append(take)
        jobs.end_job(claimed, JobStatus.FINISHED, host=HOST)
    return made


def test_levels_are_matched_to_the_quietest(client: Client, jazz: Adapter) -> None:
    trial = start(client, jazz)
    takes = make_takes(trial, [0.5, 0.25, 0.125])
    card = trial_card(trial)
    assert card.state == "finished"
    assert [round(lane.gain_db, 1) for lane in card.lanes] == [-12.0, -6.0, 0.0]
    assert card.lanes[0].level_line.replace(THIN_SPACE, " ") == "\u221212 dB"
    text = text_of(client.get(f"/adapters/{jazz.pk}/"))
    assert re.findall(r'data-gain-db="(.*?)"', text) == [f"{lane.gain_db:.2f}" for lane in card.lanes]
    assert len(set(re.findall(r'data-group="(.*?)"', text))) == 1
    assert [text.count(f'id="take-{take.pk}"') for take in takes] == [1, 1, 1], (
        "an id stands once on the page"
    )


def test_a_lane_that_failed_says_why_and_the_others_play(client: Client, jazz: Adapter) -> None:
    trial = start(client, jazz)
    base, half, _ = trial.jobs.order_by("pk")
    claimed = jobs.claim_next_job(HOST, only_job=base.pk)
    assert claimed is not None
    save(claimed)
    jobs.end_job(claimed, JobStatus.FINISHED, host=HOST)
    Job.objects.filter(pk=half.pk).update(status=JobStatus.FAILED, error_message="The file is gone.")
    trials.cancel_trial(trial)
    card = trial_card(trial)
    assert [lane.state for lane in card.lanes] == ["finished", "failed", "cancelled"]
    assert (card.state, card.can_cancel, card.lanes[1].status_line) == ("failed", False, "The file is gone.")


def test_a_comparison_is_stopped_by_its_owner_alone(
    shared_mode: None, client: Client, alice: User, mallory: User, jazz: Adapter
) -> None:
    client.force_login(alice)
    trial = start(client, jazz)
    client.force_login(mallory)
    assert client.get(f"/adapters/{jazz.pk}/try/{trial.pk}/").status_code == 404
    assert client.post(f"/trials/{trial.pk}/cancel/").status_code == 404
    assert client.get(f"/adapters/{jazz.pk}/").context["trial"] is None
    client.force_login(alice)
    answer = client.post(f"/trials/{trial.pk}/cancel/", headers=HTMX)
    assert 'data-state="cancelled"' in text_of(answer)
    assert_says_when_it_was_read(answer)
    assert {job.status for job in Job.objects.all()} == {JobStatus.CANCELLED}
    assert client.get(f"/trials/{trial.pk}/cancel/").status_code == 405


def test_a_refused_comparison_keeps_the_form(client: Client, jazz: Adapter) -> None:
    sent = {"prompt": "late trio", "duration_seconds": "99", "seed": "9"}
    answer = client.post(f"/adapters/{jazz.pk}/try/", sent, headers=HTMX)
    text = text_of(answer)
    assert answer.status_code == 400
    assert "Duration 99s exceeds model limit of 30s" in text
    assert "late trio" in text
    assert 'value="99"' in text
    assert not AdapterTrial.objects.exists()


def test_a_locked_adapter_cannot_be_tried(client: Client, brass: Adapter) -> None:
    text = text_of(client.get(f"/adapters/{brass.pk}/"))
    assert "Make three takes" not in text
    assert "Switch to Model Wide" in text
    answer = client.post(f"/adapters/{brass.pk}/try/", {"prompt": "x", "duration_seconds": "1"}, headers=HTMX)
    assert answer.status_code == 400
    assert not Job.objects.exists()


# Pushes.


@pytest.mark.django_db(transaction=True)
def test_another_active_model_regroups_the_adapters_of_open_forms(
    owner: User, jazz: Adapter, brass: Adapter
) -> None:
    async def scenario() -> None:
        page = Page(owner)
        await page.open()
        await rows(activate_model)("wide")
        await send(SwitchChanged(finished=True))
        group = group_of(await page.next() + '<details class="fine"')
        places = [group.index(part) for part in ("Brass v1.0", ">Locked<", "Jazz v1.0")]
        assert places == sorted(places)
        assert "Requires Model Narrow" in group
        await page.socket.disconnect()

    async_to_sync(scenario)()


@pytest.mark.django_db(transaction=True)
def test_a_proof_and_a_comparison_reach_the_adapters_page(owner: User, jazz: Adapter) -> None:
    async def scenario() -> None:
        trial = await rows(trials.start_trial)(owner=owner, adapter=jazz, prompt="late trio", seed=4)
        page = Page(owner, view=f"adapter-{jazz.pk}-{trial.pk}")
        snapshot = await page.open()
        assert "Not proven yet" in snapshot
        assert 'data-state="busy"' in snapshot
        await rows(AdapterProof.objects.create)(
            adapter=jazz,
            model_id="narrow",
            status=ProofStatus.FAILED,
            error_code="X",
            error_message="It changes nothing.",
        )
        await send(AdaptersChanged())
        pushed = await page.next()
        assert "It changes nothing." in pushed
        assert 'id="try-form"' in pushed
        assert "Make three takes" not in pushed
        await rows(trials.cancel_trial)(trial)
        await page.until('data-state="cancelled"')
        await page.socket.disconnect()

    async_to_sync(scenario)()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "view", ["adapter-", "adapter-x", "adapter-999999", "adapter-1-999", "adapter-1-2-3"]
)
def test_a_page_that_shows_nothing_is_pushed_nothing_of_adapters(owner: User, view: str) -> None:
    async def scenario() -> None:
        page = Page(owner, view=view)
        snapshot = await page.open()
        assert 'id="engine-chip"' in snapshot
        assert 'id="adapter-head"' not in snapshot
        await page.socket.disconnect()

    async_to_sync(scenario)()

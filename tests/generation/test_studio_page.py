"""The studio page: the form's start, what a submit answers, and the buttons of cards."""

import html as html_module
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from gated_configs.wording import THIN_SPACE
from generation.models import Job, JobStatus
from generation.services import jobs
from registry.models import ModelConfig
from registry.services import activate_model
from tests.generation.answers import assert_says_when_it_was_read
from tests.generation.music import HOST, make_job, make_running_job, make_take

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]

HTMX = {"HX-Request": "true"}


def text_of(answer: Any) -> str:
    """The HTML with plain spaces and characters."""
    text: str = html_module.unescape(answer.content.decode())
    return text.replace(THIN_SPACE, " ")


def test_the_form_starts_with_the_models_recommendation(client: Client) -> None:
    text = text_of(client.get("/"))
    assert "MusicGen Demo · up to 20 s · 16 kHz mono · about 1 GB" in text
    assert 'data-limit-seconds="120"' in text
    assert 'data-warn-seconds="16.0"' in text
    values = {
        name: client.get("/").context["form"][name].value()
        for name in ("duration_seconds", "seed", "variations")
    }
    assert values == {"duration_seconds": "8", "seed": "", "variations": "1"}
    assert "Nothing made yet." in text


def test_a_refused_form_keeps_the_box_of_longer_takes_and_its_scale(client: Client) -> None:
    asked = {"prompt": "piano", "duration_seconds": "125", "extend": "on"}
    text = text_of(client.post("/", asked, headers={"HX-Request": "true"}))
    assert "Duration 125s exceeds model limit of 120s" in text
    assert 'id="id_extend" checked' in text
    assert 'min="1" max="120"' in text
    text = text_of(client.post("/", asked | {"extend": ""}, headers={"HX-Request": "true"}))
    assert "Duration 125s exceeds model limit of 20s" in text
    assert 'min="1" max="20"' in text


def test_limits_follow_the_active_model_and_the_operator(client: Client, settings: Any) -> None:
    activate_model("musicgen-small")
    text = text_of(client.get("/"))
    assert "MusicGen Small · up to 30 s · 32 kHz mono · about 4 GB" in text
    assert "Longer than 30 s, in overlapping windows: up to 2 min" in text
    assert "CC-BY-NC 4.0" in text
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_duration_seconds": {"musicgen-small": 5}})
    text = text_of(client.get("/"))
    assert "up to 5 s" in text
    assert "in overlapping windows" not in text
    assert client.get("/").context["form"]["duration_seconds"].value() == "5"


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["plain", "htmx"])
def test_a_submit_queues_a_job(headers: dict[str, str], client: Client, owner: User) -> None:
    sent = {"prompt": "slow piano", "duration_seconds": "2.5", "seed": "9", "variations": "2"}
    answer = client.post("/", sent, headers=headers)
    job = Job.objects.get()
    assert (job.owner, job.prompt, job.duration_seconds, job.seed, job.variations) == (
        owner,
        "slow piano",
        2.5,
        9,
        2,
    )
    if not headers:
        assert (answer.status_code, answer["Location"]) == (302, "/")
        return
    text = text_of(answer)
    assert answer.status_code == 200
    assert text.count('id="studio-form"') == 1
    assert 'id="queue" hx-swap-oob="morph"' in text or 'hx-swap-oob="morph" id="queue"' in text
    assert f'id="job-{job.pk}"' in text
    assert "slow piano" in text.split('id="queue"')[0], "the form keeps its content"


def test_the_last_seed_can_be_used_again(client: Client, owner: User) -> None:
    assert "data-seed-reuse" not in text_of(client.get("/"))
    make_job(owner, seed=4242)
    assert 'data-seed-reuse="4242"' in text_of(client.get("/"))


def test_the_settings_of_a_take_fill_the_form(client: Client, owner: User, bob: User) -> None:
    take = make_take(owner, prompt="low strings", seed=77)
    form = client.get(f"/?take={take.pk}").context["form"]
    assert (form["prompt"].value(), form["seed"].value(), form["duration_seconds"].value()) == (
        "low strings",
        "77",
        "1",
    )
    other = make_take(bob, prompt="not yours")
    assert client.get(f"/?take={other.pk}").context["form"]["prompt"].value() == ""


@pytest.mark.parametrize("value", ["", "x", "-1", "9" * 30, "%00", "٣", "1.5"])
def test_a_take_that_is_not_there_fills_nothing(value: str, client: Client) -> None:
    answer = client.get(f"/?take={value}")
    assert answer.status_code == 200
    assert answer.context["form"]["prompt"].value() == ""


def test_a_page_in_the_middle_of_a_job_shows_it_as_far_as_it_is(client: Client, owner: User) -> None:
    job = make_running_job(owner, duration_seconds=10)
    Job.objects.filter(pk=job.pk).update(stage="generating", frames_done=160, frames_total=500)
    text = text_of(client.get("/"))
    assert "3.2 of 10 s" in text
    assert 'value="32.0"' in text


def test_prompts_are_escaped_everywhere(client: Client, owner: User) -> None:
    make_job(owner, prompt="<script>alert(1)</script>")
    make_take(owner, prompt='"><img src=x onerror=alert(1)>')
    for path in ("/", "/library/"):
        html = client.get(path).content.decode()
        assert "<script>alert" not in html
        assert "<img src=x" not in html


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["plain", "htmx"])
def test_each_button_of_a_card_does_what_it_says(
    headers: dict[str, str], client: Client, owner: User
) -> None:
    job = make_job(owner)
    answer = client.post(f"/jobs/{job.pk}/cancel/", headers=headers)
    assert answer.status_code == (200 if headers else 302)
    assert Job.objects.get().status == JobStatus.CANCELLED
    answer = client.post(f"/jobs/{job.pk}/retry/", headers=headers)
    again = Job.objects.get(status=JobStatus.QUEUED)
    if headers:
        assert_says_when_it_was_read(answer)
        assert f'id="job-{again.pk}"' in text_of(answer)
        assert f'id="job-{job.pk}"' not in text_of(answer)
    client.post(f"/jobs/{again.pk}/cancel/", headers=headers)
    answer = client.post(f"/jobs/{again.pk}/dismiss/", headers=headers)
    assert not Job.objects.on_the_board().exists()
    if headers:
        assert_says_when_it_was_read(answer)


def test_pressing_a_button_twice_is_harmless(client: Client, owner: User) -> None:
    job = make_running_job(owner)
    for _ in range(2):
        assert client.post(f"/jobs/{job.pk}/cancel/", headers=HTMX).status_code == 200
    jobs.end_job(job, JobStatus.CANCELLED, host=HOST)
    for _ in range(2):
        assert client.post(f"/jobs/{job.pk}/dismiss/", headers=HTMX).status_code == 200
    assert Job.objects.count() == 1


def test_a_retry_that_is_refused_says_why(client: Client, owner: User) -> None:
    job = make_job(owner, duration_seconds=15, status=JobStatus.FAILED)
    ModelConfig.objects.filter(pk="musicgen-demo").update(max_duration_seconds=10, max_extended_seconds=None)
    answer = client.post(f"/jobs/{job.pk}/retry/", headers=HTMX)
    assert answer.status_code == 400
    assert "Duration 15s exceeds model limit of 10s" in text_of(answer)
    assert answer["HX-Reswap"] == "none"
    answer = client.post(f"/jobs/{job.pk}/retry/", follow=True)
    assert "Duration 15s exceeds model limit of 10s" in text_of(answer)
    assert Job.objects.count() == 1


@pytest.mark.parametrize("action", ["cancel", "retry", "dismiss"])
def test_a_card_is_its_owners(
    action: str, shared_mode: None, client: Client, alice: User, mallory: User
) -> None:
    status = JobStatus.QUEUED if action == "cancel" else JobStatus.FAILED
    job = make_job(alice, status=status)
    path = f"/jobs/{job.pk}/{action}/"
    assert client.post(path).status_code == 302, "log in first"
    client.force_login(mallory)
    assert client.post(path).status_code == 404
    assert client.post("/jobs/999/cancel/").status_code == 404
    row = Job.objects.get()
    assert (row.status, row.dismissed_at) == (status, None)
    client.force_login(alice)
    assert client.get(path).status_code == 405
    assert client.post(path, headers=HTMX).status_code == 200


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_other_methods_are_refused(method: str, client: Client) -> None:
    assert getattr(client, method)("/").status_code == 405


def test_another_site_cannot_submit(client: Client) -> None:
    answer = client.post("/", {"prompt": "slow piano"}, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert not Job.objects.exists()

"""The JSON API: what each route answers, to whom, and that whatever comes in gets a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from generation.models import Job, JobStatus, Take
from generation.services import jobs, takes
from registry.catalog import MODEL_CONFIGS
from tests.generation.music import HOST, make_job, make_running_job, make_take, save

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]

CREATE = "/api/generations"


def post(client: Client, body: Any, path: str = CREATE, **options: Any) -> Any:
    """Send JSON; bytes and text go as they are."""
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.post(path, content, content_type=options.pop("content_type", "application/json"), **options)


def assert_refused(answer: Any, status: int, code: str | None = None) -> dict[str, Any]:
    """The answer is a refusal in the one shape."""
    assert answer.status_code == status, answer.content[:300]
    refusal: dict[str, Any] = answer.json()
    assert isinstance(refusal["error"], str)
    assert len(refusal["error"]) > 10
    assert refusal["error_code"] == refusal["error_code"].upper()
    if code:
        assert refusal["error_code"] == code
    return refusal


# Models.


def test_models_are_listed_with_the_active_one(client: Client) -> None:
    answer = client.get("/api/models").json()
    assert answer["current_model"] == "musicgen-demo"
    assert [model["hf_model_id"] for model in answer["models"]] == list(MODEL_CONFIGS)
    (small,) = [model for model in answer["models"] if model["id"] == "musicgen-small"]
    assert small == {
        "id": "musicgen-small",
        "display_name": "MusicGen Small",
        "hf_model_id": "facebook/musicgen-small",
        "max_duration_seconds": 30,
        "max_extended_seconds": 120,
        "recommended_duration_seconds": 10,
        "tokens_per_second": 50,
        "vram_requirement_gb": 4,
        "sample_rate": 32000,
        "channels": 1,
        "codebooks": 4,
        "follows_melody": False,
        "parameters": 586_884_674,
        "description": "Fast generation, good for prototyping",
        "licence": "CC-BY-NC 4.0",
        "licence_url": "https://creativecommons.org/licenses/by-nc/4.0/",
        "is_active": False,
        "is_playable": True,
        "unplayable_reason": "",
        "is_installed": False,
        "is_loaded": False,
    }
    melodic = {model["id"] for model in answer["models"] if model["follows_melody"]}
    assert melodic == {name for name in (model["id"] for model in answer["models"]) if "melody" in name}
    assert len(melodic) == 4


@pytest.mark.parametrize("name", ["musicgen-stereo-large", "facebook/musicgen-stereo-large"])
def test_a_model_is_found_by_either_id(name: str, client: Client, locked: str) -> None:
    answer = client.get(f"/api/models/{name}")
    assert answer.status_code == 200
    assert (answer.json()["id"], answer.json()["is_playable"]) == (locked, False)
    assert answer.json()["unplayable_reason"]


@pytest.mark.parametrize("name", ["musicgen-tiny", "a/b/c", "%00", "x" * 500, "..%2f..%2fetc"])
def test_an_unknown_model_is_not_there(name: str, client: Client) -> None:
    refusal = assert_refused(client.get(f"/api/models/{name}"), 404, "MODEL_NOT_FOUND")
    assert "Choose one of: musicgen-demo" in refusal["error"]


# Generations.


def test_a_job_is_queued_with_every_parameter(client: Client, owner: User) -> None:
    wanted = {
        "prompt": "low strings", "duration_seconds": 2.5, "model": "musicgen-demo", "seed": 4294967295,
        "guidance_scale": 4.5, "temperature": 0.8, "top_k": 40, "top_p": 0.5, "variations": 2,
    }  # fmt: skip
    answer = post(client, wanted)
    assert answer.status_code == 202
    job = answer.json()
    assert {name: job[name] for name in wanted} == wanted
    assert (job["status"], job["queue_position"], job["takes"]) == ("queued", 1, [])
    row = Job.objects.get()
    assert (row.pk, row.owner, row.status) == (job["id"], owner, "queued")


def test_a_prompt_is_enough(client: Client) -> None:
    job = post(client, {"prompt": "slow piano"}).json()
    assert (job["model"], job["duration_seconds"], job["variations"]) == ("musicgen-demo", 8, 1)


def test_the_same_request_twice_makes_two_jobs(client: Client) -> None:
    ids = {post(client, {"prompt": "slow piano"}).json()["id"] for _ in range(2)}
    assert len(ids) == 2


def test_progress_is_told_in_frames_and_seconds(client: Client, owner: User) -> None:
    job = make_running_job(owner, duration_seconds=10)
    Job.objects.filter(pk=job.pk).update(
        stage="generating", frames_done=160, frames_total=500, seconds_per_frame=0.1
    )
    answer = client.get(f"{CREATE}/{job.pk}").json()
    assert (answer["status"], answer["stage"]) == ("running", "generating")
    assert (answer["frames_done"], answer["frames_total"], answer["queue_position"]) == (160, 500, None)
    assert answer["remaining_seconds"] == pytest.approx(34)
    assert answer["elapsed_seconds"] >= 0


def test_a_finished_job_comes_with_its_takes(client: Client, owner: User) -> None:
    take = make_take(owner)
    answer = client.get(f"{CREATE}/{take.job_id}").json()
    assert answer["status"] == "finished"
    assert [one["id"] for one in answer["takes"]] == [take.pk]
    assert answer["takes"][0]["audio_url"] == f"/api/takes/{take.pk}/audio"
    assert answer["finished_at"] is not None


def test_a_failed_job_says_why(client: Client, owner: User) -> None:
    job = make_running_job(owner)
    jobs.end_job(job, JobStatus.FAILED, host=HOST, error_code="OUT_OF_MEMORY", error_message="Too big.")
    answer = client.get(f"{CREATE}/{job.pk}").json()
    assert (answer["status"], answer["error"], answer["error_code"]) == (
        "failed",
        "Too big.",
        "OUT_OF_MEMORY",
    )


@pytest.mark.parametrize(
    "name", ["duration_seconds", "seed", "guidance_scale", "top_k", "top_p", "variations"]
)
@pytest.mark.parametrize("value", [True, False, "5"])
def test_what_is_no_number_is_refused(name: str, value: object, client: Client) -> None:
    body = {"prompt": "piano", name: value}
    refusal = assert_refused(
        client.post(CREATE, body, content_type="application/json"), 400, "INVALID_REQUEST"
    )
    assert refusal["error"].startswith(f"{name}: ")
    assert not Job.objects.exists()


def test_a_queued_job_is_cancelled_at_once(client: Client, owner: User) -> None:
    job = make_job(owner)
    answer = client.post(f"{CREATE}/{job.pk}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")


def test_a_running_job_is_asked_to_end(client: Client, owner: User) -> None:
    job = make_running_job(owner)
    answer = client.post(f"{CREATE}/{job.pk}/cancel")
    assert answer.status_code == 202
    assert (answer.json()["status"], answer.json()["cancel_requested"]) == ("running", True)
    assert client.post(f"{CREATE}/{job.pk}/cancel").status_code == 202


def test_what_has_ended_is_not_cancelled(client: Client, owner: User) -> None:
    take = make_take(owner)
    refusal = assert_refused(client.post(f"{CREATE}/{take.job_id}/cancel"), 409, "JOB_ENDED")
    assert refusal["error"] == "The job has already ended: it is finished."
    assert refusal["status"] == "finished"


# Takes.


def test_a_take_comes_with_its_recipe(client: Client, owner: User) -> None:
    take = make_take(owner, title="Song", is_favourite=True)
    answer = client.get(f"/api/takes/{take.pk}").json()
    assert answer["recipe"] == take.recipe
    assert (answer["title"], answer["is_favourite"], answer["is_partial"]) == ("Song", True, False)
    assert (answer["sha256"], answer["file_bytes"]) == (take.sha256, take.file_bytes)
    assert (answer["licence"], answer["peaks"]) == ("Apache-2.0", take.peaks)


def test_takes_are_listed_newest_first_in_pages(client: Client, owner: User) -> None:
    made = [make_take(owner, seconds=0.1).pk for _ in range(5)]
    seen: list[int] = []
    before = ""
    while True:
        answer = client.get(f"/api/takes?limit=2{before}").json()
        assert answer["total"] == 5
        assert len(answer["takes"]) <= 2
        seen += [take["id"] for take in answer["takes"]]
        if answer["next_before"] is None:
            break
        before = f"&before={answer['next_before']}"
    assert seen == made[::-1]


def test_takes_are_searched_and_filtered(client: Client, owner: User) -> None:
    piano = make_take(owner, prompt="slow piano", seconds=0.1, is_favourite=True)
    drums = make_take(owner, prompt="fast drums", seconds=0.1, title="Evening")
    deleted = make_take(owner, prompt="slow piano", seconds=0.1)
    takes.delete_take(deleted)

    def found(query: str) -> list[int]:
        return [take["id"] for take in client.get(f"/api/takes?{query}").json()["takes"]]

    assert found("q=piano") == [piano.pk]
    assert found("q=EVENING") == [drums.pk]
    assert found("favourites=true") == [piano.pk]
    assert found("model=musicgen-demo") == [drums.pk, piano.pk]
    assert found("model=musicgen-small") == []
    assert found("q=%00piano%00") == [piano.pk]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "before=0", "before=" + "9" * 40, "q=" + "a" * 201]
)
def test_a_bad_page_is_refused(query: str, client: Client) -> None:
    refusal = assert_refused(client.get(f"/api/takes?{query}"), 400, "INVALID_REQUEST")
    assert query.split("=")[0] in refusal["errors"]


# Who.


def test_everybody_has_their_own(alice: User, bob: User, shared_mode: None, client: Client) -> None:
    take = make_take(alice)
    running = make_running_job(alice)
    paths = [f"/api/takes/{take.pk}", f"{CREATE}/{take.job_id}", f"{CREATE}/{running.pk}"]
    client.force_login(bob)
    for path in paths:
        assert_refused(client.get(path), 404, "NOT_FOUND")
    assert_refused(client.post(f"{CREATE}/{running.pk}/cancel"), 404, "NOT_FOUND")
    assert Job.objects.get(pk=running.pk).cancel_requested_at is None
    assert client.get("/api/takes").json()["takes"] == []
    mine = post(client, {"prompt": "mine"}).json()["id"]
    assert Job.objects.get(pk=mine).owner == bob
    client.force_login(alice)
    assert all(client.get(path).status_code == 200 for path in paths)
    assert client.get("/api/takes").json()["total"] == 1
    assert_refused(client.get(f"{CREATE}/{mine}"), 404)


def test_staff_does_not_see_the_takes_of_others(
    alice: User, staff: User, shared_mode: None, client: Client
) -> None:
    take = make_take(alice)
    client.force_login(staff)
    assert_refused(client.get(f"/api/takes/{take.pk}"), 404)
    assert client.get("/api/takes").json()["total"] == 0


ROUTES = [
    ("get", "/api/models"), ("get", "/api/models/musicgen-small"), ("post", CREATE), ("get", f"{CREATE}/1"),
    ("post", f"{CREATE}/1/cancel"), ("get", "/api/takes"), ("get", "/api/takes/1"), ("get", "/api/takes/1/audio"),
    ("head", "/api/takes/1/audio"), ("get", "/api/openapi.json"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_needs_a_login_in_shared_mode(
    method: str, path: str, shared_mode: None, client: Client
) -> None:
    answer = getattr(client, method)(path)
    assert answer.status_code == 401
    if method != "head":
        assert_refused(answer, 401, "LOGIN_REQUIRED")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_refuses_other_methods(method: str, path: str, client: Client) -> None:
    others = {"put", "patch", "delete", "get" if method == "post" else "post"}
    if path == "/api/takes/1":
        others -= {"delete", "patch"}
    for other in sorted(others):
        if path == "/api/openapi.json":
            continue
        assert_refused(getattr(client, other)(path), 405, "METHOD_NOT_ALLOWED")


def test_another_site_cannot_post(client: Client) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert_refused(post(client, {"prompt": "slow piano"}, headers=headers), 403, "CROSS_SITE")
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "path", ["/api/", "/api/nothing", "/api/takes/x", "/api/generations/-1", "/api/takes/1.5"]
)
def test_an_unknown_address_gets_a_sentence(path: str, client: Client) -> None:
    assert_refused(client.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize("number", ["9223372036854775808", "9" * 60, "0"])
def test_a_number_no_row_can_have_is_not_there(number: str, client: Client) -> None:
    for path in (f"/api/takes/{number}", f"{CREATE}/{number}", f"/api/takes/{number}/audio"):
        assert_refused(client.get(path), 404, "NOT_FOUND")
    assert_refused(client.post(f"{CREATE}/{number}/cancel"), 404, "NOT_FOUND")


# Whatever comes in.


DEEP = "[" * 30_000 + "]" * 30_000


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"1", b'"text"', b"\xff\xfe", b'{"prompt": }', b"prompt=piano",
        DEEP.encode(), ('{"prompt": ' + DEEP + "}").encode(), b'{"prompt": "a"} trailing',
        b'{"prompt": null}', b"{}", b'{"prompt": 5}', b'{"prompt": ["a"]}', b'{"prompt": {"a": 1}}',
        b'{"prompt": ""}', b'{"prompt": "\\u0000"}', b'{"prompt": "a\\ud800b"}', b'{"prompt": "a", "mood": "b"}',
        b'{"prompt": "a", "duration_seconds": "five"}', b'{"prompt": "a", "duration_seconds": NaN}',
        b'{"prompt": "a", "duration_seconds": Infinity}', b'{"prompt": "a", "duration_seconds": -Infinity}',
        b'{"prompt": "a", "duration_seconds": 1e999}', b'{"prompt": "a", "duration_seconds": []}',
        b'{"prompt": "a", "duration_seconds": ' + b"9" * 400 + b"}",
        b'{"prompt": "a", "duration_seconds": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "seed": ' + b"9" * 400 + b"}", b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "seed": 1.5}', b'{"prompt": "a", "seed": NaN}', b'{"prompt": "a", "seed": -1}',
        b'{"prompt": "a", "top_k": 1e3000}', b'{"prompt": "a", "variations": 1.5}',
        b'{"prompt": "a", "model": 5}', b'{"prompt": "a", "model": "\\u0000"}', b'{"prompt": "a", "model": "\\ud800"}',
        b'{"prompt": "a", "model": ""}', b'{"prompt": "a", "top_p": Infinity}', b'{"prompt": "a", "temperature": NaN}',
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)  # fmt: skip
def test_a_bad_body_is_refused_with_a_sentence(body: bytes, client: Client) -> None:
    refusal = assert_refused(post(client, body), 400)
    assert "wanted" not in refusal["error"]
    assert not Job.objects.exists()


def test_a_body_that_is_too_large_is_refused(client: Client) -> None:
    for size in (65 * 1024, 3 * 1024 * 1024):
        refusal = assert_refused(post(client, {"prompt": "a" * size}), 413, "REQUEST_TOO_LARGE")
        assert "64 kB" in refusal["error"]
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"],
)
def test_a_form_is_not_json(content_type: str, client: Client) -> None:
    assert_refused(post(client, "--x broken", content_type=content_type), 400)


def test_text_of_every_script_is_kept(client: Client) -> None:
    prompt = "пианино 钢琴 🎹 \u202e <b>&amp;</b> '; DROP TABLE job;--"
    assert post(client, {"prompt": prompt}).json()["prompt"] == prompt
    assert Job.objects.get().prompt == prompt


def test_a_partial_take_is_marked(client: Client, owner: User) -> None:
    job = make_running_job(owner)
    save(job, is_partial=True, seconds=0.4)
    jobs.end_job(job, JobStatus.CANCELLED, host=HOST)
    (take,) = client.get(f"{CREATE}/{job.pk}").json()["takes"]
    assert take["is_partial"]
    assert take["duration_seconds"] == pytest.approx(0.4)


def test_a_take_never_shows_where_its_file_lies(client: Client, owner: User, home: Path) -> None:
    take = make_take(owner)
    text = client.get(f"/api/takes/{take.pk}").content.decode()
    assert str(home) not in text
    assert Take.objects.get().file_name not in text

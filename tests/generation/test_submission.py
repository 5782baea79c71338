"""Refusals: one sentence for page, API and command, and nothing queued. And what a good request becomes."""

import dataclasses
import html
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from generation.models import Job
from generation.models.job import MAX_SEED
from generation.services.refusals import GenerationRefused, QueueFull
from generation.services.submission import GenerationRequest, Windows, check_request, submit_job
from registry.models import ModelConfig
from tests.generation.music import make_job, make_running_job

HUGE = "9" * 400


@dataclasses.dataclass
class Refused:
    """A request that is refused, as each edge sends it. None: that edge cannot say it."""

    id: str
    field: str
    code: str
    sentence: str
    values: dict[str, Any]
    page: dict[str, str] | None = None
    command: list[str] | None = None
    limits: dict[str, Any] = dataclasses.field(default_factory=dict)


def number(
    name: str, value: Any, sentence: str, code: str = "PARAMETER_OUT_OF_RANGE", **limits: Any
) -> Refused:
    """A number that is out of its range."""
    option = f"--{name.removesuffix('_seconds').replace('_', '-')}={value}"
    has_option = name != "variations"
    return Refused(
        f"{name}={value}"[:40],
        name,
        code,
        sentence,
        {name: value},
        page={name: str(value)},
        command=[option] if has_option else None,
        limits=limits,
    )


GUIDANCE = "Guidance must be a number from 1 to 20."
TEMPERATURE = "Temperature must be a number from 0.05 to 5."
TOP_K = "Top-k must be a whole number from 0 to 2048."
TOP_P = "Top-p must be a number from 0 to 1."
SEED = "Seed must be a whole number from 0 to 4294967295."
VARIATIONS = "Variations must be a whole number from 1 to 8."
NO_PROMPT = "Write a prompt: a few words on what the music should sound like."
TOO_SHORT = "The duration must be more than 0 seconds."

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]

REFUSALS = [
    Refused("no prompt", "prompt", "PROMPT_EMPTY", NO_PROMPT, {"prompt": ""}),
    Refused("blank prompt", "prompt", "PROMPT_EMPTY", NO_PROMPT, {"prompt": " \t\u2003\n"}),
    Refused(
        "long prompt",
        "prompt",
        "PROMPT_TOO_LONG",
        "The prompt has 1001 characters and the limit is 1000. Shorten it by 1.",
        {"prompt": "a" * 1001},
    ),
    Refused(
        "prompt with NUL",
        "prompt",
        "PROMPT_NOT_TEXT",
        "The prompt holds a character that is not text. Type it again without pasted control characters.",
        {"prompt": "slow\0piano"},
    ),
    number("duration_seconds", 20.5, "Duration 20.5s exceeds model limit of 20s", "DURATION_TOO_LONG"),
    number(
        "duration_seconds", 1e300, f"Duration {int(1e300)}s exceeds model limit of 20s", "DURATION_TOO_LONG"
    ),
    number(
        "duration_seconds",
        int(HUGE),
        "The duration must be a number of seconds, at most 20.",
        "DURATION_INVALID",
    ),
    *(
        number(
            "duration_seconds",
            value,
            "The duration must be a number of seconds, at most 20.",
            "DURATION_INVALID",
        )
        for value in NOT_FINITE
    ),
    number("top_p", NOT_FINITE[0], TOP_P),
    number("temperature", NOT_FINITE[1], TEMPERATURE),
    number("duration_seconds", 0, TOO_SHORT, "DURATION_INVALID"),
    number("duration_seconds", -3, TOO_SHORT, "DURATION_INVALID"),
    number("seed", -1, SEED),
    number("seed", MAX_SEED + 1, SEED),
    number("seed", int(HUGE), SEED),
    number("guidance_scale", 0.5, GUIDANCE),
    number("guidance_scale", 20.1, GUIDANCE),
    number("temperature", 0, TEMPERATURE),
    number("temperature", -1, TEMPERATURE),
    number("temperature", 5.5, TEMPERATURE),
    number("top_k", -1, TOP_K),
    number("top_k", 2049, TOP_K),
    number("top_p", -0.1, TOP_P),
    number("top_p", 1.1, TOP_P),
    number("variations", 0, VARIATIONS),
    number("variations", 9, VARIATIONS),
    number("variations", 4, "Variations must be a whole number from 1 to 3.", max_variations=3),
    number(
        "duration_seconds",
        11,
        "Duration 11s exceeds model limit of 10s",
        "DURATION_TOO_LONG",
        max_duration_seconds={"musicgen-demo": 10},
    ),
    Refused(
        "shorter limit for prompts",
        "prompt",
        "PROMPT_TOO_LONG",
        "The prompt has 5 characters and the limit is 4. Shorten it by 1.",
        {"prompt": "piano"},
        limits={"max_prompt_characters": 4},
    ),
]
#: What only scripts can say: the page has no field for a model.
SCRIPT_REFUSALS = [
    Refused(
        "too long for small",
        "duration_seconds",
        "DURATION_TOO_LONG",
        "Duration 45s exceeds model limit of 30s",
        {"duration_seconds": 45, "model_id": "musicgen-small"},
        command=["--duration=45", "--model=musicgen-small"],
    ),
    Refused(
        "unknown take",
        "continue_take",
        "TAKE_NOT_FOUND",
        "There is no such take to go on from.",
        {"continue_take": 1_000_000},
        command=["--continue=1000000", "--continue-from=2"],
    ),
    Refused(
        "unknown model",
        "model",
        "MODEL_NOT_FOUND",
        "There is no model 'musicgen-tiny'. Choose one of: musicgen-demo, musicgen-small,",
        {"model_id": "musicgen-tiny"},
        command=["--model=musicgen-tiny"],
    ),
    Refused(
        "locked model",
        "model",
        "MODEL_NOT_PLAYABLE",
        "MusicGen Stereo Large cannot be played yet. Its codec is not a mono EnCodec.",
        {"model_id": "musicgen-stereo-large"},
        command=["--model=musicgen-stereo-large"],
    ),
]


@pytest.fixture
def limited(settings: Any, locked: str) -> Callable[[Refused], None]:
    """Set the operator's limits that a case asks for."""

    def limit(case: Refused) -> None:
        settings.STUDIO = settings.STUDIO.model_copy(update=case.limits)

    return limit


@pytest.fixture(autouse=True)
def _nothing_was_queued(db: None, request: pytest.FixtureRequest) -> Any:
    yield
    if "case" in request.fixturenames:
        assert not Job.objects.exists()


def by_id(cases: list[Refused]) -> Any:
    """Parametrise by the cases' own names."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


# The service.


@by_id([*REFUSALS, *SCRIPT_REFUSALS])
def test_the_service_refuses(case: Refused, owner: User, limited: Callable[[Refused], None]) -> None:
    limited(case)
    with pytest.raises(GenerationRefused) as refused:
        submit_job(owner=owner, request=GenerationRequest(**{"prompt": "slow piano", **case.values}))
    assert list(refused.value.refusals) == [case.field]
    assert str(refused.value).startswith(case.sentence)
    assert refused.value.first.code == case.code


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
@pytest.mark.parametrize(
    "name", ["duration_seconds", "guidance_scale", "temperature", "top_k", "top_p", "seed"]
)
def test_the_service_refuses_what_is_not_finite(name: str, value: float, owner: User) -> None:
    wanted: Any = {"prompt": "slow piano", name: value}
    with pytest.raises(GenerationRefused) as refused:
        submit_job(owner=owner, request=GenerationRequest(**wanted))
    assert list(refused.value.refusals) == [name]
    assert not Job.objects.exists()


@pytest.mark.parametrize("value", [True, "5", 2.5])
def test_the_service_refuses_what_is_no_whole_number(value: Any, owner: User) -> None:
    with pytest.raises(GenerationRefused, match="Top-k must be a whole number"):
        submit_job(owner=owner, request=GenerationRequest(prompt="slow piano", top_k=value))


def test_every_bad_field_is_named_at_once(owner: User) -> None:
    with pytest.raises(GenerationRefused) as refused:
        submit_job(owner=owner, request=GenerationRequest(prompt="", duration_seconds=999, top_k=-1))
    assert list(refused.value.refusals) == ["prompt", "duration_seconds", "top_k"]


def test_without_an_active_model_nothing_is_queued(owner: User) -> None:
    ModelConfig.objects.update(is_active=False)
    with pytest.raises(GenerationRefused, match="No model is active") as refused:
        submit_job(owner=owner, request=GenerationRequest(prompt="slow piano"))
    assert refused.value.first.code == "NO_ACTIVE_MODEL"


# The page.


def submit(client: Client, *, partial: bool = False, **fields: str) -> Any:
    """Send the studio's form as the browser does."""
    values = {
        "prompt": "slow piano", "duration_seconds": "5", "seed": "", "guidance_scale": "3",
        "temperature": "1", "top_k": "250", "top_p": "0", "variations": "1", **fields,
    }  # fmt: skip
    headers = {"HX-Request": "true", "HX-Target": "studio-form"} if partial else {}
    return client.post("/", values, headers=headers)


@by_id(REFUSALS)
@pytest.mark.parametrize("partial", [True, False], ids=["htmx", "plain"])
def test_the_page_refuses_at_the_field_and_keeps_the_form(
    case: Refused, partial: bool, client: Client, limited: Callable[[Refused], None]
) -> None:
    limited(case)
    sent = case.page or case.values
    answer = submit(client, partial=partial, **{"seed": "41", **sent})
    assert answer.status_code == 400
    text = html.unescape(answer.content.decode())
    place = text.split(f'id="id_{case.field}_error"')
    assert len(place) == 2, "the sentence stands at its field"
    assert place[1].split("</p>")[0].lstrip(">") == case.sentence
    assert ("<html" in text) is not partial
    form = answer.context["form"]
    assert form["seed"].value() == sent.get("seed", "41")
    assert form["prompt"].value() == sent.get("prompt", "slow piano")
    assert f'value="{sent.get("seed", "41")}"' in text


@pytest.mark.parametrize("text", ["abc", "five", "1_0", "0x10", "٥", "1.2.3", "--5"])
def test_the_page_refuses_what_is_no_number(text: str, client: Client) -> None:
    answer = submit(client, partial=True, duration_seconds=text)
    assert answer.status_code == 400
    assert "Write the duration as a number of seconds." in answer.content.decode()
    assert not Job.objects.exists()


@pytest.mark.parametrize(("text", "seconds"), [("2,5", 2.5), (" 3 ", 3.0), ("", 8.0), ("1e0", 1.0)])
def test_the_page_takes_numbers_as_people_type_them(text: str, seconds: float, client: Client) -> None:
    assert submit(client, partial=True, duration_seconds=text).status_code == 200
    assert Job.objects.get().duration_seconds == seconds


def test_the_page_refuses_a_lone_surrogate(client: Client) -> None:
    body = "prompt=slow%ED%A0%80piano&duration_seconds=5"
    answer = client.post("/", body, content_type="application/x-www-form-urlencoded")
    assert answer.status_code in {302, 400}
    assert all("\ud800" not in job.prompt for job in Job.objects.all())


# The API.


@by_id([case for case in [*REFUSALS, *SCRIPT_REFUSALS] if "duration_seconds=999" not in case.id])
def test_the_api_refuses_in_the_error_shape(
    case: Refused, client: Client, limited: Callable[[Refused], None]
) -> None:
    limited(case)
    values = {"prompt": "slow piano", **case.values}
    if "model_id" in values:
        values["model"] = values.pop("model_id")
    answer = client.post("/api/generations", json.dumps(values), content_type="application/json")
    assert answer.status_code == 400
    body = answer.json()
    assert body["error"].startswith(case.sentence)
    assert body["error_code"] == case.code
    assert body["errors"] == {case.field: body["error"]}


@pytest.mark.parametrize(("extended", "limit"), [(0, 30), (40, 40)])
def test_the_api_gives_the_figures_of_a_refusal(
    extended: int, limit: int, client: Client, settings: Any
) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(
        update={"max_extended_seconds": {"musicgen-small": extended}}
    )
    values = {"prompt": "slow piano", "model": "musicgen-small", "duration_seconds": 45, "extend": True}
    answer = client.post("/api/generations", values, content_type="application/json")
    sentence = f"Duration 45s exceeds model limit of {limit}s"
    assert answer.json() == {
        "error": sentence,
        "error_code": "DURATION_TOO_LONG",
        "duration_seconds": 45,
        "max_duration_seconds": 30,
        "max_extended_seconds": extended or None,
        "model_id": "musicgen-small",
        "errors": {"duration_seconds": sentence},
    }


# The command.


@by_id([*[case for case in REFUSALS if case.command], *SCRIPT_REFUSALS])
def test_the_command_refuses(
    case: Refused, home: Path, tmp_path: Path, limited: Callable[[Refused], None]
) -> None:
    limited(case)
    out, target = StringIO(), tmp_path / "a.wav"
    arguments = ["generate", "slow piano", f"--out={target}", "--json", *(case.command or [])]
    with pytest.raises(CommandError) as refused:
        call_command(*arguments, stdout=out)
    assert refused.value.returncode == 1
    assert str(refused.value).startswith(case.sentence)
    body = json.loads(out.getvalue())
    assert body == {"error": str(refused.value), "error_code": case.code}
    assert not target.exists()


@by_id([case for case in REFUSALS if case.field == "prompt"])
def test_the_command_refuses_the_prompt(
    case: Refused, home: Path, tmp_path: Path, limited: Callable[[Refused], None]
) -> None:
    limited(case)
    with pytest.raises(CommandError) as refused:
        call_command("generate", case.values["prompt"], f"--out={tmp_path / 'a.wav'}", stdout=StringIO())
    assert str(refused.value) == case.sentence


# The queue.


def test_a_full_queue_refuses_everywhere(
    settings: Any, client: Client, owner: User, bob: User, home: Path, tmp_path: Path
) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_queued_jobs": 2})
    make_job(bob)
    make_job(owner)
    make_running_job(owner)
    sentence = "The queue holds 2 of your jobs, which is the limit. Wait for one to finish or cancel one."
    with pytest.raises(QueueFull, match=sentence):
        submit_job(owner=owner, request=GenerationRequest(prompt="slow piano"))
    answer = client.post("/api/generations", {"prompt": "slow piano"}, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]) == (429, sentence)
    assert answer.json()["error_code"] == "QUEUE_FULL"
    page = submit(client, partial=True)
    assert page.status_code == 400
    assert sentence in page.content.decode()
    with pytest.raises(CommandError, match=sentence):
        call_command("generate", "slow piano", f"--out={tmp_path / 'a.wav'}")
    assert Job.objects.count() == 3
    submit_job(owner=bob, request=GenerationRequest(prompt="slow piano"))


# What a good request becomes.


def test_defaults_come_from_the_active_model(owner: User) -> None:
    job = submit_job(owner=owner, request=GenerationRequest(prompt="  slow piano \n"))
    assert job.prompt == "slow piano"
    assert (job.model_id, job.duration_seconds, job.variations) == ("musicgen-demo", 8.0, 1)
    assert (job.guidance_scale, job.temperature, job.top_k, job.top_p) == (3.0, 1.0, 250, 0.0)
    assert 0 <= job.seed <= MAX_SEED


def test_two_jobs_without_a_seed_get_different_ones(owner: User) -> None:
    seeds = {submit_job(owner=owner, request=GenerationRequest(prompt="piano")).seed for _ in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize("seconds", [30, 30.0, 0.02])
def test_the_limit_itself_is_allowed(seconds: float, owner: User) -> None:
    wanted = GenerationRequest(prompt="piano", model_id="musicgen-small", duration_seconds=seconds)
    assert submit_job(owner=owner, request=wanted).duration_seconds == seconds


def test_a_raised_limit_is_allowed(owner: User, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_duration_seconds": {"musicgen-small": 60}})
    wanted = GenerationRequest(prompt="piano", model_id="facebook/musicgen-small", duration_seconds=60)
    job = submit_job(owner=owner, request=wanted)
    assert (job.model_id, job.duration_seconds) == ("musicgen-small", 60)


@pytest.mark.parametrize(("seconds", "windows"), [(30, (None, None)), (30.02, (30, 18)), (120, (30, 18))])
def test_what_is_longer_than_a_window_is_made_in_windows(
    seconds: float, windows: tuple[float | None, float | None], owner: User
) -> None:
    wanted = GenerationRequest(prompt="piano", model_id="musicgen-small", duration_seconds=seconds)
    if windows[0] is not None:
        with pytest.raises(GenerationRefused, match="exceeds model limit of 30s"):
            submit_job(owner=owner, request=wanted)
    job = submit_job(owner=owner, request=dataclasses.replace(wanted, extend=True))
    job.refresh_from_db()
    assert (job.window_seconds, job.stride_seconds) == windows


def test_a_take_is_made_again_as_it_was_made(owner: User) -> None:
    # Whatever the model's limits are by now.
    for windows in (Windows(), Windows(20, 5)):
        wanted = GenerationRequest(
            prompt="piano", model_id="musicgen-small", duration_seconds=45, windows=windows
        )
        job = submit_job(owner=owner, request=wanted)
        assert (job.window_seconds, job.stride_seconds) == (windows.window_seconds, windows.stride_seconds)


class TestAnyRequest(TestCase):
    """Whatever comes in is either refused by name or becomes a row that the database takes."""

    @hypothesis_settings(deadline=None)
    @given(
        prompt=st.text(max_size=40),
        duration=st.none() | st.floats() | st.integers(),
        seed=st.none() | st.integers(),
        scale=st.none() | st.floats(),
        top_k=st.none() | st.integers() | st.floats(),
    )
    def test_is_refused_or_complete(
        self, prompt: str, duration: float | None, seed: int | None, scale: float | None, top_k: Any
    ) -> None:
        wanted = GenerationRequest(
            prompt=prompt, duration_seconds=duration, seed=seed, guidance_scale=scale, top_k=top_k
        )
        try:
            checked = check_request(wanted)
        except GenerationRefused:
            return
        owner, _ = User.objects.get_or_create(username="owner")
        job = Job.objects.create(owner=owner, model=checked.model, **checked.values)
        job.refresh_from_db()
        assert {name: getattr(job, name) for name in checked.values} == checked.values
        assert checked.adapters == []
        assert 0 < job.duration_seconds <= checked.model.longest_take_seconds

"""Takes longer than a window: against a plain loop over the library's own forward pass, alone, stopped and failing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from generation.engine import decode
from generation.engine.adapters.attach import Attachment
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.chunks import decode_take
from generation.engine.company import Company, render
from generation.engine.decode import Batch, CodesRequest, TakeInHand, generate_codes
from generation.engine.errors import EngineError
from generation.engine.network import DecoderStep
from generation.engine.prompt import encode_prompt
from generation.engine.protocol import INVALID_REQUEST, OUT_OF_MEMORY, Generate
from generation.engine.render import Rendering
from generation.engine.sampling import Sampling
from generation.engine.windows import windows
from tests.engine.conftest import DEMO, Library, generate

PROMPT = "a fast, heavy metal melody at 140 bpm with bells"
WINDOW, STRIDE, FRAMES = 24, 14, 60


def request_of(model: LoadedModel, *, guidance_scale: float = 3.0, **options: Any) -> CodesRequest:
    """A take of four windows, unless options say otherwise."""
    fields = {"frames": FRAMES, "window": WINDOW, "stride": STRIDE, "seed": 3, "sampling": Sampling()}
    return CodesRequest(conditioning=encode_prompt(model, PROMPT, guidance_scale), **{**fields, **options})


def codes_of(model: LoadedModel, *, steps: int | None = None, **options: Any) -> torch.Tensor:
    """Codes [K, T]; `steps` is the number of steps after which it is stopped."""
    made: list[int] = []
    return generate_codes(
        model,
        request_of(model, **options),
        on_progress=made.append,
        should_stop=lambda: steps is not None and len(made) >= steps,
    )


@torch.inference_mode()
def reference(
    library: Library,
    *,
    channels: int,
    guidance_scale: float,
    frames: int,
    window: int,
    stride: int,
    beginning: torch.Tensor | None = None,
) -> Any:
    """Greedy codes [K, T] by the library's own decoder over the whole of each window, without a cache."""
    network: Any = library.network
    inputs = library.processor(text=[PROMPT], return_tensors="pt")
    states = network.text_encoder(**inputs).last_hidden_state
    if hasattr(network, "enc_to_dec_proj"):
        states = network.enc_to_dec_proj(states)
    if guidance_scale > 1:
        states = torch.cat([states, torch.zeros_like(states)])
    rows, books = len(states), network.decoder.config.num_codebooks
    pad = network.decoder.config.pad_token_id
    lags = [book // channels for book in range(books)]
    made, first = torch.empty(books, 0, dtype=torch.long) if beginning is None else beginning, 0
    while made.shape[1] < frames:
        known, length = made.shape[1] - first, min(window, frames - first)
        here = torch.full((books, length), pad)
        here[:, :known] = made[:, first:]
        for step in range(known, length + lags[-1]):
            ids = torch.full((books, step + 1), pad)
            for book, lag in enumerate(lags):
                heard = here[book, : max(0, step - lag)]
                ids[book, 1 + lag : 1 + lag + len(heard)] = heard
            logits = network.decoder(input_ids=ids.repeat(rows, 1), encoder_hidden_states=states).logits[
                :, -1
            ]
            scores = logits.view(rows, books, -1)
            if rows == 2:
                scores = scores[1:] + guidance_scale * (scores[:1] - scores[1:])
            for book, lag in enumerate(lags):
                if known <= step - lag < length:
                    here[book, step - lag] = scores[0, book].argmax()
        made, first = torch.cat([made[:, :first], here], dim=1), first + stride
    return made


@pytest.mark.parametrize("window", [WINDOW, 50], ids=["windows", "whole"])
def test_what_is_there_already_is_gone_on_from(model: LoadedModel, library: Library, window: int) -> None:
    beginning = torch.randint(32, (model.codebooks, 9), generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"frames": 40, "window": window, "stride": STRIDE, "beginning": beginning}
    wanted = reference(library, channels=model.channels, guidance_scale=3.0, **options)
    assert torch.equal(codes_of(model, sampling=Sampling(greedy=True), **options), wanted)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_greedy_equals_a_plain_loop_over_the_library(
    model: LoadedModel, library: Library, guidance_scale: float
) -> None:
    wanted = reference(
        library,
        channels=model.channels,
        guidance_scale=guidance_scale,
        frames=FRAMES,
        window=WINDOW,
        stride=STRIDE,
    )
    got = codes_of(model, guidance_scale=guidance_scale, sampling=Sampling(greedy=True))
    assert torch.equal(got, wanted)
    whole = codes_of(model, guidance_scale=guidance_scale, sampling=Sampling(greedy=True), window=None)
    assert not torch.equal(got[:, WINDOW:], whole[:, WINDOW:])


def test_the_shipped_model_equals_the_plain_loop() -> None:
    from transformers import AutoProcessor, MusicgenForConditionalGeneration

    library = Library(
        MusicgenForConditionalGeneration.from_pretrained(DEMO, dtype=torch.float32).eval(),
        AutoProcessor.from_pretrained(DEMO),
    )
    demo = load_checkpoint(str(DEMO), device="cpu", dtype="float32")
    options: dict[str, Any] = {"frames": 36, "window": 24, "stride": 14}
    wanted = reference(library, channels=1, guidance_scale=3.0, **options)
    assert torch.equal(codes_of(demo, sampling=Sampling(greedy=True), **options), wanted)


@torch.inference_mode()
def test_what_memory_held_before_is_never_heard(mono_model: LoadedModel) -> None:
    batch = Batch(mono_model)
    take = batch.join(request_of(mono_model))
    for layer in take.memory.own:
        for held in layer:
            held.fill_(torch.nan)
    while batch.takes:
        batch.step()
    assert take.error is None
    assert torch.equal(take.codes(), codes_of(mono_model))


def test_the_beginning_of_a_window_is_read_in_one_pass(mono_model: LoadedModel) -> None:
    rows: list[int] = []
    layer = mono_model.network.decoder.model.decoder.layers[0]
    hook = layer.fc1.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].shape[0]))
    try:
        codes_of(mono_model)
    finally:
        hook.remove()
    overlap = WINDOW - STRIDE
    assert [count for count in rows if count != 4] == [2 * overlap] * 3
    # 24 + 14 + 14 + 8 frames, and three steps more for each window until its last frame is whole.
    assert rows.count(4) == FRAMES + 4 * 3


def test_memory_is_that_of_one_window(mono_model: LoadedModel) -> None:
    batch = Batch(mono_model)
    take = batch.join(request_of(mono_model, frames=500))
    assert {(keys.shape[-2], values.shape[-2]) for keys, values in take.memory.own} == {
        (WINDOW + 3, WINDOW + 3)
    }
    assert batch.bytes_for(take.request) == sum(each.nbytes for layer in take.memory.own for each in layer)


def test_a_take_that_fits_its_window_is_made_as_without_one(mono_model: LoadedModel) -> None:
    assert torch.equal(codes_of(mono_model, window=FRAMES), codes_of(mono_model, window=None))


@pytest.mark.parametrize(("steps", "frames"), [(26, 23), (27, 24), (30, 24), (37, 31), (44, 38), (60, 51)])
def test_stopped_it_keeps_what_was_made(model: LoadedModel, steps: int, frames: int) -> None:
    full, part = codes_of(model), codes_of(model, steps=steps)
    assert part.shape[1] == frames
    assert torch.equal(part, full[:, :frames])


def test_progress_never_goes_back_and_covers_the_whole(mono_model: LoadedModel) -> None:
    seen: list[int] = []
    generate_codes(mono_model, request_of(mono_model), on_progress=seen.append, should_stop=lambda: False)
    assert seen == sorted(seen)
    assert seen[-1] == FRAMES


def test_a_window_that_cannot_begin_ends_its_take_alone(
    mono_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = DecoderStep.reading

    def no_memory(*arguments: Any) -> Iterator[None]:
        yield from itertools.islice(read(*arguments), 3)
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(DecoderStep, "reading", no_memory)
    company, ended = Company(mono_model, Attachment()), dict[str, Rendering | EngineError]()
    long = in_windows(tmp_path / "long.wav", "long")
    for request in (long, generate(tmp_path / "short.wav", "short", duration_seconds=0.6)):
        company.add(request, on_stage=lambda *stage: None, should_stop=lambda: False)
    while not company.is_idle:
        ended |= {request.request: outcome for request, outcome in company.advance()}
    failed, made = ended["long"], ended["short"]
    assert isinstance(failed, EngineError)
    assert failed.error_code == OUT_OF_MEMORY
    assert isinstance(made, Rendering)
    assert made.frames == 30


def test_nobody_waits_while_a_window_s_beginning_is_read(
    mono_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what two takes read, one part lies between two steps of the third; one of them is stopped meanwhile."""
    monkeypatch.setattr(decode, "READING_SECONDS", 0.0)
    company = Company(mono_model, Attachment())
    done: dict[str, int] = {}
    ended: dict[str, Rendering | EngineError] = {}
    stopped: set[str] = set()

    def add(request: Generate) -> None:
        company.add(
            request,
            on_stage=lambda stage, frames, total: done.update({request.request: frames}),
            should_stop=lambda: request.request in stopped,
        )

    for name in ("long", "stopped"):
        add(in_windows(tmp_path / f"{name}.wav", name))
    add(generate(tmp_path / "short.wav", "short", duration_seconds=1.0))
    seen = []
    while not company.is_idle:
        ended |= {request.request: outcome for request, outcome in company.advance()}
        seen.append((done["short"], done["long"], done["stopped"]))
        if done["stopped"] == WINDOW and done["long"] > WINDOW:
            stopped.add("stopped")
    steps = [short for short, _, _ in seen[: seen.index(next(each for each in seen if each[0] == 50))]]
    assert all(after - before <= 1 for before, after in itertools.pairwise(steps))
    assert steps[3:] == list(range(1, len(steps) - 2)), "the short one made a frame with every step"
    # Two pauses in each of two layers, and the end: first of the one, then of the other.
    assert [long for _, long, _ in seen].count(WINDOW) >= 5
    outcome = ended["stopped"]
    assert isinstance(outcome, Rendering)
    assert (outcome.cancelled, outcome.frames) == (True, WINDOW)
    alone = in_windows(tmp_path / "alone.wav", "alone")
    render(mono_model, alone, on_stage=lambda *stage: None, should_stop=lambda: False)
    assert (tmp_path / "alone.wav").read_bytes() == (tmp_path / "long.wav").read_bytes()


def in_windows(output: Path, name: str, **options: Any) -> Generate:
    return generate(
        output,
        name,
        duration_seconds=FRAMES / 50,
        window_seconds=WINDOW / 50,
        stride_seconds=STRIDE / 50,
        **options,
    )


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ({"window_seconds": 1.0}, "stride_seconds must be above 0 with window_seconds"),
        ({"stride_seconds": 1.0}, "stride_seconds must be above 0 with window_seconds"),
        ({"window_seconds": 0.0, "stride_seconds": 1.0}, "window_seconds must be above 0"),
        ({"window_seconds": 1.0, "stride_seconds": 0.99}, "shorter than window_seconds by a frame"),
    ],
)
def test_windows_without_an_overlap_are_refused(
    mono_model: LoadedModel, tmp_path: Path, lengths: dict[str, Any], words: str
) -> None:
    company = Company(mono_model, Attachment())
    company.add(
        generate(tmp_path / "a.wav", **lengths), on_stage=lambda *stage: None, should_stop=lambda: False
    )
    ((_, refused),) = company.advance()
    assert isinstance(refused, EngineError)
    assert refused.error_code == INVALID_REQUEST
    assert words in refused.message


@given(
    frames=st.integers(1, 400),
    longest=st.integers(2, 60),
    stride=st.integers(1, 60).filter(lambda each: each < 60),
)
def test_windows_cover_a_take_without_a_gap(frames: int, longest: int, stride: int) -> None:
    stride = min(stride, longest - 1)
    made = 0
    for window in windows(frames, longest=longest, stride=stride):
        assert window.first + window.known == made
        assert window.known < window.frames <= longest
        made = window.first + window.frames
    assert made == frames


def test_a_long_take_is_decoded_in_parts(model: LoadedModel, tmp_path: Path) -> None:
    request = in_windows(tmp_path / "long.wav", "long", seed=3, prompt=PROMPT, top_k=0)
    lengths: list[int] = []
    hook = model.network.audio_encoder.decoder.layers[0].register_forward_pre_hook(
        lambda module, inputs: lengths.append(inputs[0].shape[-1])
    )
    try:
        render(model, request, on_stage=lambda *stage: None, should_stop=lambda: False)
    finally:
        hook.remove()
    assert len(lengths) > 1
    assert max(lengths) < WINDOW + 6  # what lies on either side of a part is seen with it
    whole = decode_take(model, codes_of(model, sampling=Sampling(top_k=0)))
    parts = soundfile.read(request.output, dtype="float32", always_2d=True)[0].T
    assert parts.shape == whole.shape
    assert abs(parts - whole).max() < 1e-5 * max(1.0, abs(whole).max())


def test_takes_of_one_request_hold_what_they_made(mono_model: LoadedModel) -> None:
    batch = Batch(mono_model)
    take: TakeInHand = batch.join(request_of(mono_model))
    while not take.is_over:
        before = take.codes()
        batch.step()
        assert torch.equal(take.codes()[:, : before.shape[1]], before)
    assert take.codes().shape == (4, FRAMES)

"""Melody models, against the library's `generate` as the oracle: from words alone, and after the melody of a clip."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from peft import PeftModel
from transformers import AutoTokenizer, MusicgenMelodyConfig, MusicgenMelodyForConditionalGeneration
from transformers.audio_utils import chroma_filter_bank

from generation.engine.adapters.attach import Attachment
from generation.engine.audio import write_wav
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.chroma import ChromaShape, chroma_of, read_chroma_shape
from generation.engine.chunks import decode_take
from generation.engine.company import Company, render
from generation.engine.decode import Batch, CodesRequest, generate_codes
from generation.engine.errors import EngineError
from generation.engine.prompt import encode_prompt
from generation.engine.protocol import (
    ADAPTER_MISMATCH,
    CHECKPOINT_CORRUPT,
    INVALID_REQUEST,
    REFERENCE_UNREADABLE,
    Generate,
    RequestFailed,
    RequestFinished,
)
from generation.engine.reference import read_reference
from generation.engine.sampling import Sampling
from tests.adapters.made import PARTS, WAYS, load_network, make_adapter
from tests.engine.adapter_files import AdapterFiles
from tests.engine.conftest import Library, RunnerProcess, generate
from tests.engine.dwarf import CHROMA_LENGTH, build_melody_dwarf

PROMPT = "a fast, heavy metal melody at 140 bpm with bells"
#: Pitches that are said again, that fit, and of which the end is not read.
LENGTHS = (7, 20, 33)


@pytest.fixture(scope="module", params=[1, 2], ids=["mono", "stereo"])
def dwarf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_melody_dwarf(tmp_path_factory.mktemp(f"melody{request.param}"), channels=request.param)


@pytest.fixture(scope="module")
def model(dwarf: Path) -> LoadedModel:
    return load_checkpoint(str(dwarf), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def library(dwarf: Path) -> Library:
    # Its processor needs torchaudio; of it, only the tokenizer is asked here.
    network = MusicgenMelodyForConditionalGeneration.from_pretrained(dwarf, dtype=torch.float32).eval()
    return Library(network=network, processor=AutoTokenizer.from_pretrained(dwarf))


def pitches(length: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randint(12, (length,), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(drawn, 12).float()


def codes_of(
    model: LoadedModel,
    heard: torch.Tensor | None = None,
    *,
    prompt: str = PROMPT,
    guidance_scale: float = 3.0,
    **options: Any,
) -> torch.Tensor:
    """Codes [K, T] of the engine."""
    fields = {"frames": 30, "seed": 0, "sampling": Sampling(greedy=True), **options}
    request = CodesRequest(conditioning=encode_prompt(model, prompt, guidance_scale, heard), **fields)
    return generate_codes(model, request, on_progress=lambda done: None, should_stop=lambda: False)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("length", [0, *LENGTHS])
def test_greedy_equals_the_library(
    model: LoadedModel, library: Library, length: int, guidance_scale: float
) -> None:
    heard = pitches(length) if length else None
    options: dict[str, Any] = {} if heard is None else {"input_features": heard[None]}
    wanted, _ = library.generate(
        PROMPT, do_sample=False, guidance_scale=guidance_scale, max_new_tokens=33, **options
    )
    got = codes_of(model, heard, guidance_scale=guidance_scale)
    assert torch.equal(got, wanted)


def test_clips_of_different_melodies_give_different_takes(model: LoadedModel) -> None:
    takes = [codes_of(model), codes_of(model, pitches(20)), codes_of(model, pitches(20, seed=1))]
    assert len({str(take.tolist()) for take in takes}) == 3
    # The row of guidance has no melody, whatever the clip's.
    states = encode_prompt(model, PROMPT, 3.0, pitches(7)).states_at(0)
    assert torch.equal(states[1], encode_prompt(model, PROMPT, 3.0).states_at(0)[1])
    assert not torch.equal(states[0], states[1])


# --- windows ---

WINDOW, STRIDE, FRAMES = 24, 14, 60


@torch.inference_mode()
def in_windows(
    library: Library, heard: torch.Tensor | None, beginning: torch.Tensor | None = None
) -> torch.Tensor:
    """Greedy codes [K, T] by the library's own decoder over the whole of each window, whose clip goes on with it."""
    network: Any = library.network
    books = network.decoder.config.num_codebooks
    pad, lags = (
        network.decoder.config.pad_token_id,
        [book // network.decoder.config.audio_channels for book in range(books)],
    )
    inputs = library.processor([PROMPT], return_tensors="pt")
    made, first = torch.empty(books, 0, dtype=torch.long) if beginning is None else beginning, 0
    while made.shape[1] < FRAMES:
        known, length = made.shape[1] - first, min(WINDOW, FRAMES - first)
        here = torch.full((books, length), pad)
        here[:, :known] = made[:, first:]
        # 12.5 pitches a second and 50 frames.
        features = None if heard is None else heard.roll(-round(first / 4), dims=0)[None]
        for step in range(known, length + lags[-1]):
            ids = torch.full((books, step + 1), pad)
            for book, lag in enumerate(lags):
                said = here[book, : max(0, step - lag)]
                ids[book, 1 + lag : 1 + lag + len(said)] = said
            logits = network(**inputs, input_features=features, decoder_input_ids=ids).logits[:, -1]
            for book, lag in enumerate(lags):
                if known <= step - lag < length:
                    here[book, step - lag] = logits[book].argmax()
        made, first = torch.cat([made[:, :first], here], dim=1), first + STRIDE
    return made


@pytest.mark.parametrize(("length", "begun"), [(0, 0), (7, 0), (7, 9)])
def test_windows_equal_a_plain_loop_over_the_library(
    model: LoadedModel, library: Library, length: int, begun: int
) -> None:
    heard = pitches(length) if length else None
    options: dict[str, Any] = {"frames": FRAMES, "window": WINDOW, "stride": STRIDE, "guidance_scale": 1.0}
    drawn = torch.randint(32, (model.codebooks, begun), generator=torch.Generator().manual_seed(1))
    beginning = drawn if begun else None
    got = codes_of(model, heard, **options, beginning=beginning)
    assert torch.equal(got, in_windows(library, heard, beginning))


def test_memory_is_that_of_one_window_and_what_stands_before_it(model: LoadedModel) -> None:
    batch = Batch(model)
    conditioning = encode_prompt(model, PROMPT, 3.0)
    request = CodesRequest(
        conditioning=conditioning, frames=500, window=WINDOW, stride=STRIDE, seed=0, sampling=Sampling()
    )
    with torch.inference_mode():
        take = batch.join(request)
    assert conditioning.length == CHROMA_LENGTH + conditioning.text.shape[1]
    assert take.memory.own[0][0].shape[-2] == conditioning.length + WINDOW + 3
    assert batch.bytes_for(request) == sum(each.nbytes for layer in take.memory.own for each in layer)


# --- clips ---


def write_tone(path: Path, notes: list[float], rate: int = 800, channels: int = 1) -> Path:
    """Half a second of each note, in hertz."""
    times = np.arange(rate // 2) / rate
    sound = np.concatenate([np.sin(2 * np.pi * note * times) for note in notes])
    soundfile.write(path, np.repeat(sound[:, None], channels, axis=1), rate, "FLOAT")
    return path


def plain_pitches(samples: npt.NDArray[Any], shape: ChromaShape) -> torch.Tensor:
    """As the library's extractor says it, one window after another: torchaudio's spectrogram is normalised by window."""
    filters = chroma_filter_bank(
        sampling_rate=shape.sample_rate, num_frequency_bins=shape.window, tuning=0, num_chroma=shape.bins
    )
    if (lacking := shape.window - len(samples)) > 0:
        samples = np.pad(samples, (lacking // 2, lacking - lacking // 2))
    around = np.pad(samples, shape.window // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(shape.window) / shape.window)
    found = []
    for first in range(0, len(around) - shape.window + 1, shape.hop):
        spectrum = np.fft.rfft(around[first : first + shape.window] * window)
        power = np.abs(spectrum) ** 2 / (window**2).sum()
        found.append((filters @ power).argmax())
    return torch.nn.functional.one_hot(torch.tensor(found), shape.bins).float()


@pytest.mark.parametrize("length", [50, 128, 801, 1600])
def test_pitches_are_those_of_the_plain_formula(length: int) -> None:
    shape = ChromaShape(sample_rate=800, window=128, hop=64)
    samples = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    got = chroma_of(torch.from_numpy(samples), shape)
    assert got.shape == (max(length, 128) // 64 + 1, 12)
    assert torch.equal(got, plain_pitches(samples, shape))


def test_the_pitch_of_a_tone_is_its_name() -> None:
    times = torch.arange(64_000) / 32_000
    for note, place in ((261.63, 0), (440.0, 9), (987.77, 11)):  # C, A, B
        found = chroma_of(torch.sin(2 * math.pi * note * times), ChromaShape(sample_rate=32_000))
        assert found[1:-1].argmax(dim=1).tolist() == [place] * (len(found) - 2)


def made(model: LoadedModel, request: Generate) -> bytes:
    render(model, request, on_stage=lambda *stage: None, should_stop=lambda: False)
    return Path(request.output).read_bytes()


@pytest.mark.parametrize(("rate", "channels"), [(800, 1), (1100, 2)])
def test_a_take_follows_the_clip_in_a_file(
    model: LoadedModel, library: Library, tmp_path: Path, rate: int, channels: int
) -> None:
    clip = write_tone(tmp_path / "clip.wav", [110.0, 131.0, 165.0], rate, channels)
    assert model.chroma is not None
    heard = read_reference(model, str(clip), beyond_seconds=0)
    if rate == model.sample_rate:
        samples = soundfile.read(clip, dtype="float32")[0]
        assert torch.equal(heard, plain_pitches(samples, model.chroma))
    assert {9, 0, 4} <= set(heard.argmax(dim=1).tolist())
    wanted, _ = library.generate(
        "slow piano", do_sample=False, guidance_scale=3.0, max_new_tokens=28, input_features=heard[None]
    )
    made(model, generate(tmp_path / "take.wav", reference=str(clip), greedy=True))
    write_wav(tmp_path / "wanted.wav", decode_take(model, wanted), model.sample_rate)
    assert (tmp_path / "take.wav").read_bytes() == (tmp_path / "wanted.wav").read_bytes()


def test_of_a_long_clip_is_read_what_the_take_can_follow(model: LoadedModel, tmp_path: Path) -> None:
    notes = [110.0, 131.0, 165.0, 98.0] * 3
    long = write_tone(tmp_path / "long.wav", notes)
    short = write_tone(tmp_path / "short.wav", notes[:4])  # the two seconds that one window reads
    whole, cut = (generate(tmp_path / f"{each.stem}-take.wav", reference=str(each)) for each in (long, short))
    assert made(model, whole) == made(model, cut)
    windows: dict[str, Any] = {"duration_seconds": 2.0, "window_seconds": 1.0, "stride_seconds": 0.5}
    whole, cut = (dataclasses.replace(each, **windows) for each in (whole, cut))
    assert made(model, whole) != made(model, cut)
    assert len(read_reference(model, str(long), beyond_seconds=1.0)) == 3 * 800 // 64 + 1


@pytest.mark.parametrize("wrong", ["missing", "no sound", "empty", "raw", "channels", "rate"])
def test_what_is_no_clip_is_refused(model: LoadedModel, tmp_path: Path, wrong: str) -> None:
    path = tmp_path / ("clip.raw" if wrong == "raw" else "clip.wav")
    shapes = {"empty": ((0, 1), 800), "channels": ((9, 9), 800), "rate": ((9, 1), 383_993)}
    if wrong in shapes:
        shape, rate = shapes[wrong]
        soundfile.write(path, np.zeros(shape), rate)
    elif wrong != "missing":
        path.write_bytes(b"RIFF of nothing")
    with pytest.raises(EngineError, match=r"The reference clip cannot be read as sound\.") as refused:
        made(model, generate(tmp_path / "take.wav", reference=str(path)))
    assert refused.value.error_code == REFERENCE_UNREADABLE
    assert made(model, generate(tmp_path / "take.wav"))


def test_a_text_model_follows_no_clip(mono_model: LoadedModel, tmp_path: Path) -> None:
    clip = write_tone(tmp_path / "clip.wav", [110.0])
    for path, words in ((clip, "cannot follow a reference clip"), ("clip.wav", "an absolute path")):
        with pytest.raises(EngineError, match=words) as refused:
            made(mono_model, generate(tmp_path / "take.wav", reference=str(path)))
        assert refused.value.error_code == INVALID_REQUEST


# --- company ---


@pytest.mark.parametrize("dtype", ["float32", "int4"])
def test_each_take_equals_its_solo_run(dwarf: Path, tmp_path: Path, dtype: str) -> None:
    model = load_checkpoint(str(dwarf), device="cpu", dtype=dtype)
    clips = ["", *(str(write_tone(tmp_path / f"{note}.wav", [note, 165.0])) for note in (98.0, 131.0))]
    windows: dict[str, Any] = {"window_seconds": 0.3, "stride_seconds": 0.2}
    requests = [
        generate(
            tmp_path / f"{number}.wav",
            str(number),
            seed=number,
            duration_seconds=0.2 + 0.1 * number,
            guidance_scale=1.0 if number == 1 else 3.0,
            reference=clips[number % 3],
            **(windows if number > 2 else {}),
        )
        for number in range(5)
    ]
    company, ended = Company(model, Attachment()), 0
    for request in requests:
        company.add(request, on_stage=lambda *stage: None, should_stop=lambda: False)
        ended += len(company.advance())
    while not company.is_idle:
        ended += len(company.advance())
    assert ended == len(requests)
    for request in requests:
        together = Path(request.output).read_bytes()
        assert made(model, dataclasses.replace(request, output=str(tmp_path / "alone.wav"))) == together


def test_a_runner_plays_it(start_runner: Callable[..., RunnerProcess], tmp_path: Path) -> None:
    clip = write_tone(tmp_path / "clip.wav", [110.0, 131.0])
    runner = start_runner()
    loaded = runner.load(build_melody_dwarf(tmp_path / "model", channels=2))
    assert (loaded.model_type, loaded.channels) == ("musicgen_melody", 2)
    runner.send(generate(tmp_path / "words.wav", "words"))
    runner.send(generate(tmp_path / "melody.wav", "melody", reference=str(clip)))
    runner.send(generate(tmp_path / "gone.wav", "gone", reference=str(tmp_path / "gone.mp3")))
    failed = runner.wait_for(RequestFailed)
    assert (failed.request, failed.error_code) == ("gone", REFERENCE_UNREADABLE)
    for _ in range(2):
        assert runner.wait_for(RequestFinished).frames == 25
    assert (tmp_path / "words.wav").read_bytes() != (tmp_path / "melody.wav").read_bytes()
    assert runner.close() == 0


# --- adapters ---


@pytest.mark.parametrize("way", ["whole", "decoder", "everything", "dora"])
def test_an_adapter_acts_as_in_peft(
    model: LoadedModel, dwarf: Path, library: Library, tmp_path: Path, way: str
) -> None:
    adapter = make_adapter(dwarf, tmp_path / "adapter", WAYS[way])
    network: Any = load_network(dwarf)
    PeftModel.from_pretrained(network.get_submodule(PARTS[WAYS[way].on]), str(adapter))  # puts its layers in
    adapted = Attachment().model_for(model, [AdapterFiles(adapter, "whole").use()])
    peft = dataclasses.replace(library, network=network.eval())
    heard = pitches(20)
    wanted, _ = peft.generate(
        PROMPT, do_sample=False, guidance_scale=3.0, max_new_tokens=33, input_features=heard[None]
    )
    assert torch.equal(codes_of(adapted, heard), wanted)
    assert not torch.equal(codes_of(model, heard), wanted)


@pytest.mark.parametrize("way", ["whole", "decoder", "everything", "dora"])
def test_an_adapter_of_a_text_model_does_not_fit(mono: Path, tmp_path: Path, way: str) -> None:
    model = load_checkpoint(str(build_melody_dwarf(tmp_path / "model")), device="cpu")
    adapter = make_adapter(mono, tmp_path / "adapter", WAYS[way])
    with pytest.raises(EngineError, match="does not fit the loaded model") as refused:
        Attachment().model_for(model, [AdapterFiles(adapter, "whole").use()])
    assert refused.value.error_code == ADAPTER_MISMATCH


# --- checkpoints ---


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"chroma_length": 10**9}),
        ("config.json", {"chroma_length": 0}),
        ("preprocessor_config.json", {"hop_length": "1"}),
        ("preprocessor_config.json", {"n_fft": 0}),
    ],
)
def test_melodies_that_cannot_be_read_are_told(
    dwarf: Path, tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(dwarf, tmp_path / "broken"))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(EngineError, match="does not say how it reads a melody") as refused:
        load_checkpoint(str(folder), device="cpu")
    assert refused.value.error_code == CHECKPOINT_CORRUPT


def test_without_an_extractors_file_the_librarys_defaults_hold(dwarf: Path, tmp_path: Path) -> None:
    config = MusicgenMelodyConfig.from_pretrained(dwarf)
    assert read_chroma_shape(tmp_path, config, 32_000) == ChromaShape(
        sample_rate=32_000, frames=CHROMA_LENGTH, bins=12, window=16_384, hop=4_096, seconds=30
    )

"""Melody models, against the library's `generate` as the oracle: from words alone, and after the melody of a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, MusicgenMelodyForConditionalGeneration

from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.decode import CodesRequest, generate_codes
from generation.engine.prompt import encode_prompt
from generation.engine.sampling import Sampling
from tests.engine.conftest import Library
from tests.engine.dwarf import build_melody_dwarf

PROMPT = "a fast, heavy metal melody at 140 bpm with bells"
#: Pitches that are said again, that fit, and of which the end is not read.
LENGTHS = (7, 20, 33)


@pytest.fixture(scope="module", params=[1, 2], ids=["mono", "stereo"])
def dwarf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_melody_dwarf(tmp_path_factory.mktemp("melody"), channels=request.param)


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

"""The compiled step beside the modules that it stands for."""

import ctypes
import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from generation.engine import kernels
from generation.engine import network as network_module
from generation.engine.agreement import agreement, reference
from generation.engine.blocks import GROUP, Held, int4_blocks, int8_blocks
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.compiled import EightBitCache, is_known
from generation.engine.decode import CodesRequest, generate_codes
from generation.engine.errors import EngineError
from generation.engine.network import DecoderStep, TakeMemory
from generation.engine.packed import pack_decoder
from generation.engine.prompt import encode_prompt
from generation.engine.protocol import NON_FINITE
from generation.engine.random_checkpoint import CheckpointShape, build_checkpoint
from generation.engine.sampling import Sampling
from tests.engine.dwarf import MONO, build_melody_dwarf
from tests.engine.test_kernels import DEMO, needs_compiler

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def kept(kernels_folder: Path) -> Path:
    return kernels_folder


def loaded(folder: Path, kept: Path, dtype: str = "bfloat16") -> LoadedModel:
    """A model as a runner has it."""
    model = load_checkpoint(str(folder), device="cpu", dtype=dtype, kept=kept)
    pack_decoder(model.network, model.kernels, is_large=False)
    return model


@pytest.fixture(scope="module")
def demo(kept: Path) -> LoadedModel:
    return loaded(DEMO, kept)


def begun(step: DecoderStep, model: LoadedModel, prompts: list[str], steps: int) -> list[TakeMemory]:
    """Memories of takes of the prompts; every other one is with guidance."""
    made = []
    for number, prompt in enumerate(prompts):
        conditioning = encode_prompt(model, prompt, 3.0 if number % 2 else 1.0)
        made.append(step.begin(conditioning.states_at(0), steps))
        if step.is_prefixed:
            empty = torch.empty(model.codebooks, 0, dtype=torch.long)
            step.read(empty, made[-1], conditioning.states_at(0))
    return made


def tokens_for(model: LoadedModel, takes: int, steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(takes)
    return torch.randint(model.pad_token + 1, (steps, takes, model.codebooks), generator=generator)


def assert_like(found: Tensor, wanted: Tensor, share: float = 0.03) -> None:
    """Equal but for the rounding of bfloat16."""
    assert found.shape == wanted.shape
    assert float((found - wanted).std()) < share * float(wanted.std())


SHAPES = {
    "heads of 16": CheckpointShape(),
    "heads of 32, stereo": CheckpointShape(width=96, heads=3, feed_forward=176, channels=2),
    "heads of 64, a large vocabulary": CheckpointShape(width=128, heads=2, layers=2, codebook_size=2048),
    "one head of 128": CheckpointShape(width=128, heads=1, layers=2, codebooks=2),
}


#: What the compiler can be told to be content with, and this processor has: each has instructions of its own named.
OLDER_PROCESSORS = [
    name
    for name, is_there in (
        ("x86-64", platform.machine() == "x86_64"),
        ("x86-64-v3", torch.cpu._is_avx2_supported()),
        ("x86-64-v4", torch.cpu._is_avx512_supported()),
    )
    if is_there
]


def compile_for(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have kernels compiled for that one instead of this machine's own."""
    flags = [f"-march={processor}" if flag == "-march=native" else flag for flag in kernels._FLAGS]
    monkeypatch.setattr(kernels, "_FLAGS", flags)


@torch.inference_mode()
def assert_like_the_modules(model: LoadedModel, steps: int) -> None:
    """Logits of takes side by side, all along."""
    step = DecoderStep(model)
    assert step.is_compiled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_module, "is_known", lambda model: False)
        plain = DecoderStep(model)
    prompts = ["slow piano", "a fast, heavy metal melody at 140 bpm with bells", ""]
    mine, theirs = (begun(each, model, prompts, steps) for each in (step, plain))
    for tokens in tokens_for(model, len(prompts), steps):
        assert_like(step(tokens, mine), plain(tokens, theirs).float())


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits_are_those_of_the_modules(
    tmp_path: Path, kept: Path, shape: CheckpointShape, dtype: str
) -> None:
    build_checkpoint(tmp_path, shape, seed=1)
    assert_like_the_modules(loaded(tmp_path, kept, dtype), steps=140)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("processor", OLDER_PROCESSORS)
def test_so_they_are_on_an_older_processor(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, processor: str, dtype: str
) -> None:
    compile_for(processor, monkeypatch)
    build_checkpoint(tmp_path, SHAPES["heads of 64, a large vocabulary"], seed=1)
    assert_like_the_modules(loaded(tmp_path, kept, dtype), steps=70)


@pytest.mark.parametrize("processor", ["native", *OLDER_PROCESSORS])
def test_products_of_the_largest_whole_numbers_do_not_run_over(
    kept: Path, monkeypatch: pytest.MonkeyPatch, processor: str
) -> None:
    compile_for(processor, monkeypatch)
    compiled, width = kernels.compiled_kernels(kept), 8192
    rows = torch.ones(6, width)
    rows[1], rows[2, ::2], rows[3], rows[4, 5], rows[5, 7] = -1, -1, 0, torch.nan, torch.inf
    for whole in (127, 1, -128):
        blocks = int8_blocks(torch.full((16, width), whole, dtype=torch.int8), torch.full((16,), 0.5))
        product = compiled.multiply(rows.bfloat16(), blocks, Held.INT8, 16)
        one = 0.5 * whole * width
        for row, wanted in enumerate((one, -one, 0.0, 0.0)):
            torch.testing.assert_close(product[row].float(), torch.full((16,), wanted), rtol=0.005, atol=0)
        assert not product[4:].isfinite().any()
    scales, offsets = torch.full((2, 16, width // GROUP), 0.5).unbind()
    for small in (15, 0):
        blocks = int4_blocks(torch.full((16, width), small, dtype=torch.uint8), scales, offsets)
        product = compiled.multiply(rows.bfloat16(), blocks, Held.INT4, 16)
        one = (0.5 * (small - 8) + 0.5) * width
        for row, wanted in enumerate((one, -one, 0.0, 0.0)):
            torch.testing.assert_close(product[row].float(), torch.full((16,), wanted), rtol=0.005, atol=0)
        assert not product[4:].isfinite().any()


@torch.inference_mode()
def test_a_melody_model_reads_its_prompt_into_the_same_memory(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(build_melody_dwarf(tmp_path, shape=replace(MONO, width=64, heads=2)), kept)
    step = DecoderStep(model)
    assert step.is_compiled
    assert step.is_prefixed
    monkeypatch.setattr(network_module, "is_known", lambda model: False)
    plain = DecoderStep(model)
    mine, theirs = (begun(each, model, ["slow piano", "bells"], 20) for each in (step, plain))
    for tokens in tokens_for(model, 2, 20):
        assert_like(step(tokens, mine), plain(tokens, theirs).float())


@torch.inference_mode()
def test_many_equal_steps_do_not_run_over(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every step weighs as much and says the same, the sum of their whole numbers is the largest there is."""
    build_checkpoint(tmp_path, CheckpointShape(layers=1), seed=1)
    model = loaded(tmp_path, kept)
    attention = model.network.decoder.model.decoder.layers[0].self_attn
    attention.q_proj.held[0].zero_()
    step = DecoderStep(model)
    assert step.is_compiled
    monkeypatch.setattr(network_module, "is_known", lambda model: False)
    plain = DecoderStep(model)
    states = encode_prompt(model, "slow piano", 1.0).states_at(0)
    tokens = torch.zeros(model.codebooks, 1400, dtype=torch.long)
    mine, theirs = (each.begin(states, 1402) for each in (step, plain))
    for each, memory in ((step, mine), (plain, theirs)):
        each.read(tokens, memory, states)
    assert_like(step(tokens[:, :1].T, [mine]), plain(tokens[:, :1].T, [theirs]).float())


@pytest.mark.parametrize("known", [1, 15, 16, 17, 63, 64, 65, 90])
@torch.inference_mode()
def test_what_was_read_in_one_pass_lies_where_steps_put_it(demo: LoadedModel, known: int) -> None:
    step = DecoderStep(demo)
    states = encode_prompt(demo, "slow piano", 3.0).states_at(0)
    read, stepped = step.begin(states, 100), step.begin(states, 100)
    tokens = tokens_for(demo, 1, 100)[:, 0]  # [steps, K]
    step.read(tokens[:known].T, read, states)
    for each in tokens[:known]:
        step(each[None], [stepped])
    assert read.position == stepped.position == known
    for mine, theirs in zip(read.own[0], stepped.own[0], strict=True):
        assert mine.shape == theirs.shape
    for each in tokens[known:]:
        assert_like(step(each[None], [read]), step(each[None], [stepped]))


def test_eight_bits_keep_what_matters() -> None:
    keys, values = torch.randn(2, 2, 3, 21, 64, generator=torch.Generator().manual_seed(0)).unbind()
    keys[0, 0, 5], values[:, :, 7, 3] = 0, 40.0  # nothing, and one number that stands out
    cache = EightBitCache.empty(2, 3, 128, 64)
    cache.keep(keys, values)
    whole_keys, whole_values, scales = torch.split(cache.records[0], [64 * 64, 64 * 64, 2 * 64 * 4], dim=-1)
    key_scales, value_scales = scales.contiguous().view(torch.float32).view(2, 3, 2, 64).unbind(2)
    held = (whole_keys.view(2, 3, 4, 16, 16, 4).transpose(3, 4).reshape(2, 3, 64, 64).float() - 128) * (
        key_scales[..., None]
    )
    torch.testing.assert_close(held[:, :, :21], keys, rtol=0, atol=float(keys.abs().max()) / 254 + 1e-6)
    held = (whole_values.view(2, 3, 16, 64, 4).transpose(3, 4).reshape(2, 3, 64, 64).float() - 128) * (
        value_scales[..., None]
    )
    difference = (held[:, :, :21] - values).abs()
    assert float(difference[:, :, :7].max()) <= float(values[:, :, :7].abs().max()) / 254 + 1e-6
    assert torch.allclose(held[:, :, 7, 3], torch.tensor(40.0))


def test_along_a_take_it_agrees_better_than_the_modules(
    demo: LoadedModel, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = load_checkpoint(str(DEMO), device="cpu", dtype="float32")
    along = reference(exact, prompt="lo-fi hip hop with electric piano, bass and drums", frames=200)
    compiled = agreement(along, demo)
    monkeypatch.setattr(network_module, "is_known", lambda model: False)
    plain = agreement(along, demo)
    assert 0 < compiled.divergence < plain.divergence
    assert compiled.top_1 > 0.98


def request_for(model: LoadedModel, frames: int) -> CodesRequest:
    return CodesRequest(
        conditioning=encode_prompt(model, "slow piano", 3.0), frames=frames, seed=1, sampling=Sampling()
    )


def codes_of(model: LoadedModel, frames: int = 8) -> Tensor:
    return generate_codes(
        model, request_for(model, frames), on_progress=lambda done: None, should_stop=lambda: False
    )


def test_it_is_only_for_what_it_knows(tmp_path: Path, kept: Path, demo: LoadedModel) -> None:
    assert is_known(demo)
    assert not is_known(replace(demo, kernels=None))
    assert not is_known(loaded(DEMO, kept, "float32"))
    assert not is_known(load_checkpoint(str(DEMO), device="cpu", dtype="bfloat16", kept=kept)), "not packed"
    build_checkpoint(tmp_path, CheckpointShape(heads=8), seed=1)
    other = loaded(tmp_path, kept)
    assert not is_known(other), "heads of 8"
    assert codes_of(other).shape[1] == 8
    adapted = loaded(DEMO, kept)
    first = adapted.network.decoder.model.decoder.layers[0]
    first.fc1 = first.fc1.unpacked()
    assert not is_known(adapted)


def test_one_that_answers_something_else_is_not_used(kept: Path) -> None:
    model = loaded(DEMO, kept)
    assert model.kernels is not None
    right = model.kernels.decode
    asked: list[int] = []

    def wrong(decoder: object, takes: object, count: int, logits: int) -> int:
        asked.append(count)
        answer = int(right(decoder, takes, count, logits))
        ctypes.memset(logits, 0, 4 * count * model.codebooks * model.pad_token)  # of one row each
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.kernels, "decode", wrong)
        step = DecoderStep(model)
        assert asked == [2, 2], "tried, with two takes for two steps"
        assert not step.is_compiled
        assert codes_of(model).shape[1] == 8
    assert not DecoderStep(model).is_compiled, "tried once for a network"


@torch.inference_mode()
def test_what_would_leave_its_memory_is_refused(demo: LoadedModel) -> None:
    step = DecoderStep(demo)
    memory = step.begin(encode_prompt(demo, "", 1.0).states_at(0), 64)
    tokens = torch.zeros(1, demo.codebooks, dtype=torch.long)
    for wrong in (-1, demo.pad_token + 1):
        with pytest.raises(IndexError, match="no embedding"):
            step(tokens + wrong, [memory])
    assert memory.position == 0
    for _ in range(64):
        step(tokens, [memory])
    with pytest.raises(IndexError, match="memory is full"):
        step(tokens, [memory])


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj", "out_proj"])
@pytest.mark.parametrize("attention", ["self_attn", "encoder_attn"])
def test_what_is_no_number_is_said_to_be_none(tmp_path: Path, kept: Path, attention: str, name: str) -> None:
    build_checkpoint(tmp_path, CheckpointShape(), seed=1)
    model = load_checkpoint(str(tmp_path), device="cpu", dtype="bfloat16", kept=kept)
    layer = model.network.decoder.model.decoder.layers[1]
    getattr(getattr(layer, attention), name).weight.data[3, 5] = torch.nan
    pack_decoder(model.network, model.kernels, is_large=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecoderStep, "_try_compiled", lambda *_: True)
        assert DecoderStep(model).is_compiled
    with pytest.raises(EngineError) as refused:
        codes_of(model)
    assert refused.value.error_code == NON_FINITE

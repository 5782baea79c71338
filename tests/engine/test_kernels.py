"""Kernels compiled for this processor answer what torch's operators do, and where they cannot be had those do it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from generation.engine import decode as decode_module
from generation.engine import kernels
from generation.engine import network as network_module
from generation.engine.blocks import (
    GROUP,
    Held,
    can_be_pairs,
    int4_blocks,
    int8_blocks,
    out_of_int4_blocks,
    out_of_int8_blocks,
    out_of_pairs,
    pairs,
)
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.decode import Batch, CodesRequest, generate_codes
from generation.engine.kernels import Kernels, NoKernels, can_choose, compiled_kernels
from generation.engine.network import DecoderStep, _heard
from generation.engine.packed import CompiledLinear, pack_decoder
from generation.engine.prompt import encode_prompt
from generation.engine.sampling import Sampling, choose, guided
from tests.conftest import ROOT

DEMO = ROOT / "registry/checkpoints/musicgen-demo"
needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler (Debian: apt-get install gcc libc6-dev)"
)


@pytest.fixture(scope="module")
def folder(kernels_folder: Path) -> Path:
    return kernels_folder


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Kernels:
    return compiled_kernels(folder)


def drawn(
    steps: int, size: int = 64, dtype: torch.dtype = torch.float32, capacity: int | None = None
) -> list[Tensor]:
    """Query, keys and values of two rows with three heads; what is after `steps` must not count."""
    generator = torch.Generator().manual_seed(steps)
    shapes = [(2, 3, length, size) for length in (1, capacity or steps, capacity or steps)]
    query, keys, values = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    keys[:, :, steps:], values[:, :, steps:] = torch.nan, torch.nan
    return [query / 4, keys, values]


@needs_compiler
@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("steps", [1, 2, 15, 16, 17, 250, 1600])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
def test_it_answers_what_is_exact(
    compiled: Kernels, size: int, steps: int, dtype: torch.dtype, tolerance: float
) -> None:
    query, keys, values = drawn(steps, size, dtype, capacity=steps + 5)
    heard = torch.full_like(query, torch.nan)
    assert compiled.attend(query, keys, values, steps, heard)
    known, told = keys[:, :, :steps].double(), values[:, :, :steps].double()
    wanted = (query.double() @ known.transpose(2, 3)).softmax(-1) @ told
    torch.testing.assert_close(heard.double(), wanted, rtol=tolerance, atol=tolerance)


@needs_compiler
def test_scores_that_are_far_apart(compiled: Kernels) -> None:
    query, keys, values = drawn(40)
    for factor in (1000.0, -1000.0, 0.0):
        heard = torch.empty_like(query)
        assert compiled.attend(query * factor, keys, values, 40, heard)
        torch.testing.assert_close(heard, _heard(query * factor, keys, values, 40), rtol=1e-4, atol=1e-4)


@needs_compiler
def test_what_is_no_number_stays_none(compiled: Kernels) -> None:
    for which in range(3):
        tensors = drawn(40)
        tensors[which][0, 1, 0, 3] = torch.nan
        query, keys, values = tensors
        heard = torch.empty_like(query)
        assert compiled.attend(query, keys, values, 40, heard)
        assert heard[0, 1].isnan().any(), "the engine refuses such a take, so it must not be hidden"
        assert heard[1].isfinite().all()


@needs_compiler
def test_it_declines_what_it_is_not_made_for(compiled: Kernels) -> None:
    query, keys, values = drawn(20, size=24)
    heard = torch.full_like(query, 7.0)
    assert not compiled.attend(query, keys, values, 20, heard)
    assert (heard == 7).all()
    query, keys, values = drawn(20)
    for steps in (0, 21):
        assert not compiled.attend(query, keys, values, steps, torch.empty_like(query))
    assert not compiled.attend(query.half(), keys.half(), values.half(), 20, torch.empty_like(query.half()))


@needs_compiler
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_one_that_was_spoilt_is_compiled_anew(
    folder: Path, tmp_path: Path, compiled: Kernels, share: float
) -> None:
    for file in folder.glob(f"kernels-{compiled.name}.*"):
        whole = file.read_bytes()
        (tmp_path / file.name).write_bytes(
            whole[: int(len(whole) * share)] if file.suffix == ".so" else whole
        )
    spoilt = tmp_path / f"kernels-{compiled.name}.so"
    before = spoilt.stat().st_size
    again = compiled_kernels(tmp_path)
    assert again.name == compiled.name
    assert spoilt.stat().st_size > before


@needs_compiler
def test_it_is_compiled_once_for_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled_kernels(tmp_path)
    (library,) = tmp_path.glob("*.so")
    before = library.stat()
    again = compiled_kernels(tmp_path)
    assert again.name == first.name
    assert library.stat().st_mtime_ns == before.st_mtime_ns
    monkeypatch.setattr(kernels, "this_machine", lambda: "another")
    other = compiled_kernels(tmp_path)
    assert other.name != first.name, "a home that moved to another processor"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("_COMPILERS", ("no-such-compiler",), "No C compiler is installed here: install gcc or clang."),
        ("_COMPILERS", ("false",), "cannot compile"),
        ("_MAIN", "../kernels.py", "cannot compile"),
        ("_COMPILE_SECONDS", 0.0001, "cannot compile"),
        ("_TOLERANCE", {torch.float32: 0.0}, "computes wrongly"),
    ],
)
def test_without_it_torch_does_it_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mono: Path, name: str, value: object, reason: str
) -> None:
    monkeypatch.setattr(kernels, name, value)
    if value != ("no-such-compiler",) and shutil.which("cc") is None:
        reason = "No C compiler"
    with pytest.raises(NoKernels, match=reason):
        compiled_kernels(tmp_path)
    assert not list(tmp_path.glob("*.[0-9]*")), "nothing half made"
    model = load_checkpoint(str(mono), device="cpu", dtype="float32", kept=tmp_path)
    assert model.kernels is None
    assert reason in str(model.no_kernels)
    assert codes_of(model, frames=8).shape[1] == 8


def request_for(model: LoadedModel, frames: int, seed: int = 3, **sampling: object) -> CodesRequest:
    return CodesRequest(
        conditioning=encode_prompt(model, "slow piano", 3.0),
        frames=frames,
        seed=seed,
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
    )


def codes_of(model: LoadedModel, *, frames: int, seed: int = 3, **sampling: object) -> Tensor:
    request = request_for(model, frames, seed, **sampling)
    return generate_codes(model, request, on_progress=lambda done: None, should_stop=lambda: False)


@needs_compiler
def test_a_take_by_it_is_the_take_by_torch(folder: Path) -> None:
    model = load_checkpoint(str(DEMO), device="cpu", dtype="float32", kept=folder)
    assert model.kernels is not None
    used: list[int] = []
    attend = model.kernels.attend

    def counted(query: Tensor, keys: Tensor, values: Tensor, steps: int, heard: Tensor) -> bool:
        used.append(steps)
        return attend(query, keys, values, steps, heard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.kernels, "attend", counted)
        by_kernel = codes_of(model, frames=150, greedy=True)
    assert len(used) == 2 * 6 * 153, "each layer of each step, for the take and for its prompt"
    assert torch.equal(by_kernel, codes_of(replace(model, kernels=None), frames=150, greedy=True))


def held_weight(held: Held, out: int, width: int) -> tuple[Tensor, Tensor]:
    """A weight [out, in] of numbers of every size as it is held, and what it says."""
    generator = torch.Generator().manual_seed(out)
    if held == Held.PAIRS:
        weight = (torch.randn(out, width, generator=generator) / width**0.5).bfloat16()
        assert torch.equal(out_of_pairs(pairs(weight)), weight)
        return pairs(weight), weight.double()
    spread = width**-0.5 * (0.5 + torch.rand(out, max(width // GROUP, 1), generator=generator))
    if held == Held.INT8:
        whole = torch.randint(-128, 128, (out, width), generator=generator).to(torch.int8)
        scales = (spread[:, 0] / 64).bfloat16()
        blocks = int8_blocks(whole, scales)
        told = zip(out_of_int8_blocks(blocks, width), (whole, scales), strict=True)
        assert all(torch.equal(*pair) for pair in told)
        return blocks, whole.double() * scales[:, None]
    small = torch.randint(16, (out, width), generator=generator).to(torch.uint8)
    scales, offsets = (spread / 6).bfloat16(), (spread - width**-0.5).bfloat16()
    blocks = int4_blocks(small, scales, offsets)
    again = zip(out_of_int4_blocks(blocks, width), (small, scales, offsets), strict=True)
    assert all(torch.equal(*pair) for pair in again)
    groups = (small.double() - 8).view(out, -1, GROUP) * scales[..., None] + offsets[..., None]
    return blocks, groups.flatten(1)


def in_bytes(rows: Tensor) -> Tensor:
    """Rows as weights of 4 bits multiply them: rounded to 8 bits of the largest number of each group."""
    groups = rows.double().view(len(rows), -1, GROUP)
    scales = groups.abs().amax(dim=-1, keepdim=True) / 127
    whole = groups / scales
    return ((whole + 0.5 * whole.sign()).trunc() * scales).view(rows.shape)


@needs_compiler
@pytest.mark.parametrize(
    ("held", "out", "width"),
    [
        (Held.PAIRS, 16, 4),
        (Held.PAIRS, 48, 60),
        *((held, out, width) for held in Held for out, width in ((16, 32), (2048, 1024), (256, 4096))),
    ],
)
def test_products_are_those_of_torch_for_any_number_of_rows(
    compiled: Kernels, held: Held, out: int, width: int
) -> None:
    blocks, weight = held_weight(held, out, width)
    rows = torch.randn(150, width, generator=torch.Generator().manual_seed(1)).bfloat16()

    def product(rows: Tensor) -> Tensor:
        return compiled.multiply(rows, blocks, held, out)

    together = product(rows)
    exact = in_bytes(rows) if held == Held.INT4 else rows.double()
    torch.testing.assert_close(together.double(), exact @ weight.T, rtol=1e-2, atol=1e-2)
    assert (together - rows.double() @ weight.T).std() < 0.006 * together.double().std()
    for first, count in ((0, 1), (1, 2), (3, 3), (5, 7), (8, 24), (60, 70)):
        assert torch.equal(product(rows[first : first + count]), together[first : first + count])
    assert product(rows[:0]).shape == (0, out)
    assert torch.equal(product(rows.repeat(1, 2)[:, :width]), together)


def test_which_weights_it_multiplies() -> None:
    for shape, dtype, can in (
        ((32, 8), torch.bfloat16, True),
        ((32, 8), torch.float32, False),
        ((24, 8), torch.bfloat16, False),
        ((32, 6), torch.bfloat16, False),
    ):
        assert can_be_pairs(torch.zeros(shape, dtype=dtype)) is can


def drawn_by(
    compiled: Kernels, logits: Tensor, scale: float, sampling: Sampling, generator: torch.Generator
) -> Tensor:
    tokens = compiled.choose(logits, scale, sampling, generator)
    assert tokens is not None
    return tokens


@needs_compiler
@pytest.mark.parametrize("top_k", [0, 1, 2, 250, 2047, 2048, 5000])
@pytest.mark.parametrize(("rows", "scale"), [(1, 3.0), (2, 3.0), (2, 1.0)])
def test_tokens_are_those_of_torch(compiled: Kernels, top_k: int, rows: int, scale: float) -> None:
    shared = torch.Generator().manual_seed(top_k)
    mine, theirs = (torch.Generator().manual_seed(7) for _ in range(2))
    for temperature in (1.0, 0.7, 3.0):
        sampling = Sampling(temperature=temperature, top_k=top_k)
        for _ in range(8):
            logits = 4 * torch.randn(rows, 4, 2048, generator=shared)
            wanted = choose(guided(logits, scale), sampling, theirs)
            assert torch.equal(drawn_by(compiled, logits, scale, sampling, mine), wanted)
    assert torch.equal(mine.get_state(), theirs.get_state())


@needs_compiler
def test_of_equal_logits_top_k_keeps_all_as_torch_does(compiled: Kernels) -> None:
    logits = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0)).mul(2).round()
    sampling, mine, theirs = Sampling(top_k=5), *(torch.Generator().manual_seed(7) for _ in range(2))
    drawn = torch.stack([drawn_by(compiled, logits, 1.0, sampling, mine) for _ in range(300)])
    assert torch.equal(drawn, torch.stack([choose(logits[0], sampling, theirs) for _ in range(300)]))
    reached = logits[0] >= logits[0].topk(5).values[:, -1:]
    assert [len(set(book.tolist())) for book in drawn.T] == reached.sum(1).tolist(), (
        "and all are drawn at last"
    )


@needs_compiler
def test_a_take_draws_by_it_what_torch_would(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_checkpoint(str(DEMO), device="cpu", dtype="float32", kept=folder)
    assert model.kernels is not None
    asked: list[Sampling] = []
    choose_by_it = model.kernels.choose

    def counted(
        logits: Tensor, scale: float, sampling: Sampling, generator: torch.Generator
    ) -> Tensor | None:
        asked.append(sampling)
        return choose_by_it(logits, scale, sampling, generator)

    monkeypatch.setattr(model.kernels, "choose", counted)
    mine = codes_of(model, frames=30)
    assert asked == [Sampling()] * (30 + model.codebooks - 1)
    codes_of(model, frames=2, top_p=0.5)
    codes_of(model, frames=2, greedy=True)
    assert set(asked) == {Sampling()}
    monkeypatch.setattr(decode_module, "can_choose", lambda sampling, vocabulary: False)
    assert torch.equal(codes_of(model, frames=30), mine)


@needs_compiler
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("row", [0, 1])
def test_no_token_is_drawn_from_what_is_no_number(compiled: Kernels, wrong: float, row: int) -> None:
    logits = torch.zeros(2, 4, 32)
    assert compiled.choose(logits, 3.0, Sampling(), torch.Generator()) is not None
    logits[row, 3, 31] = wrong
    assert compiled.choose(logits, 3.0, Sampling(), torch.Generator()) is None


def test_what_it_draws() -> None:
    assert can_choose(Sampling(), 2048)
    assert can_choose(Sampling(top_p=1.0), 2048)
    for sampling, vocabulary in (
        (Sampling(greedy=True), 2048),
        (Sampling(top_p=0.5), 2048),
        (Sampling(), 40),
    ):
        assert not can_choose(sampling, vocabulary)


@needs_compiler
@torch.inference_mode()
def test_a_decoder_is_packed_for_it(folder: Path) -> None:
    model = load_checkpoint(str(DEMO), device="cpu", dtype="bfloat16", kept=folder)
    plain = {path: each.weight.clone() for path, each in linears(model)}
    assert pack_decoder(model.network, model.kernels)
    for path, each in linears(model):
        assert isinstance(each, CompiledLinear)
        assert torch.equal(each.weight, plain[path])
    assert DecoderStep(model).rows_agree()


def linears(model: LoadedModel) -> list[tuple[str, nn.Linear]]:
    found = model.network.decoder.named_modules()
    return [(path, each) for path, each in found if isinstance(each, nn.Linear)]


@needs_compiler
def test_rows_are_padded_only_where_it_matters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "is_known", lambda model: False)
    model = load_checkpoint(str(DEMO), device="cpu", dtype="bfloat16", kept=folder)
    counts: list[int] = []
    network = model.network
    hook = network.decoder.model.decoder.layers[0].self_attn_layer_norm.register_forward_pre_hook(
        lambda module, given: counts.append(len(given[0]))
    )
    codes_of(model, frames=2)
    pack_decoder(network, model.kernels)
    codes_of(model, frames=2)
    first = network.decoder.model.decoder.layers[0]
    first.fc1 = first.fc1.unpacked()
    codes_of(model, frames=2)
    hook.remove()
    assert counts == [4] * 5 + [2] * 5 + [4] * 5


@needs_compiler
def test_by_it_a_take_is_the_same_in_any_company(folder: Path) -> None:
    model = load_checkpoint(str(DEMO), device="cpu", dtype="bfloat16", kept=folder)
    pack_decoder(model.network, model.kernels)
    alone = codes_of(model, frames=60)
    with torch.inference_mode():
        batch = Batch(model)
        takes = [batch.join(request_for(model, frames, seed)) for frames, seed in ((90, 1), (60, 3), (20, 4))]
        while batch.takes:
            batch.step()
        assert torch.equal(takes[1].codes(), alone)

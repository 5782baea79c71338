"""Steps as a graphics card makes them: captured once for a company, and replayed.

No card is needed: a recording of torch's operators, with the tensors that they were given, stands for a CUDA graph. Like one
it knows nothing of Python, so that a number that Python had put into a step would be the same in each replay.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from generation.engine import network as network_module
from generation.engine.captured import Work
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.kernels import NoKernels
from generation.engine.network import CARD_ROWS, DecoderStep
from generation.engine.protocol import AdapterUse
from generation.engine.runner import kernels_of
from tests.engine.adapter_files import Make
from tests.engine.dwarf import build_dwarf, build_melody_dwarf
from tests.engine.test_company import VISITS, assert_equal_to_solo_runs
from tests.engine.test_compiled import assert_like, begun, tokens_for


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operator that is called, with what it was given and what it answered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, answer))
        return answer


REPLAYS: list[int] = []


def recorded(work: Work) -> Work:
    """A stand-in for a CUDA graph."""
    with Recording() as recording:
        first = work()

    def replay() -> Tensor:
        now: dict[int, Tensor] = {}

        def of_now(tensor: Tensor) -> Tensor:
            return now.get(id(tensor), tensor)

        for func, args, kwargs, answer in recording.calls:
            args, kwargs = tree_map_only(Tensor, of_now, (args, kwargs))
            again = func(*args, **kwargs)
            for then, here in zip(tree_leaves(answer), tree_leaves(again), strict=True):
                if isinstance(then, Tensor):
                    now[id(then)] = here
        REPLAYS.append(len(recording.calls))
        return now[id(first)]

    return replay


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the CPU's steps made as a card's are."""
    monkeypatch.setattr(network_module, "capture_on", lambda device: recorded)


@pytest.fixture(params=["mono", "stereo", "melody"])
def model(request: pytest.FixtureRequest, tmp_path: Path, dwarfs: dict[str, Path]) -> LoadedModel:
    """One that no other test has looked at."""
    return load_checkpoint(str(dwarfs[request.param]), device="cpu")


@pytest.fixture(scope="module")
def dwarfs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of dwarf checkpoints."""
    folder = tmp_path_factory.mktemp("dwarfs")
    return {
        "mono": build_dwarf(folder / "mono"),
        "stereo": build_dwarf(folder / "stereo", channels=2),
        "melody": build_melody_dwarf(folder / "melody"),
    }


@torch.inference_mode()
def test_logits_are_those_of_the_modules(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = DecoderStep(model)
    assert captured.is_captured
    monkeypatch.setattr(network_module, "capture_on", lambda device: None)
    plain = DecoderStep(model)
    assert not plain.is_capturable
    prompts = ["slow piano", "a fast, heavy metal melody at 140 bpm with bells", ""]
    mine, theirs = (begun(step, model, prompts, 140) for step in (captured, plain))
    tokens, before = tokens_for(model, len(prompts), 140), len(REPLAYS)
    for number, each in enumerate(tokens):
        takes = 2 if number < 70 else 3  # one joins when the others are at the end of their first 64 keys
        found, wanted = (
            step(each[:takes], kept[:takes]) for step, kept in ((captured, mine), (plain, theirs))
        )
        assert_like(found, wanted, share=1e-4)
    assert len(REPLAYS) - before == 140 - 2, "the first step of each company is no replay"


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(visits=st.lists(VISITS, min_size=2, max_size=7))
def test_each_take_equals_its_solo_run(
    mono: Path, dwarfs: dict[str, Path], make: Make, tmp_path: Path, visits: list[Any]
) -> None:
    model = load_checkpoint(str(dwarfs["mono"]), device="cpu")
    uses: list[list[AdapterUse]] = [[], [make(mono, "decoder").use(1.0)], [make(mono, "dora").use(0.7)]]
    before = len(REPLAYS)
    assert_equal_to_solo_runs(model, uses, tmp_path, visits)
    assert len(REPLAYS) > before


@torch.inference_mode()
def test_a_longer_take_changes_nothing_for_those_that_go_on(dwarfs: dict[str, Path]) -> None:
    model = load_checkpoint(str(dwarfs["mono"]), device="cpu")
    step = DecoderStep(model)
    (short,), (alone,) = (begun(step, model, ["slow piano"], 60) for _ in range(2))
    tokens = tokens_for(model, 1, 20)
    wanted = torch.stack([step(each, [alone]) for each in tokens])
    found = []
    for number, each in enumerate(tokens):
        if number == 5:
            begun(step, model, ["a longer one"], 600)  # the table of positions is another from now on
        found.append(step(each, [short]))
    assert torch.equal(torch.stack(found), wanted)


@pytest.mark.parametrize("how", ["fails", "answers otherwise", "leaves Python's numbers in"])
@torch.inference_mode()
def test_a_capture_that_does_not_hold_is_not_used(
    dwarfs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def capture(work: Work) -> Work:
        if how == "fails":
            raise RuntimeError("operation not permitted when stream is capturing")
        if how == "answers otherwise":
            return lambda: work() * (1 + 1e-6)
        answer = work()
        return lambda: answer

    wanted = DecoderStep(load_checkpoint(str(dwarfs["mono"]), device="cpu"))
    monkeypatch.setattr(network_module, "capture_on", lambda device: capture)
    model = load_checkpoint(str(dwarfs["mono"]), device="cpu")
    step = DecoderStep(model)
    assert (wanted.is_captured, step.is_captured, step.is_capturable) == (True, False, True)
    (mine,), (theirs,) = (begun(each, model, ["slow piano"], 20) for each in (step, wanted))
    for each in tokens_for(model, 1, 10):
        assert torch.equal(step(each, [mine]), wanted(each, [theirs])), "the same bits, kernel by kernel"


@torch.inference_mode()
def test_a_step_that_cannot_be_captured_later_is_made_all_the_same(
    dwarfs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_checkpoint(str(dwarfs["mono"]), device="cpu")
    assert DecoderStep(model).is_captured

    def capture(work: Work) -> Work:
        raise torch.OutOfMemoryError("no memory for a graph")

    monkeypatch.setattr(network_module, "capture_on", lambda device: capture)
    step = DecoderStep(model)
    (memory,) = begun(step, model, ["slow piano"], 20)
    for each in tokens_for(model, 1, 5):
        assert step(each, [memory]).isfinite().all()
    assert caplog.text.count("could not be captured") == 1


@pytest.mark.parametrize(
    ("no_kernels", "is_captured", "name", "problem"),
    [
        (None, True, "torch, captured", ""),
        (NoKernels("install gcc"), True, "torch, captured", "install gcc"),
        (None, False, "torch", "Steps cannot be captured on this card: update its driver."),
    ],
)
def test_a_recipe_and_the_settings_are_told(
    dwarfs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    no_kernels: NoKernels | None,
    is_captured: bool,
    name: str,
    problem: str,
) -> None:
    monkeypatch.setattr(DecoderStep, "_try_capture", lambda self, capture: is_captured)
    model = load_checkpoint(str(dwarfs["mono"]), device="cpu")
    told, why = kernels_of(replace(model, device=torch.device("cuda"), no_kernels=no_kernels))
    assert (told, str(why or "")) == (name, problem)


@torch.inference_mode()
def test_kernels_that_mix_rows_are_found(dwarfs: dict[str, Path]) -> None:
    model = load_checkpoint(str(dwarfs["mono"]), device="cpu")
    assert DecoderStep(model).rows_agree()
    mixing = load_checkpoint(str(dwarfs["mono"]), device="cpu")
    layer = mixing.network.decoder.model.decoder.layers[-1]
    layer.fc2 = Mixing(layer.fc2)
    assert not DecoderStep(mixing).rows_agree()


class Mixing(torch.nn.Module):
    """A projection whose rows depend on where they stand."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.inner(rows) * (1 + 1e-6 * (torch.arange(len(rows)) % 16 == 15).unsqueeze(1))
        return result


@torch.inference_mode()
def test_thirty_two_takes_with_guidance_fit_into_a_step(dwarfs: dict[str, Path]) -> None:
    model = load_checkpoint(str(dwarfs["mono"]), device="cpu")
    step = DecoderStep(model)
    prompts = [f"prompt {number // 2}" for number in range(64)]  # every other one is with guidance
    memories = begun(step, model, prompts, 3)[1::2]
    assert sum(memory.rows for memory in memories) == CARD_ROWS == step.most_rows
    tokens = tokens_for(model, len(memories), 3)
    together = torch.stack([step(each, memories) for each in tokens])
    for number in (0, 17, 31):
        (alone,) = begun(step, model, ["", f"prompt {number}"], 3)[1:]
        found = torch.stack([step(each[number : number + 1], [alone]) for each in tokens])
        assert torch.equal(found, together[:, 2 * number : 2 * number + 2])


@torch.inference_mode()
def test_what_is_captured_stays_on_the_card(model: LoadedModel) -> None:
    """By tensors that hold nothing: no number can be read off them, and none of them mixes with the CPU's."""
    step = DecoderStep(model)
    memories = begun(step, model, ["slow piano", "with guidance"], 20)
    step._device = torch.device("meta")
    model.network.decoder.to("meta")
    for memory in memories:
        there = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (memory.own, memory.prompt))
        memory.own, memory.prompt = there
    captured = step._capturing(None)
    captured._begin(memories, step._positions.to("meta"), codebooks=model.codebooks)
    with Recording() as recording:
        logits = captured._work()
    assert (logits.shape[0], logits.device.type, logits.dtype) == (CARD_ROWS, "meta", torch.float32)
    tensors = [each for call in recording.calls for each in tree_leaves(call[1:]) if isinstance(each, Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}

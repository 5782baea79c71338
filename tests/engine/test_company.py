"""Takes made side by side: each the same to the bit as made alone, and none waits for what it need not wait for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generation.engine import company as company_module
from generation.engine.adapters.attach import Attachment
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.company import Company, render
from generation.engine.errors import EngineError
from generation.engine.network import FEWEST_ROWS, MOST_ROWS, DecoderStep, padded
from generation.engine.packed import pack_decoder
from generation.engine.protocol import NON_FINITE, AdapterUse, Generate
from generation.engine.render import Rendering
from tests.engine.adapter_files import Make
from tests.engine.conftest import DEMO, TORCH_PACKS, generate

Outcome = Rendering | EngineError


@pytest.fixture(
    scope="module",
    params=[("bfloat16", False), ("bfloat16", True), ("int4", False), ("int4", True)],
    ids=lambda param: f"{param[0]}-{'compiled' if param[1] else 'torch'}",
)
def demo(request: pytest.FixtureRequest, kernels_folder: Path) -> LoadedModel:
    """The demo model: real shapes, in the formats that machines with bfloat16 use, packed as larger ones are."""
    dtype, is_compiled = request.param
    kept = kernels_folder if is_compiled else None
    model = load_checkpoint(str(DEMO), device="cpu", dtype=dtype, kept=kept)
    assert pack_decoder(model.network, model.kernels) == (is_compiled or TORCH_PACKS["bfloat16"])
    return model


@pytest.fixture(scope="module")
def uses(make: Make, mono: Path) -> list[list[AdapterUse]]:
    """Lists of adapters that requests name."""
    return [[], [make(mono, "decoder").use(1.0)], [make(mono, "dora").use(0.7)]]


class Desk:
    """A company, and what became of each request, in the order in which they ended."""

    def __init__(self, model: LoadedModel) -> None:
        self.company = Company(model, Attachment())
        self.steps = 0
        self.ended: dict[str, Outcome] = {}
        self.stopped: set[str] = set()
        self.begun: list[str] = []

    def add(self, request: Generate) -> None:
        def on_stage(stage: str, done: int, total: int) -> None:
            if stage == "generating" and request.request not in self.begun:
                self.begun.append(request.request)

        self.company.add(request, on_stage=on_stage, should_stop=lambda: request.request in self.stopped)

    def step(self) -> None:
        self.steps += 1
        self.ended |= {request.request: outcome for request, outcome in self.company.advance()}

    def finish(self) -> dict[str, Outcome]:
        while not self.company.is_idle:
            self.step()
        return self.ended


REQUESTS = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(["slow piano", "a fast, heavy metal melody at 140 bpm with bells", ""]),
        "duration_seconds": st.integers(1, 16).map(lambda frames: frames / 50),
        "seed": st.integers(0, 3),
        "guidance_scale": st.sampled_from([1.0, 3.0]),
        "temperature": st.sampled_from([0.7, 1.0]),
        "top_k": st.sampled_from([0, 10]),
        # Some are longer than their window: up to three of them.
        "window_seconds": st.sampled_from([None, 8 / 50]),
    }
).map(lambda wanted: {**wanted, "stride_seconds": wanted["window_seconds"] and 5 / 50})
#: A request, the list of its adapters, the step at which it comes, and how many steps later it is cancelled.
VISITS = st.tuples(REQUESTS, st.integers(0, 2), st.integers(0, 12), st.none() | st.integers(0, 12))


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(visits=st.lists(VISITS, min_size=2, max_size=9))
def test_each_take_equals_its_solo_run(
    mono_model: LoadedModel, uses: list[list[AdapterUse]], tmp_path: Path, visits: list[Any]
) -> None:
    assert_equal_to_solo_runs(mono_model, uses, tmp_path, visits)


def assert_equal_to_solo_runs(
    model: LoadedModel, uses: list[list[AdapterUse]], tmp_path: Path, visits: list[Any]
) -> None:
    """Of requests that come and go as VISITS say, with those lists of adapters."""
    desk = Desk(model)
    requests = [
        generate(tmp_path / f"{number}.wav", str(number), adapters=tuple(uses[which]), **wanted)
        for number, (wanted, which, _, _) in enumerate(visits)
    ]
    for step in range(26):
        for request, (_, _, comes, stays) in zip(requests, visits, strict=True):
            if comes == step:
                desk.add(request)
            if stays is not None and comes + stays == step:
                desk.stopped.add(request.request)
        desk.step()
    assert set(desk.finish()) == {request.request for request in requests}
    for request in requests:
        made = desk.ended[request.request]
        assert isinstance(made, Rendering)
        alone = tmp_path / "alone.wav"
        if made.frames:
            assert render_alone(model, request, alone, stop_at=made.frames).frames == made.frames
            assert Path(request.output).read_bytes() == alone.read_bytes()
            Path(request.output).unlink()
        else:
            assert made.output is None


def render_alone(
    model: LoadedModel, request: Generate, output: Path, *, stop_at: int | None = None
) -> Rendering:
    """The take by itself, stopped once it has so many frames."""
    done = 0

    def on_stage(stage: str, frames: int, total: int) -> None:
        nonlocal done
        done = frames

    return render(
        model,
        Generate(**{**vars(request), "output": str(output)}),
        on_stage=on_stage,
        should_stop=lambda: done == stop_at,
    )


def test_many_takes_of_a_real_shape_equal_their_solo_runs(demo: LoadedModel, tmp_path: Path) -> None:
    desk = Desk(demo)
    windows: dict[str, Any] = {"window_seconds": 0.2, "stride_seconds": 0.1}
    requests = [
        generate(
            tmp_path / f"{n}.wav",
            str(n),
            seed=n,
            duration_seconds=0.1 + 0.06 * n,
            **(windows if n > 2 else {}),
        )
        for n in range(5)
    ]
    for request in requests:
        desk.add(request)
    desk.finish()
    for request in requests:
        render_alone(demo, request, tmp_path / "alone.wav")
        assert Path(request.output).read_bytes() == (tmp_path / "alone.wav").read_bytes()


def test_a_short_request_does_not_wait_for_a_long_one(mono_model: LoadedModel, tmp_path: Path) -> None:
    desk = Desk(mono_model)
    desk.add(generate(tmp_path / "long.wav", "long", duration_seconds=1.0))
    for _ in range(5):
        desk.step()
    desk.add(generate(tmp_path / "short.wav", "short", duration_seconds=0.1))
    assert list(desk.finish()) == ["short", "long"]
    assert desk.steps == 50 + 3


def test_requests_with_other_adapters_wait_and_none_overtakes(
    mono_model: LoadedModel, uses: list[list[AdapterUse]], tmp_path: Path
) -> None:
    desk = Desk(mono_model)
    for name, which in (("a", 1), ("b", 1), ("c", 0), ("d", 1)):
        desk.add(generate(tmp_path / f"{name}.wav", name, adapters=tuple(uses[which]), duration_seconds=0.1))
    desk.step()
    assert desk.begun == ["a", "b"]
    desk.stopped.add("d")
    desk.step()
    stopped = desk.ended.pop("d")
    assert isinstance(stopped, Rendering)
    assert (stopped.cancelled, stopped.frames, stopped.output) == (True, 0, None)
    assert list(desk.finish()) == ["a", "b", "c"]


@pytest.mark.parametrize("why", ["rows would mix", "no memory"])
def test_where_company_would_cost_something_takes_are_made_one_after_another(
    why: str, mono_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no memory":
        monkeypatch.setattr(company_module, "free_memory_bytes", lambda device: 0)
    else:
        monkeypatch.setattr(DecoderStep, "rows_agree", lambda self: False)
    desk = Desk(mono_model)
    for name in ("a", "b"):
        desk.add(generate(tmp_path / f"{name}.wav", name, duration_seconds=0.1))
    while "a" not in desk.ended:
        assert desk.begun in ([], ["a"])
        desk.step()
    assert list(desk.finish()) == ["a", "b"]
    assert all(isinstance(outcome, Rendering) for outcome in desk.ended.values())
    assert desk.steps == 2 * (5 + 3)


def test_a_take_that_fails_leaves_the_others_alone(mono_model: LoadedModel, tmp_path: Path) -> None:
    desk = Desk(mono_model)
    desk.add(generate(tmp_path / "bad.wav", "bad", guidance_scale=1e38))
    desk.add(generate(tmp_path / "good.wav", "good"))
    desk.add(generate(tmp_path / "refused.wav", "refused", temperature=-1.0))
    ended = desk.finish()
    bad, good, refused = (ended[name] for name in ("bad", "good", "refused"))
    assert isinstance(bad, EngineError)
    assert bad.error_code == NON_FINITE
    assert isinstance(refused, EngineError)
    assert "temperature" in refused.message
    assert isinstance(good, Rendering)
    render_alone(mono_model, generate(tmp_path / "good.wav"), tmp_path / "alone.wav")
    assert (tmp_path / "good.wav").read_bytes() == (tmp_path / "alone.wav").read_bytes()


def test_what_ends_a_step_ends_all_in_it_and_nothing_more(
    mono_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(mono_model)
    for name in ("a", "b"):
        desk.add(generate(tmp_path / f"{name}.wav", name))
    desk.step()
    with monkeypatch.context() as patch:
        patch.setattr(
            DecoderStep, "__call__", lambda *arguments: (_ for _ in ()).throw(torch.OutOfMemoryError("no"))
        )
        desk.step()
    assert all(isinstance(outcome, EngineError) for outcome in desk.ended.values())
    assert set(desk.ended) == {"a", "b"}
    desk.add(generate(tmp_path / "c.wav", "c"))
    assert isinstance(desk.finish()["c"], Rendering)


class Mixing(torch.nn.Module):
    """A projection whose rows hear of each other, as kernels that add up in another order make them."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(rows) * (1 + 1e-6 * (rows.shape[0] > FEWEST_ROWS))
        return result


@pytest.fixture
def mixing(mono: Path) -> LoadedModel:
    """The dwarf with one projection that depends on how many rows there are."""
    model = load_checkpoint(str(mono), device="cpu")
    layer = model.network.decoder.model.decoder.layers[-1]
    layer.fc2 = Mixing(layer.fc2)
    return model


def test_kernels_that_mix_rows_are_found(mixing: LoadedModel, mono_model: LoadedModel) -> None:
    assert not DecoderStep(mixing).rows_agree()
    # Where this machine's kernels do not: every test above would hold all the same, with takes one after another.
    assert DecoderStep(mono_model).rows_agree()


def test_steps_have_one_of_few_sizes() -> None:
    assert [padded(rows) for rows in (1, 2, 4, 5, 8, 9, 31, 32)] == [4, 4, 4, 8, 8, 16, 32, 32]
    assert padded(MOST_ROWS) == MOST_ROWS


def test_a_step_counts_in_equal_parts(demo: LoadedModel, tmp_path: Path) -> None:
    desk = Desk(demo)
    for name in ("a", "b", "c", "d"):
        desk.add(generate(tmp_path / f"{name}.wav", name, duration_seconds=1.0))
    for made in desk.finish().values():
        assert isinstance(made, Rendering)
        assert made.work_seconds < 0.7 * made.seconds.generate


def test_no_more_are_made_at_once_than_was_asked_for(demo: LoadedModel, tmp_path: Path) -> None:
    desk = Desk(demo)
    desk.company = Company(demo, Attachment(), most=2)
    for name in ("a", "b", "c"):
        desk.add(generate(tmp_path / f"{name}.wav", name, duration_seconds=0.2))
    desk.step()
    assert desk.begun == ["a", "b"]
    assert desk.finish().keys() == {"a", "b", "c"}

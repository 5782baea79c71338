"""The child process: what it remembers, what it refuses, and that it survives what is thrown at it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from gated_configs.memory import Calculator, CalculatorError, CalculatorUnavailable, LimitExceeded, child
from tests.memory.conftest import sample_config


@pytest.fixture(scope="module")
def calculator() -> Iterator[Calculator]:
    calculator = Calculator()
    calculator.describe(sample_config("llama-3-8b"))
    yield calculator
    calculator.close()


#: Passes the ranges and is too much all the same: millions of modules.
ENDLESS: dict[str, Any] = {
    "model_type": "nllb-moe",
    "d_model": 64,
    "encoder_layers": 1024,
    "decoder_layers": 1024,
    "num_experts": 8192,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_sparse_step": 1,
    "decoder_sparse_step": 1,
}


def _processor_seconds(calculator: Calculator) -> float:
    """What the process and its forks have used, on however busy a machine."""
    time.sleep(0.1)  # until the last fork has been seen to
    spent = psutil.Process(calculator.process_id).cpu_times()
    return float(spent.user + spent.system + spent.children_user + spent.children_system)


def test_the_same_config_again_takes_no_time(calculator: Calculator) -> None:
    config = sample_config("llama-3.1-405b")
    first = calculator.describe(config)
    started = time.perf_counter()
    again = calculator.describe(dict(reversed(config.items())))
    assert time.perf_counter() - started < 0.005
    assert again is first


def test_another_model_is_quick(calculator: Calculator) -> None:
    config = sample_config("llama-3.1-405b")
    laps = []
    for number in range(4):
        before = _processor_seconds(calculator)
        calculator.describe({**config, "vocab_size": 128_256 + number})
        laps.append(_processor_seconds(calculator) - before)
    assert min(laps) < 0.25


def test_a_killed_child_is_replaced(calculator: Calculator) -> None:
    pid = calculator.process_id
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    config = {**sample_config("llama-3-8b"), "vocab_size": 1000}
    assert calculator.describe(config).parameters.total > 0
    assert calculator.process_id not in {None, pid}


@pytest.mark.parametrize(
    "config",
    [
        ENDLESS,
        {
            "model_type": "switch_transformers",
            "d_model": 64,
            "num_layers": 1024,
            "num_heads": 4,
            "num_experts": 8192,
            "num_sparse_encoder_layers": 1024,
            "num_decoder_layers": 1024,
            "num_sparse_decoder_layers": 1024,
        },
    ],
    ids=lambda config: config["model_type"],
)
def test_a_config_that_builds_for_ever_is_stopped(calculator: Calculator, config: dict[str, Any]) -> None:
    pid = calculator.process_id
    before = _processor_seconds(calculator)
    with pytest.raises(LimitExceeded, match="more time than a calculation may have"):
        calculator.describe({**config, "again": before})
    assert _processor_seconds(calculator) - before < 2
    assert calculator.process_id == pid, "it harms nobody else's question"
    assert calculator.describe(sample_config("qwen3-0.6b")).parameters.total == 596_049_920


def test_nobody_waits_behind_a_slow_config(calculator: Calculator) -> None:
    order: list[str] = []

    def ask_slowly() -> None:
        with pytest.raises(LimitExceeded):
            calculator.describe({**ENDLESS, "beside": 1})
        order.append("slow")

    calculator.describe(
        {**ENDLESS, "model_type": "nllb-moe", "encoder_layers": 1, "decoder_layers": 1, "num_experts": 2}
    )
    slow = threading.Thread(target=ask_slowly)
    slow.start()
    assert _forks(calculator)
    calculator.describe({**sample_config("llama-3-8b"), "vocab_size": 2000})
    order.append("quick")
    slow.join()
    assert order == ["quick", "slow"]


def test_a_killed_computation_is_a_limit_and_harms_no_other(calculator: Calculator) -> None:
    refused: list[CalculatorError] = []

    def ask() -> None:
        try:
            calculator.describe({**ENDLESS, "killed": 1})
        except CalculatorError as error:
            refused.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    for fork in _forks(calculator):
        fork.kill()
    asking.join()
    assert isinstance(refused[0], LimitExceeded)
    # On a busy machine its time may be over before the kill arrives.
    assert "than a calculation may have" in str(refused[0])
    assert calculator.describe({**sample_config("llama-3-8b"), "vocab_size": 3000}).parameters.total > 0


def _forks(calculator: Calculator) -> list[psutil.Process]:
    """The computations that run, once there is one."""
    process = psutil.Process(calculator.process_id)
    for _ in range(3000):
        forks: list[psutil.Process] = process.children()
        if forks:
            return forks
        time.sleep(0.01)
    pytest.fail("nothing is computed")


def test_the_first_answer_may_take_as_long_as_starting_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(child, "_LIMIT_REMEMBERED_SECONDS", -1.0)
    slow = Calculator()
    try:
        slow.warm_up()
        assert slow.process_id is not None
        assert slow.describe(sample_config("llama-3-8b")).parameters.total > 0
        with pytest.raises(LimitExceeded, match="took too long"):
            slow.describe(sample_config("gpt2"))
        # The machine may have been busy: such a limit is not kept for long. Another process answers meanwhile.
        assert slow.describe(sample_config("gpt2")).parameters.total == 124_439_808
    finally:
        slow.close()


def test_a_process_that_never_starts_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gated_configs.memory.child.sys.executable", "/bin/false")
    with pytest.raises(CalculatorUnavailable, match="as soon as it is started"):
        Calculator().describe(sample_config("gpt2"))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "no-such-function"},
        {"rope_scaling": {"rope_type": "no-such-kind", "factor": 2.0}},
        {"hidden_size": [1, 2]},
        {"rms_norm_eps": "text"},
        {"model_type": "timm_wrapper", "architecture": "resnet18"},
        {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}, "hidden_act": "evil"},
        {"architectures": [7, None]},
    ],
)
def test_what_no_check_foresaw_is_answered_or_refused(
    calculator: Calculator, changes: dict[str, Any]
) -> None:
    with contextlib.suppress(CalculatorError):
        calculator.describe({**sample_config("llama-3-8b"), **changes})
    assert calculator.process_id is not None


def test_code_named_in_a_config_is_never_looked_for(calculator: Calculator) -> None:
    plain = sample_config("llama-3-8b")
    with_code = {
        **plain,
        "auto_map": {"AutoModel": "os.system"},
        "trust_remote_code": True,
        "_attn_implementation": "flash_attention_2",
        "attn_implementation": "someone/kernel",
    }
    assert calculator.describe(with_code).parameters == calculator.describe(plain).parameters

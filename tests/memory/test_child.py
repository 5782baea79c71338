"""The child process: what it remembers, what it refuses, and that it survives what is thrown at it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gated_configs.memory import Calculator, CalculatorError, LimitExceeded, UnsupportedArchitecture
from tests.memory.conftest import sample_config


@pytest.fixture(scope="module")
def calculator() -> Iterator[Calculator]:
    calculator = Calculator()
    calculator.describe(sample_config("llama-3-8b"))
    yield calculator
    calculator.close()


def _fastest(calculator: Calculator, configs: list[dict[str, Any]]) -> float:
    laps = []
    for config in configs:
        started = time.perf_counter()
        calculator.describe(config)
        laps.append(time.perf_counter() - started)
    return min(laps)


def test_the_same_config_again_takes_no_time(calculator: Calculator) -> None:
    config = sample_config("llama-3.1-405b")
    first = calculator.describe(config)
    started = time.perf_counter()
    again = calculator.describe(dict(reversed(config.items())))
    assert time.perf_counter() - started < 0.005
    assert again is first


def test_another_model_is_quick(calculator: Calculator) -> None:
    config = sample_config("llama-3.1-405b")
    # The fastest of some: this machine may be busy with something else.
    assert _fastest(calculator, [{**config, "vocab_size": 128_256 + n} for n in range(6)]) < 0.25


def test_a_killed_child_is_replaced(calculator: Calculator) -> None:
    pid = calculator.process_id
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    config = {**sample_config("llama-3-8b"), "vocab_size": 1000}
    assert calculator.describe(config).parameters.total > 0
    assert calculator.process_id not in {None, pid}


@pytest.mark.parametrize(
    "changes",
    [
        # Each passes the ranges and is too much all the same: a million modules.
        {
            "model_type": "nllb-moe",
            "d_model": 64,
            "encoder_layers": 1024,
            "decoder_layers": 1024,
            "num_experts": 8192,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_sparse_step": 1,
            "decoder_sparse_step": 1,
        },
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
)
def test_a_config_that_builds_for_ever_is_stopped(calculator: Calculator, changes: dict[str, Any]) -> None:
    started = time.process_time()
    with pytest.raises((LimitExceeded, UnsupportedArchitecture)):
        calculator.describe(changes)
    assert time.process_time() - started < 1
    assert calculator.describe(sample_config("qwen3-0.6b")).parameters.total == 596_049_920


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

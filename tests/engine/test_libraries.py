"""A runner imports less than transformers would, and whoever needs the rest still gets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.conftest import DEMO, ROOT

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

#: Imports as a runner does, and loads and plays the demo.
_PLAY = """
import sys
from generation.engine import libraries
libraries._MODULES += {further!r}
libraries.import_libraries()
from generation.engine.checkpoint import load_checkpoint
from generation.engine.protocol import Generate
from generation.engine.company import render
model = load_checkpoint({checkpoint!r}, device="cpu")
wanted = Generate(request="a", prompt="slow piano", duration_seconds=0.1, seed=1, output={output!r})
render(model, wanted, on_stage=lambda *_: None, should_stop=lambda: False)
"""

_LESS = """
import torch, transformers
assert "torch.distributed.tensor" not in sys.modules
assert "torch._dynamo.symbolic_convert" not in sys.modules
assert not {"accelerate", "sympy"} & {*sys.modules}
assert type(transformers).__name__ == "_Unopened" == type(transformers.models).__name__
"""

_REST = """
from transformers import BertConfig, T5Config
assert T5Config is type(model.network.config.text_encoder)
assert BertConfig().model_type == transformers.BertConfig.model_type == "bert"
assert transformers.models.bert.BertConfig is BertConfig
assert not hasattr(transformers, "no_such_name")
assert not torch._dynamo.is_compiling()
assert {"torch._dynamo.symbolic_convert", "sympy"} <= {*sys.modules}
assert torch._meta_registrations.meta_index_Tensor
assert torch.compiler.disable(len) is not len
assert not hasattr(torch._dynamo, "no_such_name")
"""

_WHOLE = """
import transformers
assert type(transformers).__name__ == "_LazyModule"
"""


def played(tmp_path: Path, *checks: str, further: tuple[str, ...] = ()) -> tuple[bytes, str]:
    """What a process of its own made, and what it said, once it passed the checks."""
    output = tmp_path / "take.wav"
    script = _PLAY.format(checkpoint=str(DEMO), output=str(output), further=further)
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join([script, *checks])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return output.read_bytes(), ended.stderr


def test_a_runner_imports_no_compiler_and_no_distribution_until_asked(tmp_path: Path) -> None:
    less, _ = played(tmp_path, _LESS, _REST)
    whole, said = played(tmp_path, _WHOLE, further=("transformers.no_such_module",))
    assert "Importing everything" in said
    assert "no_such_module" in said
    assert less == whole


def start_of_a_runner(*options: str, **environment: str) -> str:
    """What a runner writes to stderr that is started and given nothing to do."""
    inherited = {name: value for name, value in os.environ.items() if name not in WAITING}
    ended = subprocess.run(
        [sys.executable, *options, "-m", "generation.engine"],
        cwd=ROOT,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert '"event": "started"' in ended.stdout, ended.stderr[-2000:]
    return ended.stderr


def test_the_runner_starts_so() -> None:
    said = start_of_a_runner("-X", "importtime")
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines()}
    assert "transformers.modeling_utils" in imported
    assert (
        not {"torch._dynamo.symbolic_convert", "torch.distributed.tensor", "accelerate", "sympy"} & imported
    )


@pytest.mark.parametrize(
    ("given", "looks"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is Linux's")
def test_its_threads_wait_for_each_other_as_long_as_is_good(given: dict[str, str], looks: str | None) -> None:
    said = start_of_a_runner(**given, OMP_DISPLAY_ENV="verbose")  # as libgomp understood it
    assert f"OMP_WAIT_POLICY = '{'ACTIVE' if looks is None else 'PASSIVE'}'" in said
    assert (f"GOMP_SPINCOUNT = '{looks or 1000}'" in said) == (looks is not None)

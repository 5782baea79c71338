"""The lines between studio and runner."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.engine.protocol import (
    AdapterUse,
    Cancel,
    Command,
    Event,
    Generate,
    Load,
    LoadFinished,
    LoadProgress,
    ProtocolError,
    RequestFinished,
    StageSeconds,
    Started,
    decode_command,
    decode_event,
)

ENGINE = Path(__file__).resolve().parents[2] / "generation" / "engine"
STUDIO = {
    "django",
    "channels",
    "ninja",
    "adapters",
    "gated_configs",
    "generation",
    "musicgen_site",
    "registry",
}
MESSAGES = st.one_of(*(st.from_type(cls) for cls in get_args(Command | Event)))


@given(MESSAGES.filter(lambda message: "nan" not in repr(message) and "inf" not in repr(message)))
def test_every_message_survives_the_wire(message: Command | Event) -> None:
    line = message.encode()
    assert "\n" not in line
    assert line.isascii()
    decode = decode_command if isinstance(message, get_args(Command)) else decode_event
    assert decode(line) == message
    assert decode(line.encode() + b"\n") == message


def test_a_command_has_the_form_of_the_contract() -> None:
    command = Generate(
        request="7", prompt="Größe\n", duration_seconds=5, seed=3, output="/takes/7.wav", temperature=0.5
    )
    assert json.loads(command.encode()) == {
        "command": "generate",
        "request": "7",
        "prompt": "Größe\n",
        "duration_seconds": 5,
        "seed": 3,
        "guidance_scale": 3.0,
        "temperature": 0.5,
        "top_k": 250,
        "top_p": 0.0,
        "greedy": False,
        "adapters": [],
        "live": None,
        "window_seconds": None,
        "stride_seconds": None,
        "beginning": None,
        "beginning_seconds": None,
        "reference": "",
        "output": "/takes/7.wav",
    }


def test_an_event_carries_its_parts() -> None:
    event = RequestFinished(
        request="7",
        cancelled=False,
        frames=250,
        duration_seconds=5.0,
        sample_rate=16_000,
        channels=1,
        output=None,
        seconds=StageSeconds(encode=0.1, generate=2.0, decode=0.3),
    )
    content = json.loads(event.encode())
    assert content["event"] == "request.finished"
    assert content["seconds"] == {"encode": 0.1, "generate": 2.0, "decode": 0.3}
    assert decode_event(event.encode()).seconds.generate == 2.0  # type: ignore[union-attr]


def test_a_request_carries_its_adapters() -> None:
    use = AdapterUse(path="/a.safetensors", sha256="ab", config='{"r": 4}', strength=0.5, name="Jazz")
    command = Generate(
        request="7", prompt="", duration_seconds=5, seed=3, output="/takes/7.wav", adapters=[use, use]
    )
    content = json.loads(command.encode())
    assert content["adapters"][1] == {
        "path": "/a.safetensors",
        "sha256": "ab",
        "config": '{"r": 4}',
        "strength": 0.5,
        "name": "Jazz",
    }
    assert decode_command(command.encode()) == command


@pytest.mark.parametrize(
    ("adapters", "complaint"),
    [
        ({}, r"generate\.adapters must be a list, got {}"),
        ([7], r"generate\.adapters\[0\] must be an object, got 7"),
        ([{"path": "/a"}], r"generate\.adapters\[0\] lacks a field"),
        ([{"path": "/a", "sha256": "", "config": {}}], r"generate\.adapters\[0\]\.config must be text"),
    ],
)
def test_it_says_what_is_wrong_with_an_adapter(adapters: object, complaint: str) -> None:
    content = {"command": "generate", "request": "a", "prompt": "", "duration_seconds": 1, "seed": 1}
    with pytest.raises(ProtocolError, match=complaint):
        decode_command(json.dumps({**content, "output": "/a.wav", "adapters": adapters}))


def test_it_takes_a_whole_number_for_a_real_one_but_not_the_reverse() -> None:
    line = (
        '{"command":"generate","request":"a","prompt":"","duration_seconds":5,"seed":SEED,"output":"/a.wav"}'
    )
    command = decode_command(line.replace("SEED", "7"))
    assert isinstance(command, Generate)
    assert isinstance(command.duration_seconds, float)
    with pytest.raises(ProtocolError, match=r"generate\.seed must be a whole number, got 7\.5"):
        decode_command(line.replace("SEED", "7.5"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "not JSON"),
        ("load", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("null", "not a JSON object"),
        ("{}", "unknown command None"),
        ('{"command": ["load"]}', "unknown command"),
        ('{"command": "dance"}', "unknown command 'dance'; known are load, generate, prove, cancel, unload"),
        ('{"command": "cancel"}', "cancel lacks a field it needs, one of request"),
        ('{"command": "cancel", "request": 3}', r"cancel\.request must be text, got 3"),
        ('{"command": "cancel", "request": "a", "now": true}', "cancel has no field 'now'"),
        ('{"command": "load", "checkpoint": null}', r"load\.checkpoint must be text"),
        ('{"command": "load", "checkpoint": "a", "revision": 1}', r"load\.revision must be text"),
    ],
)
def test_it_says_what_is_wrong_with_a_line(line: str | bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        decode_command(line)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "true", '"5"', "1" + "0" * 400])
def test_it_refuses_what_is_no_finite_number(number: str) -> None:
    line = f'{{"event": "load.progress", "stage": "preparing", "fraction": {number}}}'
    with pytest.raises(ProtocolError):
        decode_event(line)


def test_it_refuses_an_unknown_stage() -> None:
    with pytest.raises(ProtocolError, match="must be one of downloading, reading weights, preparing"):
        decode_event('{"event": "load.progress", "stage": "thinking"}')


def test_it_never_sends_what_is_not_json() -> None:
    with pytest.raises(ProtocolError, match=r"load\.progress cannot be sent"):
        LoadProgress(stage="preparing", fraction=float("nan")).encode()


def test_commands_and_events_are_told_apart() -> None:
    with pytest.raises(ProtocolError, match="unknown event None"):
        decode_event(Load(checkpoint="a").encode())
    with pytest.raises(ProtocolError, match="unknown command None"):
        decode_command(Started(pid=1, versions={}).encode())


def test_a_missing_optional_field_takes_its_default() -> None:
    assert decode_command('{"command": "load", "checkpoint": "a"}') == Load(checkpoint="a")
    assert decode_command('{"command": "cancel", "request": "a"}') == Cancel(request="a")
    with pytest.raises(ProtocolError, match=r"load\.finished lacks a field"):
        decode_event('{"event": "load.finished"}')
    assert LoadFinished.NAME == "load.finished"


def test_importing_it_imports_neither_torch_nor_django() -> None:
    code = (
        "import sys, generation.engine, generation.engine.protocol, generation.engine.frames;"
        "print(sorted({'torch', 'transformers', 'numpy', 'django'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def test_the_engine_imports_nothing_of_the_studio() -> None:
    for path in ENGINE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name.startswith(("generation.engine", "adapters.format.", "registry.number_formats"))
                assert own or name.split(".")[0] not in STUDIO, f"{path.name} imports {name}"

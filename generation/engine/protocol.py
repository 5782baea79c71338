"""The messages between a studio process and a runner: one JSON object a line, commands in, events out.

Both sides use these dataclasses. Must not import torch or Django: the web process imports this module.
"""

from __future__ import annotations

import contextlib
import json
import math
import types
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

# Error codes of `load.failed`.
CHECKPOINT_NOT_FOUND: Final = "CHECKPOINT_NOT_FOUND"
CHECKPOINT_UNSUPPORTED: Final = "CHECKPOINT_UNSUPPORTED"
CHECKPOINT_CORRUPT: Final = "CHECKPOINT_CORRUPT"
HUB_UNREACHABLE: Final = "HUB_UNREACHABLE"
GATED: Final = "GATED"
# Error codes of `request.failed`.
INVALID_REQUEST: Final = "INVALID_REQUEST"
NON_FINITE: Final = "NON_FINITE"
BEGINNING_UNREADABLE: Final = "BEGINNING_UNREADABLE"
REFERENCE_UNREADABLE: Final = "REFERENCE_UNREADABLE"
DISK_ERROR: Final = "DISK_ERROR"
ADAPTER_NOT_FOUND: Final = "ADAPTER_NOT_FOUND"
ADAPTER_BROKEN: Final = "ADAPTER_BROKEN"
ADAPTER_MISMATCH: Final = "ADAPTER_MISMATCH"
ADAPTER_UNSUPPORTED: Final = "ADAPTER_UNSUPPORTED"
ADAPTER_NO_EFFECT: Final = "ADAPTER_NO_EFFECT"
# Error codes of both.
OUT_OF_MEMORY: Final = "OUT_OF_MEMORY"
ENGINE_ERROR: Final = "ENGINE_ERROR"

LoadStage = Literal["downloading", "reading weights", "preparing"]
RequestStage = Literal["encoding", "generating", "decoding"]

DEVICES: Final = ("auto", "cpu", "cuda", "mps")
DTYPES: Final = ("auto", "float32", "bfloat16", "float16", "int8", "int4")

# T5 reads prompts of any length, at a cost that grows with its square. Official models were trained on far
# shorter ones. A longer prompt is refused with both figures rather than cut in silence.
MAX_PROMPT_TOKENS: Final = 512

#: A take that goes on from other audio is heard early from so long before what is new.
LIVE_LEAD_SECONDS: Final = 1.0


class ProtocolError(ValueError):
    """A line that is not a message of this protocol. The text says what is wrong with it."""


class _Message:
    """A frozen dataclass with a name on the wire, of one of two kinds."""

    KIND: ClassVar[str]
    NAME: ClassVar[str]

    def encode(self) -> str:
        """One line of JSON, without its end; raises ProtocolError for what JSON cannot carry, such as NaN."""
        try:
            return json.dumps({self.KIND: self.NAME, **_plain(self)}, allow_nan=False)
        except ValueError as error:
            raise ProtocolError(f"{self.NAME} cannot be sent: {error}") from error


class _Command(_Message):
    KIND = "command"


class _Event(_Message):
    KIND = "event"


# --- commands ---


@dataclass(frozen=True, kw_only=True)
class Load(_Command):
    """Load one checkpoint; a runner holds one for its whole life."""

    NAME = "load"

    checkpoint: str  # folder, or hub id such as facebook/musicgen-small
    revision: str | None = None  # branch, tag or commit on the hub
    device: str = "auto"
    dtype: str = "auto"
    kept: str = ""  # folder for what is compiled and measured once for a processor; empty for none
    takes_at_once: int | None = None  # most that are made side by side; None for no bound


@dataclass(frozen=True, kw_only=True)
class AdapterUse:
    """One adapter as a request wants it: which weights, how they were trained, and how strongly they act."""

    path: str  # safetensors file
    sha256: str  # of that file, in hex; another content is refused
    config: str  # its adapter_config.json as text
    strength: float = 1.0  # times its difference to the base; 0 is the base bit for bit
    name: str = ""  # for people


@dataclass(frozen=True, kw_only=True)
class Generate(_Command):
    """Make one take and write it to `output` as a float32 WAV file."""

    NAME = "generate"

    request: str  # opaque id, comes back in every event about this request
    prompt: str
    duration_seconds: float
    seed: int
    output: str  # absolute path that ends in .wav
    guidance_scale: float = 3.0  # 1 = no guidance
    temperature: float = 1.0
    top_k: int = 250  # 0 = off
    top_p: float = 0.0  # 0 or 1 = off
    greedy: bool = False
    adapters: list[AdapterUse] = field(default_factory=list)  # exactly these; none is the base
    # A take longer than `window_seconds` is made in windows that overlap, each `stride_seconds` after the one before.
    window_seconds: float | None = None  # None for no bound
    stride_seconds: float | None = None
    # A sound file whose first seconds the take begins with; `duration_seconds` follow them.
    beginning: str | None = None  # absolute path
    beginning_seconds: float | None = None
    # A sound file whose melody the take follows, for a melody model: absolute path, or empty for none. It begins again
    # where it ends before the take does; of a longer one only what the take can follow is read.
    reference: str = ""
    live: str | None = (
        None  # path, without an ending, of the chunks to be heard while it is made; None for none
    )


@dataclass(frozen=True, kw_only=True)
class Prove(_Command):
    """Measure on a fixed input what an adapter does to the loaded model; its strength in `adapter` is ignored."""

    NAME = "prove"

    request: str  # opaque id, comes back in the answer
    adapter: AdapterUse


@dataclass(frozen=True, kw_only=True)
class Cancel(_Command):
    """Stop a request within a step; what was made so far is kept. An unknown id is ignored."""

    NAME = "cancel"

    request: str


@dataclass(frozen=True, kw_only=True)
class Unload(_Command):
    """Drop the model and everything that is running or waiting, and exit with status 0."""

    NAME = "unload"


# --- events ---


@dataclass(frozen=True, kw_only=True)
class Started(_Event):
    """The runner's libraries are imported; it now reads commands."""

    NAME = "started"

    pid: int
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class LoadProgress(_Event):
    """A stage of loading; `fraction` is None where nothing is known about its length."""

    NAME = "load.progress"

    stage: LoadStage
    fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class LoadFinished(_Event):
    """The checkpoint is loaded and can generate."""

    NAME = "load.finished"

    device: str
    device_name: str
    dtype: str
    sample_rate: int  # samples per second and channel
    frame_rate: int  # frames per second
    channels: int
    codebooks: int
    parameters: int
    weight_bytes: int
    model_type: str
    revision: str | None  # commit on the hub, None for a folder
    seconds: float
    memory_bytes: int  # held on the device; on a CPU the resident size of the runner
    kernels: str = (
        ""  # "torch", or "compiled" and what stands for the text and the processor; on a card "captured", too
    )
    no_kernels: str = (
        ""  # why there are none, or steps are not captured on a card: a sentence for people; else empty
    )
    no_kernels_detail: str = ""  # technical text


@dataclass(frozen=True, kw_only=True)
class LoadFailed(_Event):
    """The checkpoint could not be loaded; the runner exits with status 1 after this."""

    NAME = "load.failed"

    error_code: str
    message: str  # a sentence for people that says what to do
    detail: str = ""  # technical text


@dataclass(frozen=True, kw_only=True)
class RequestProgress(_Event):
    """How far a request has come. The first comes at once, then at most ten a second."""

    NAME = "request.progress"

    request: str
    stage: RequestStage
    frames_done: int
    frames_total: int


@dataclass(frozen=True, kw_only=True)
class RequestAudio(_Event):
    """The next part of a take that is being made lies in a file: 16-bit little-endian samples, channels in turn.

    Chunks follow each other without a gap; together they are the take, but for loudness: see `live.py`. One that goes on
    from other audio begins with the last LIVE_LEAD_SECONDS of that. Whoever reads this owns the file. A take whose codec
    or disk cannot do it goes on without.
    """

    NAME = "request.audio"

    request: str
    chunk: int  # counts from 0
    path: str
    is_last: bool


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Wall-clock seconds one request spent in each stage."""

    encode: float = 0.0
    generate: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RequestFinished(_Event):
    """A request ended with all of its frames, or with those made before it was cancelled."""

    NAME = "request.finished"

    request: str
    cancelled: bool
    frames: int
    duration_seconds: float  # of the audio written
    sample_rate: int
    channels: int
    output: str | None  # None when cancelled before any frame was complete
    seconds: StageSeconds = field(default_factory=StageSeconds)
    work_seconds: float = 0.0  # of those its own: a step of several takes counts in equal parts


@dataclass(frozen=True, kw_only=True)
class Proved(_Event):
    """An adapter fits the loaded model and changes it. One that does not ends in `request.failed`."""

    NAME = "proved"

    request: str
    tensors_expected: int  # of the adapter's file
    tensors_matched: int  # of those, how many found their place
    logit_change: float  # mean absolute change of the logits at strength 1
    logit_change_at_zero: float  # the same at strength 0
    logit_change_after: float  # the same after detaching
    seconds: float
    notes: list[str] = field(default_factory=list)  # sentences for people


@dataclass(frozen=True, kw_only=True)
class RequestFailed(_Event):
    """A request ended without audio or proof; the runner stays usable."""

    NAME = "request.failed"

    request: str
    error_code: str
    message: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Refused(_Event):
    """A line that was no command of this protocol, or that made no sense where it came."""

    NAME = "refused"

    message: str
    request: str | None = None  # the one that the line named, where it could be read that far


Command = Load | Generate | Prove | Cancel | Unload
Event = (
    Started
    | LoadProgress
    | LoadFinished
    | LoadFailed
    | RequestProgress
    | RequestAudio
    | RequestFinished
    | Proved
    | RequestFailed
    | Refused
)

_COMMANDS: Final[dict[str, type[_Message]]] = {cls.NAME: cls for cls in get_args(Command)}
_EVENTS: Final[dict[str, type[_Message]]] = {cls.NAME: cls for cls in get_args(Event)}


def request_named_in(line: str | bytes) -> str | None:
    """The request that a line names, which may be wrong in every other way."""
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(line)
        if isinstance(content, dict) and isinstance(content.get("request"), str):
            return str(content["request"])
    return None


def decode_command(line: str | bytes) -> Command:
    """Read one command from a line; raises ProtocolError with a sentence for anything else."""
    command: Command = _decode("command", _COMMANDS, line)
    return command


def decode_event(line: str | bytes) -> Event:
    """Read one event from a line; raises ProtocolError with a sentence for anything else."""
    event: Event = _decode("event", _EVENTS, line)
    return event


# --- JSON ---

_T = TypeVar("_T")
#: Dataclasses that stand inside messages.
_PARTS: Final = (StageSeconds, AdapterUse)


def _plain(message: Any) -> dict[str, Any]:
    return {each.name: _plain_value(getattr(message, each.name)) for each in fields(message)}


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(each) for each in value]
    return _plain(value) if isinstance(value, _PARTS) else value


def _decode(kind: str, classes: dict[str, type[_Message]], line: str | bytes) -> Any:
    try:
        text = line.decode("utf-8") if isinstance(line, bytes) else line
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ProtocolError(f"the line is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ProtocolError(f"the line is not a JSON object but {type(content).__name__}")
    name = content.pop(kind, None)
    cls = classes.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ProtocolError(f"unknown {kind} {name!r}; known are {', '.join(classes)}")
    return _build(cls, content, where=cls.NAME)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _build(cls: type[_T], content: dict[str, Any], *, where: str) -> _T:
    hints = get_type_hints(cls)
    known = {each.name for each in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(content.keys() - known):
        raise ProtocolError(f"{where} has no field {unknown[0]!r}")
    values = {name: _checked(hints[name], value, f"{where}.{name}") for name, value in content.items()}
    try:
        return cls(**values)
    except TypeError as error:
        missing = [each.name for each in fields(cls) if each.name not in values]  # type: ignore[arg-type]
        raise ProtocolError(f"{where} lacks a field it needs, one of {', '.join(missing)}") from error


def _checked(hint: Any, value: Any, where: str) -> Any:
    """The value as the hint wants it. Strict, but for a whole number where a real one is expected."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        (hint,) = (each for each in get_args(hint) if each is not type(None))
        return _checked(hint, value, where)
    if origin is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        raise ProtocolError(f"{where} must be one of {', '.join(get_args(hint))}")
    if origin is dict:
        if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
            return value
    elif origin is list:
        if isinstance(value, list):
            (item,) = get_args(hint)
            return [_checked(item, each, f"{where}[{place}]") for place, each in enumerate(value)]
        hint = list
    elif hint in _PARTS:
        if isinstance(value, dict):
            return _build(hint, value, where=where)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):  # 1e999 is valid JSON and reads as infinity
                return number
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(value, hint):
        return value
    raise ProtocolError(f"{where} must be {_described(hint)}, got {_shortened(value)}")


def _described(hint: Any) -> str:
    names = {
        str: "text",
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        list: "a list",
    }
    return names.get(hint, "an object")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

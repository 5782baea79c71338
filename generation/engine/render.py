"""Makes one take from one request: checks it, encodes the prompt, decodes the codes and writes them.

The stages of a take, their times and their errors live here; who makes the codes, and beside whom, does not.
"""

from __future__ import annotations

import errno
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from generation.engine.audio import Samples, write_wav
from generation.engine.beginning import Beginning, joined, read_beginning
from generation.engine.checkpoint import LoadedModel
from generation.engine.chunks import can_be_chunked, decode_take
from generation.engine.decode import CodesRequest
from generation.engine.errors import EngineError
from generation.engine.frames import frames_for
from generation.engine.live import LiveAudio, OnAudio
from generation.engine.memory import is_out_of_memory
from generation.engine.prompt import encode_prompt
from generation.engine.protocol import (
    DISK_ERROR,
    ENGINE_ERROR,
    INVALID_REQUEST,
    NON_FINITE,
    OUT_OF_MEMORY,
    Generate,
    RequestStage,
    StageSeconds,
)
from generation.engine.reference import read_reference
from generation.engine.sampling import Sampling

logger = logging.getLogger(__name__)

OnStage = Callable[[RequestStage, int, int], None]  # stage, frames done, frames in all


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What became of a request that did not fail."""

    cancelled: bool
    frames: int
    duration_seconds: float
    output: Path | None
    seconds: StageSeconds
    work_seconds: float


_OUT_OF_MEMORY_MESSAGE = (
    "There was not enough memory for this take. Make it shorter, switch guidance off, or use a smaller model."
)
_DISK_MESSAGE = "The disk is full. Free some space in the studio's folder and try again."
_TOO_STRONG_MESSAGE = (
    "With these adapters the model's output stopped being a number. Use a lower strength, or fewer of them."
)
_ENGINE_ERROR_MESSAGE = "Generating failed inside the engine. The details say where; try again."


class Making:
    """One take on its way. In this order: `encode`, a batch that makes the codes, `conclude`; or nothing but `none_made`.

    All of them may raise whatever torch and the disk raise: `explained` says it as an EngineError.
    """

    def __init__(self, request: Generate, on_stage: OnStage, on_audio: OnAudio | None = None) -> None:
        """Raises EngineError INVALID_REQUEST for what no model can do."""
        _check(request)
        self.request = request
        self._on_stage, self._on_audio = on_stage, on_audio
        self._live: LiveAudio | None = None
        self._beginning: Beginning | None = None
        self._seconds = dict.fromkeys(("encode", "generate", "decode"), 0.0)
        self._step_seconds = self._live_seconds = 0.0

    def encode(self, model: LoadedModel) -> CodesRequest:
        """What the codes are made from, with the model that makes them."""
        self.model, request = model, self.request
        self._frames = frames_for(request.duration_seconds, model.frame_rate)
        self._window, stride = _windows(request, model)
        self._clock = _Clock()
        self._on_stage("encoding", 0, self._frames)
        if request.beginning and request.beginning_seconds:
            self._beginning = read_beginning(
                model,
                request.beginning,
                seconds=request.beginning_seconds,
                most=None if self._window is None else self._window - stride,
            )
        if request.live and self._on_audio is not None and can_be_chunked(model):
            self._live = LiveAudio(model, request.live, self._on_audio, self._beginning)
        conditioning = encode_prompt(model, request.prompt, request.guidance_scale, self._pitches(model))
        self._seconds["encode"] = self._clock.lap()
        return CodesRequest(
            conditioning=conditioning,
            frames=self._known + self._frames,
            beginning=self._beginning.codes if self._beginning else None,
            seed=request.seed,
            window=self._window,
            stride=stride,
            sampling=Sampling(
                temperature=request.temperature,
                top_k=request.top_k,
                top_p=request.top_p,
                greedy=request.greedy,
            ),
        )

    def _pitches(self, model: LoadedModel) -> Tensor | None:
        """Those of the clip that the take follows, [T, bins]: as far as its last window reads."""
        if not self.request.reference:
            return None
        frames = self._known + self._frames
        beyond = max(0, frames - (self._window or frames)) / model.frame_rate
        return read_reference(model, self.request.reference, beyond_seconds=beyond)

    @property
    def _known(self) -> int:
        """Frames that are there before any is made."""
        return self._beginning.codes.shape[1] if self._beginning else 0

    def begun(self) -> None:
        """Its codes are made from now on."""
        self._clock.lap()
        self.further(self._known, 0.0)

    def further(self, frames: int, seconds: float) -> None:
        """So many frames are complete, after a step of which so many seconds were its part."""
        self._step_seconds += seconds
        self._on_stage("generating", frames - self._known, self._frames)

    def waiting(self, frames: int) -> int:
        """With so many frames complete: how many can be heard beyond those that make up a chunk; below 0 for none."""
        return self._live.waiting(frames) if self._live is not None else -1

    def tell(self, codes: Tensor) -> None:
        """Let the next chunk be heard, given all codes [K, T] so far."""
        began = time.perf_counter()
        self._live_or_not(lambda live: live.tell(codes))
        self._live_seconds += time.perf_counter() - began

    def _live_or_not(self, tell: Callable[[LiveAudio], None]) -> None:
        """Whatever goes wrong with what is heard early, the take itself is made."""
        if self._live is not None:
            try:
                tell(self._live)
            except Exception:  # no memory, no disk
                logger.exception("%s goes on without being heard early", self.request.request)
                self._live = None

    def conclude(self, codes: Tensor) -> Rendering:
        """Write the frames that there are, codes [K, T]."""
        self._seconds["generate"] = self._clock.lap()
        model, made, output = self.model, codes.shape[1] - self._known, None
        duration_seconds = 0.0
        if made:
            self._on_stage("decoding", made, self._frames)
            output = Path(self.request.output)
            samples = self._samples(codes)
            if self._beginning is not None:
                samples = joined(model, self._beginning, samples)
            duration_seconds = samples.shape[1] / model.sample_rate
            write_wav(output, samples, model.sample_rate)
            self._live_or_not(lambda live: live.conclude(samples))
        self._seconds["decode"] = self._clock.lap()
        return Rendering(
            cancelled=made < self._frames,
            frames=made,
            duration_seconds=duration_seconds,
            output=output,
            seconds=StageSeconds(**self._seconds),
            work_seconds=self._work_seconds,
        )

    def _samples(self, codes: Tensor) -> Samples:
        """A take of more than a window is decoded in parts: that takes no more memory than one window as a whole."""
        is_long = self._window is not None and codes.shape[1] > self._window
        return decode_take(self.model, codes, self._window // 2 if self._window and is_long else None)

    def none_made(self) -> Rendering:
        """What becomes of a take that was cancelled before it began."""
        return Rendering(
            cancelled=True,
            frames=0,
            duration_seconds=0.0,
            output=None,
            seconds=StageSeconds(**self._seconds),
            work_seconds=self._work_seconds,
        )

    @property
    def _work_seconds(self) -> float:
        return self._seconds["encode"] + self._step_seconds + self._live_seconds + self._seconds["decode"]


def explained(error: Exception, request: Generate) -> EngineError:
    """The error with a code of `request.failed` and a sentence for people."""
    if isinstance(error, EngineError):
        if error.error_code == NON_FINITE and any(each.strength for each in request.adapters):
            return EngineError(NON_FINITE, _TOO_STRONG_MESSAGE, error.detail)
        return error
    detail = f"{type(error).__name__}: {error}"
    if is_out_of_memory(error):
        return EngineError(OUT_OF_MEMORY, _OUT_OF_MEMORY_MESSAGE, detail)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return EngineError(DISK_ERROR, _DISK_MESSAGE, detail)
    return EngineError(ENGINE_ERROR, _ENGINE_ERROR_MESSAGE, detail)


def _windows(request: Generate, model: LoadedModel) -> tuple[int | None, int]:
    """Frames of a window and of its stride. Raises EngineError INVALID_REQUEST for a stride that leaves no overlap."""
    if request.window_seconds is None or request.stride_seconds is None:
        return None, 0
    window, stride = (
        frames_for(seconds, model.frame_rate) for seconds in (request.window_seconds, request.stride_seconds)
    )
    if stride >= window:
        raise EngineError(
            INVALID_REQUEST,
            "stride_seconds must be shorter than window_seconds by a frame or more.",
            f"got {request.stride_seconds!r} and {request.window_seconds!r}",
        )
    return window, stride


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


def _is_length(seconds: float | None) -> bool:
    return seconds is None or (math.isfinite(seconds) and seconds > 0)


def _check(request: Generate) -> None:
    """Refuse what no model can do. Limits of a studio or a model are somebody else's."""
    output = Path(request.output)
    complaints = [
        (
            not math.isfinite(request.duration_seconds) or request.duration_seconds <= 0,
            "duration_seconds",
            "above 0",
        ),
        (not _is_length(request.window_seconds), "window_seconds", "above 0, or left out"),
        (
            not _is_length(request.stride_seconds)
            or (request.stride_seconds is None) != (request.window_seconds is None),
            "stride_seconds",
            "above 0 with window_seconds, or left out with it",
        ),
        (
            not _is_length(request.beginning_seconds)
            or (request.beginning is None) != (request.beginning_seconds is None),
            "beginning_seconds",
            "above 0 with beginning, or left out with it",
        ),
        (
            request.beginning is not None and not Path(request.beginning).is_absolute(),
            "beginning",
            "an absolute path",
        ),
        (not 0 <= request.seed < 2**63, "seed", "between 0 and 2^63 - 1"),
        (
            not math.isfinite(request.guidance_scale) or request.guidance_scale < 0,
            "guidance_scale",
            "0 or more",
        ),
        (not math.isfinite(request.temperature) or request.temperature <= 0, "temperature", "above 0"),
        (request.top_k < 0, "top_k", "0 (off) or more"),
        (not 0 <= request.top_p <= 1, "top_p", "between 0 and 1"),
        (
            any(not math.isfinite(each.strength) or each.strength < 0 for each in request.adapters),
            "adapters",
            "of a strength of 0 or more",
        ),
        (output.suffix != ".wav" or not output.is_absolute(), "output", "an absolute path that ends in .wav"),
        (not output.parent.is_dir(), "output", "in a folder that exists"),
        (
            request.reference != "" and not Path(request.reference).is_absolute(),
            "reference",
            "an absolute path, or left out",
        ),
        (
            request.live is not None and not Path(request.live).is_absolute(),
            "live",
            "the beginning of an absolute path",
        ),
    ]
    for wrong, name, rule in complaints:
        if wrong:
            raise EngineError(INVALID_REQUEST, f"{name} must be {rule}.", f"got {getattr(request, name)!r}")
    try:
        request.prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EngineError(
            INVALID_REQUEST, "The prompt holds a character that is not text.", str(error)
        ) from error

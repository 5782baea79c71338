"""Makes one take from one request: checks it, encodes the prompt, generates codes, decodes and writes them.

The order of the stages, their times and their errors live here; the stages themselves do not.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from generation.engine.adapters.attach import Attachment
from generation.engine.audio import decode_codes, write_wav
from generation.engine.checkpoint import LoadedModel
from generation.engine.decode import CodesRequest, generate_codes
from generation.engine.errors import EngineError
from generation.engine.frames import frames_for
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
from generation.engine.sampling import Sampling

OnStage = Callable[[RequestStage, int, int], None]  # stage, frames done, frames in all


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What became of a request that did not fail."""

    cancelled: bool
    frames: int
    duration_seconds: float
    output: Path | None
    seconds: StageSeconds


def render(
    model: LoadedModel,
    request: Generate,
    *,
    on_stage: OnStage,
    should_stop: Callable[[], bool],
    attachment: Attachment | None = None,
) -> Rendering:
    """Make the take that `request` asks for and write it to `request.output`.

    `attachment` keeps what it read and attached for the next request; `model` itself is never changed.
    Stopped before or while frames are generated, it writes the complete ones; a stop after the last frame comes
    too late and changes nothing. Raises EngineError with a code of `request.failed` for everything that goes
    wrong.
    """
    _check(request)
    try:
        adapted = (attachment or Attachment()).model_for(model, request.adapters)
        return _render(adapted, request, on_stage, should_stop)
    except EngineError as error:
        if error.error_code == NON_FINITE and any(each.strength for each in request.adapters):
            raise EngineError(NON_FINITE, _TOO_STRONG_MESSAGE, error.detail) from error
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            raise EngineError(OUT_OF_MEMORY, _OUT_OF_MEMORY_MESSAGE, detail) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise EngineError(DISK_ERROR, _DISK_MESSAGE, detail) from error
        raise EngineError(ENGINE_ERROR, _ENGINE_ERROR_MESSAGE, detail) from error


_OUT_OF_MEMORY_MESSAGE = (
    "There was not enough memory for this take. Make it shorter, switch guidance off, or use a smaller model."
)
_DISK_MESSAGE = "The disk is full. Free some space in the studio's folder and try again."
_TOO_STRONG_MESSAGE = (
    "With these adapters the model's output stopped being a number. Use a lower strength, or fewer of them."
)
_ENGINE_ERROR_MESSAGE = "Generating failed inside the engine. The details say where; try again."


def _render(
    model: LoadedModel, request: Generate, on_stage: OnStage, should_stop: Callable[[], bool]
) -> Rendering:
    frames = frames_for(request.duration_seconds, model.frame_rate)
    clock = _Clock()

    on_stage("encoding", 0, frames)
    conditioning = encode_prompt(model, request.prompt, request.guidance_scale)
    encode_seconds = clock.lap()

    on_stage("generating", 0, frames)
    codes = generate_codes(
        model,
        CodesRequest(
            conditioning=conditioning,
            frames=frames,
            seed=request.seed,
            sampling=Sampling(
                temperature=request.temperature,
                top_k=request.top_k,
                top_p=request.top_p,
                greedy=request.greedy,
            ),
        ),
        on_progress=lambda done: on_stage("generating", done, frames),
        should_stop=should_stop,
    )  # [K, T]
    made = codes.shape[1]
    generate_seconds = clock.lap()

    output = None
    if made:
        on_stage("decoding", made, frames)
        output = Path(request.output)
        write_wav(output, decode_codes(model, codes), model.sample_rate)
    return Rendering(
        cancelled=made < frames,
        frames=made,
        duration_seconds=made * model.samples_per_frame / model.sample_rate,
        output=output,
        seconds=StageSeconds(encode=encode_seconds, generate=generate_seconds, decode=clock.lap()),
    )


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


def _check(request: Generate) -> None:
    """Refuse what no model can do. Limits of a studio or a model are somebody else's."""
    output = Path(request.output)
    complaints = [
        (
            not math.isfinite(request.duration_seconds) or request.duration_seconds <= 0,
            "duration_seconds",
            "above 0",
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

"""Measures what an adapter does to the loaded model: on one fixed input, with it, at strength 0 and after it.

The whole network computes, as the library's own forward pass does; no audio is made.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Final

import torch
from torch import Tensor

from generation.engine.adapters.attach import Attachment
from generation.engine.checkpoint import LoadedModel
from generation.engine.delay import DelayPattern
from generation.engine.errors import EngineError
from generation.engine.memory import is_out_of_memory
from generation.engine.protocol import (
    ADAPTER_BROKEN,
    ADAPTER_NO_EFFECT,
    ENGINE_ERROR,
    OUT_OF_MEMORY,
    Prove,
    Proved,
)

#: The fixed input: this prompt, and so many frames of codes drawn from this seed.
PROMPT: Final = "a calm piano melody over warm strings"
FRAMES: Final = 24
SEED: Final = 4


def prove(model: LoadedModel, command: Prove, attachment: Attachment) -> Proved:
    """Attach the adapter, compare, detach, compare. Raises EngineError with a code of `request.failed`.

    One that fits and changes nothing fails with ADAPTER_NO_EFFECT.
    """
    try:
        return _prove(model, command, attachment)
    except EngineError:
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            message = "There was not enough memory to try the adapter. Free some, or use a smaller model."
            raise EngineError(OUT_OF_MEMORY, message, detail) from error
        message = "Trying the adapter failed inside the engine. The details say where."
        raise EngineError(ENGINE_ERROR, message, detail) from error


def _prove(model: LoadedModel, command: Prove, attachment: Attachment) -> Proved:
    started = time.perf_counter()
    use = command.adapter

    def logits_at(strength: float | None) -> Tensor:
        uses = [] if strength is None else [dataclasses.replace(use, strength=strength)]
        return fixed_logits(attachment.model_for(model, uses))

    base = logits_at(None)
    changed = logits_at(1.0)
    (fit,) = attachment.attached
    at_zero = logits_at(0.0)
    after = logits_at(None)
    change = _mean_change(changed, base)
    if not math.isfinite(change):
        raise EngineError(
            ADAPTER_BROKEN,
            f"With adapter {use.name!r} the model's output stops being a number. Ask for another copy of it.",
            f"the mean change of the logits is {change}",
        )
    if change == 0.0:
        raise EngineError(
            ADAPTER_NO_EFFECT,
            f"Adapter {use.name!r} fits this model but changes nothing in it, so it would have no effect on a "
            "take. Its training may have failed; ask for another copy.",
            f"{fit.tensor_count} tensors attached, the logits stay the same bit for bit in {model.dtype}",
        )
    return Proved(
        request=command.request,
        tensors_expected=fit.tensor_count,
        tensors_matched=fit.tensor_count,
        logit_change=change,
        logit_change_at_zero=_mean_change(at_zero, base),
        logit_change_after=_mean_change(after, base),
        seconds=time.perf_counter() - started,
        notes=fit.notes,
    )


@torch.inference_mode()
def fixed_logits(model: LoadedModel) -> Tensor:
    """Logits [K, L, V] in float32 on the CPU that the model gives for the fixed input."""
    pattern = DelayPattern(codebooks=model.codebooks, channels=model.channels)
    size = model.network.config.decoder.vocab_size
    generator = torch.Generator().manual_seed(SEED)
    codes = torch.randint(size, (model.codebooks, FRAMES), generator=generator)  # [K, T]
    token_ids = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]  # [1, S]
    logits: Tensor = model.network(
        input_ids=token_ids.to(model.device),
        decoder_input_ids=pattern.apply(codes, model.pad_token).to(model.device),  # [K, L]
    ).logits
    return logits.float().cpu()


def _mean_change(logits: Tensor, base: Tensor) -> float:
    return float((logits.double() - base.double()).abs().mean())

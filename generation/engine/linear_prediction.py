"""How a sound would go on: each sample as a weighted sum of those before it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

#: Samples that a sample is predicted from, and the last ones of which the weights are learned.
ORDER: Final = 256
LEARNED_FROM: Final = 8_000


def gone_on(samples: Tensor, count: int) -> Tensor:
    """Samples [channels, n] and `count` more, as their last part leads to; never louder for long, and silence stays silent."""
    if count <= 0:
        return samples
    return torch.cat([samples, torch.stack([_predicted(each, count) for each in samples])], dim=1)


def _predicted(samples: Tensor, count: int) -> Tensor:
    """The `count` samples after `samples` [n]."""
    known = samples[-LEARNED_FROM:].double().numpy()
    weights = _weights(known, min(ORDER, (len(known) - 1) // 2))
    order = len(weights)
    further = np.concatenate([known[len(known) - order :], np.zeros(count)])
    for index in range(count):
        further[order + index] = weights @ further[index : order + index]
    return torch.from_numpy(further[order:]).to(samples.dtype)


def _weights(samples: Any, order: int) -> Any:
    """Weights of the `order` samples before one, the oldest first, by Burg's method: what they predict dies away.

    Source: J. P. Burg, Maximum entropy spectral analysis (1975).
    """
    forward, backward, error = samples[1:], samples[:-1], np.array([1.0])
    for _ in range(order):
        power = forward @ forward + backward @ backward
        reflection = -2 * (forward @ backward) / power if power else 0.0
        error = np.append(error, 0.0)
        error = error + reflection * error[::-1]
        forward, backward = (forward + reflection * backward)[1:], (backward + reflection * forward)[:-1]
    return -error[:0:-1]

"""How seconds of audio become frames of the codec and frames become samples.

Plain arithmetic for services and the engine alike. Must not import torch or Django.
"""

import math


def frames_for(duration_seconds: float, frame_rate: int) -> int:
    """Frames that hold `duration_seconds` of audio at `frame_rate` frames per second, at least one.

    A length that is a whole number of frames but for rounding (0.1 s * 3 at 50 frames/s) does not get one
    more. Raises ValueError unless the duration is finite and above zero.
    """
    if not math.isfinite(duration_seconds) or duration_seconds <= 0:
        raise ValueError(f"a duration is a finite number of seconds above zero, got {duration_seconds}")
    return max(1, math.ceil(duration_seconds * frame_rate - 1e-9))

"""How figures are said to people: seconds, bytes, places in a queue. Plain functions, no Django.

It lives in the lowest app because every other app says such figures and imports go one way.
"""

from __future__ import annotations

import math

# A narrow no-break space keeps a number and its unit together without a gap.
THIN_SPACE = "\u202f"


def plain_number(value: float) -> str:
    """`45.0 -> "45"`, `45.5 -> "45.5"`: the shortest decimal that is still the same number to 3 places."""
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return text or "0"


def spoken_seconds(value: float) -> str:
    """Seconds as people say them: "under 0.1 s", "4.1 s" below ten, "12 s", "1 min 20 s", "1 h 5 min"."""
    if not math.isfinite(value):
        return "unknown"
    value = max(0.0, value)
    if 0 < value < 0.05:
        return f"under 0.1{THIN_SPACE}s"
    if value < 9.95:
        return f"{plain_number(round(value, 1))}{THIN_SPACE}s"
    whole = round(value)
    if whole < 60:
        return f"{whole}{THIN_SPACE}s"
    minutes, seconds = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{THIN_SPACE}min" + (f" {seconds}{THIN_SPACE}s" if seconds else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{THIN_SPACE}h" + (f" {minutes}{THIN_SPACE}min" if minutes else "")


def rough_seconds(value: float) -> str:
    """An estimate, no finer than it can be: "6 s", "35 s", "3 min 50 s", "12 min"."""
    if not math.isfinite(value):
        return "unknown"
    step = 1 if value < 20 else 5 if value < 60 else 10 if value < 600 else 60
    return spoken_seconds(max(1, round(value / step) * step))


def clock(value: float) -> str:
    """Seconds as a player shows them: "0:05", "1:20", "1:02:03"."""
    whole = max(0, int(value)) if math.isfinite(value) else 0
    hours, rest = divmod(whole, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def ordinal(place: int) -> str:
    """`1 -> "1st"`, `2 -> "2nd"`, `11 -> "11th"`."""
    suffix = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{suffix}"


def gigabytes(size_bytes: int) -> str:
    """Bytes as GB (10^9), or MB below one: "4.2 GB", "640 MB"."""
    if size_bytes < 10**9:
        return f"{round(size_bytes / 10**6)}{THIN_SPACE}MB"
    return f"{plain_number(round(size_bytes / 10**9, 1))}{THIN_SPACE}GB"


def spoken_bytes(size_bytes: int) -> str:
    """Bytes of a file as people say them: "640 bytes", "4.2 MB", "1.3 GB", in powers of a thousand."""
    if size_bytes < 1000:
        return f"{size_bytes}{THIN_SPACE}bytes"
    value, unit = size_bytes / 1000, "kB"
    for larger in ("MB", "GB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{plain_number(round(value, 1) if value < 9.95 else round(value))}{THIN_SPACE}{unit}"


def kilohertz(sample_rate: int) -> str:
    """`32000 -> "32 kHz"`, `44100 -> "44.1 kHz"`."""
    return f"{plain_number(sample_rate / 1000)}{THIN_SPACE}kHz"


def channel_word(channels: int) -> str:
    """`1 -> "mono"`, `2 -> "stereo"`."""
    return {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")

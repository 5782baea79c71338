"""Renders composed pieces to 16 kHz mono audio: additive instruments and a drum kit, in numpy, exact to the sample.

Each note is rendered once and cached. Knows nothing of styles or captions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from .composer import FRAMES_PER_SECOND, Piece

SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_SECOND
LONGEST_SECONDS = 4.0
BRIGHTEST_HERTZ = 6_000.0
Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Timbre:
    """Partials and their envelopes. Decays are in 1/s: partial k falls as exp(-t * (decay + k * damping))."""

    amplitudes: tuple[float, ...]
    attack_seconds: float
    release_seconds: float
    decay: float
    damping: float
    gain: float
    ratios: tuple[float, ...] = ()
    vibrato: float = 0.0  # relative depth
    detune: float = 0.0  # relative distance of a second, beating voice
    drive: float = 0.0


def _series(count: int, power: float, odd_only: bool = False) -> tuple[float, ...]:
    return tuple(0.0 if odd_only and k % 2 == 0 else k**-power for k in range(1, count + 1))


TIMBRES: dict[str, Timbre] = {
    "piano": Timbre(_series(10, 1.5), 0.004, 0.10, 1.2, 0.7, 0.26),
    "electric piano": Timbre((1, 0.25, 0.0, 0.3, 0, 0, 0.06), 0.004, 0.10, 1.0, 1.0, 0.26),
    "acoustic guitar": Timbre(_series(16, 0.9), 0.003, 0.06, 2.2, 1.4, 0.20),
    "electric guitar": Timbre(_series(12, 0.9), 0.006, 0.06, 0.5, 0.15, 0.16, drive=2.5),
    "strings": Timbre(_series(14, 1.15), 0.09, 0.14, 0.0, 0.0, 0.13, vibrato=0.003),
    "flute": Timbre((1, 0.22, 0.1, 0.03), 0.05, 0.07, 0.0, 0.0, 0.24, vibrato=0.004),
    "organ": Timbre((1, 0.7, 0.45, 0.3, 0, 0.2, 0, 0.15), 0.012, 0.05, 0.0, 0.0, 0.12),
    "pad": Timbre(_series(6, 1.6), 0.22, 0.35, 0.0, 0.0, 0.16, detune=0.003),
    "synth lead": Timbre(_series(15, 1.1, odd_only=True), 0.006, 0.04, 0.4, 0.05, 0.17),
    "bells": Timbre((1, 0.6, 0.4, 0.2), 0.002, 0.4, 1.6, 0.9, 0.20, ratios=(1.0, 2.76, 5.4, 8.93)),
    "music box": Timbre((1, 0.35, 0.25), 0.002, 0.3, 2.4, 1.6, 0.30, ratios=(1.0, 3.0, 5.1)),
    "bass": Timbre(_series(8, 1.5), 0.006, 0.05, 1.2, 0.5, 0.34),
    "synth bass": Timbre(_series(14, 1.0), 0.004, 0.03, 1.5, 0.7, 0.24),
}
DRUMS = ("kick", "snare", "clap", "hat", "open hat", "ride", "shaker", "tom low", "tom high")


def render(piece: Piece) -> Audio:
    """Audio of a piece, [samples] in -1..1, exactly `piece.frames` frames long. Louder mixes are rounded off by tanh."""
    total = piece.frames * SAMPLES_PER_FRAME
    mix = np.zeros(total, dtype=np.float32)
    level = (
        1.0 if len(piece.roles) < 3 else 0.75
    )  # a fixed level per size of ensemble keeps each note the same sound
    for note in piece.notes:
        sound = (
            drum(note.instrument) if note.pitch == 0 else sounded(note.instrument, note.pitch, note.length)
        )
        start = note.start * SAMPLES_PER_FRAME
        end = min(total, start + len(sound))
        mix[start:end] += level * note.loudness * sound[: end - start]
    loud = np.abs(mix) > 0.7
    mix[loud] = np.sign(mix[loud]) * (0.7 + 0.3 * np.tanh((np.abs(mix[loud]) - 0.7) / 0.3))
    return mix


@lru_cache(maxsize=4096)  # about half a gigabyte
def sounded(instrument: str, pitch: int, length_frames: int) -> Audio:
    """A note of a given length, with its release after it."""
    timbre, full = TIMBRES[instrument], sustained(instrument, pitch)
    held = min(length_frames * SAMPLES_PER_FRAME, len(full) - int(timbre.release_seconds * SAMPLE_RATE))
    release = (
        np.cos(np.linspace(0, np.pi / 2, int(timbre.release_seconds * SAMPLE_RATE), dtype=np.float32)) ** 2
    )
    sound = full[: held + len(release)].copy()
    sound[held:] *= release
    return sound


@cache
def sustained(instrument: str, pitch: int) -> Audio:
    """The longest form of a note, without its release."""
    timbre = TIMBRES[instrument]
    time = np.arange(int(LONGEST_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    fundamental = 440.0 * 2 ** ((pitch - 69) / 12)
    sound = np.zeros_like(time)
    for voice in (1.0, 1.0 + timbre.detune) if timbre.detune else (1.0,):
        phase = 2 * np.pi * fundamental * voice * time
        if timbre.vibrato:  # 5 Hz, fading in over the first half second
            phase += (
                2
                * np.pi
                * fundamental
                * timbre.vibrato
                * np.minimum(time * 2, 1)
                * (1 - np.cos(10 * np.pi * time))
                / (10 * np.pi)
            )
        for index, amplitude in enumerate(timbre.amplitudes):
            ratio = timbre.ratios[index] if timbre.ratios else index + 1
            if amplitude and ratio * fundamental < BRIGHTEST_HERTZ:
                sound += (
                    amplitude
                    * np.exp(-time * (timbre.decay + (index + 1) * timbre.damping))
                    * np.sin(ratio * phase)
                )
    sound /= np.sqrt(sum(a * a for a in timbre.amplitudes)) * (1.4 if timbre.detune else 1.0)
    if timbre.drive:
        sound = np.tanh(timbre.drive * sound)
    sound *= np.minimum(time / timbre.attack_seconds, 1.0)
    loudness = 1.0 if pitch >= 60 else 1.1  # the ear and small speakers lose low notes
    return (timbre.gain * loudness * sound).astype(np.float32)


@cache
def drum(name: str) -> Audio:
    """One drum hit. The noise is the same at every hit, as in a sampled kit."""
    rng = np.random.default_rng(DRUMS.index(name))
    seconds = {
        "kick": 0.28,
        "snare": 0.20,
        "clap": 0.18,
        "hat": 0.06,
        "open hat": 0.20,
        "ride": 0.35,
        "shaker": 0.08,
    }
    time = np.arange(int(seconds.get(name, 0.30) * SAMPLE_RATE)) / SAMPLE_RATE
    noise = rng.standard_normal(len(time))
    bright = np.diff(noise, n=2, prepend=[0.0, 0.0]) / 2.5
    fade = np.minimum(1, (time[-1] - time) / 0.01)
    if name == "kick":
        sound = 0.85 * _sweep(time, 150, 48, 30) * np.exp(-time * 14)
    elif name == "snare":
        sound = 0.32 * noise * np.exp(-time * 24) + 0.4 * _sweep(time, 240, 180, 40) * np.exp(-time * 28)
    elif name == "clap":
        bursts = sum(np.where(time >= at, np.exp(-(time - at) * 60), 0.0) for at in (0.0, 0.01, 0.02))
        sound = 0.24 * np.diff(noise, prepend=0.0) * bursts
    elif name in ("tom low", "tom high"):
        start = 150 if name == "tom low" else 230
        sound = 0.65 * _sweep(time, start, start * 0.6, 14) * np.exp(-time * 13)
    elif name == "ride":
        tones = sum(np.sin(2 * np.pi * f * time) for f in (3170, 4230, 5410, 6290)) / 4
        sound = (0.16 * tones + 0.09 * bright) * np.exp(-time * 10)
    else:
        gain, decay = {"hat": (0.20, 80), "open hat": (0.17, 18), "shaker": (0.24, 45)}[name]
        sound = gain * bright * np.exp(-time * decay)
    attack = np.minimum(1, time / (0.015 if name == "shaker" else 0.001))
    hit: Audio = (sound * fade * attack).astype(np.float32)
    return hit


def _sweep(time: NDArray[np.float64], start: float, end: float, rate: float) -> NDArray[np.float64]:
    """A sine falling from `start` to `end` hertz."""
    return np.sin(2 * np.pi * (end * time + (start - end) * (1 - np.exp(-rate * time)) / rate))

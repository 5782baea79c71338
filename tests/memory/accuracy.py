"""Writes docs/accuracy.md from the samples: `python -m tests.memory.accuracy`. A test holds the page to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gated_configs.memory import Architecture, describe
from tests.memory.agreement import CASES, config_of, results
from tests.memory.peaks import predict
from tests.memory.samples import Sample, further_samples, given_samples

PAGE = Path(__file__).resolve().parents[2] / "docs" / "accuracy.md"

INTRODUCTION = """# Accuracy of the memory figures

This page is written by `python -m tests.memory.accuracy` from the data of the tests; a test fails when it is out of
date. Every row is computed anew in each test run.

*Parameters* is what the calculator reports first. *Published* is the count of the named source. Where the two count
different things, *equal as* names the calculator's own count that equals the published one. *Cache* is the bytes
that one more token adds to one sequence in bfloat16, while every window has room. Counts "looked up" on a date were
found in public files and saved answers of the hub by searching for them; the row says in which, and where the excerpt
does not name the model. Counts marked "unverified" were looked for and not found: the calculator's own figure, which
proves nothing but that it has not changed.

Beside these, {dwarfs} small models of as many kinds are really built and run in the tests: the bytes of their weights
and of their caches equal the predicted ones exactly, in float32 and in bfloat16.

Known differences from transformers' own caches: Falcon's newer decoder (40B, 180B) keeps its grouped keys broadcast to
every head there, which serving engines do not; the figures here are of the groups. Activations are a range and not
exact; each estimate carries its assumptions.
"""


PEAKS = """`python -m tests.memory.agreement FOLDER` has the real runner make a take on a CPU, of checkpoints of the published
shapes with random weights, and reads the most memory that the kernel saw it hold. A test holds every row to a tenth, and
makes such a take itself with a smaller checkpoint in both dtypes. No GPU was at hand: figures of cards are not measured.

Four things decide a CPU's peak, beside weights and cache. The weights are a mapped file: the codec's encoder and the
table of text embeddings are never read and take nothing. A peak counts from when the model is
loaded: while a float32 file is converted to bfloat16 its pages are resident as well, and the kernel takes them back where it
needs them. The codec's last stage decodes a whole take at once. And the process with its libraries takes 290 to 380 MB, as much
of them as the kernel happens to map: 335 MB are counted.
"""


def page() -> str:
    """The whole page."""
    from tests.memory.dwarfs import DWARFS

    lines = [INTRODUCTION.format(dwarfs=len(DWARFS))]
    lines += ["## Configs with published figures", "", *_table(given_samples()), ""]
    lines += ["## Others of the same families", "", *_table(further_samples()), ""]
    lines += ["## Peaks of the runner", "", PEAKS, *_peaks()]
    return "\n".join(lines) + "\n"


def _peaks() -> Iterator[str]:
    yield "| checkpoint | dtype | seconds | guidance | measured | predicted | error |"
    yield "|---|---|---:|---|---:|---:|---:|"
    machines = set()
    measured = results()
    for case in CASES:
        if case.name not in measured:
            continue
        predicted = predict(
            config_of(case.checkpoint), seconds=case.seconds, dtype=case.dtype, guidance=case.guidance
        ).total_bytes
        peak = measured[case.name]["measured_bytes"]
        machines.add(measured[case.name]["hardware"])
        yield (
            f"| {case.checkpoint} | {case.dtype} | {case.seconds:g} | {'yes' if case.guidance else 'no'} |"
            f" {peak / 1e9:.3f} GB | {predicted / 1e9:.3f} GB | {predicted / peak - 1:+.1%} |"
        )
    yield ""
    yield f"Measured on: {'; '.join(sorted(machines))}."


def _table(samples: list[Sample]) -> Iterator[str]:
    yield "| model | type | attention | parameters | published | equal as | cache bytes a token | source |"
    yield "|---|---|---|---:|---:|---|---:|---|"
    for sample in samples:
        architecture = describe(sample.config)
        yield " | ".join(
            (
                f"| {sample.model_id}",
                architecture.model_type,
                architecture.attention_type,
                f"{architecture.parameters.total:,}",
                f"{sample.params:,}" if sample.params is not None else "—",
                _agreement(sample, architecture),
                f"{2 * architecture.token_elements:,}",
                f"{sample.source.replace('|', '/')} |",
            )
        )


def _agreement(sample: Sample, architecture: Architecture) -> str:
    parameters = architecture.parameters
    if parameters.total == sample.params:
        return "the headline"
    for count in parameters.counts:
        if count.value == sample.params:
            return count.meaning
    if parameters.total in sample.counts:
        return (
            "the headline, a stated alternative"
            if sample.params is not None
            else "the headline; our own arithmetic"
        )
    if any(count.value in sample.counts for count in parameters.counts):
        return "a stated alternative"
    return "no published count" if not sample.counts else "**differs**"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

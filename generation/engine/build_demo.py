"""`python -m generation.engine.build_demo OUT_DIR [--seed 0]`: writes the demo with random weights.

The demo makes the whole product work with no download. Everything in it is made here: no third party's
weights or text.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from generation.engine.random_checkpoint import CheckpointShape, build_checkpoint

DEMO = CheckpointShape()

MODEL_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-to-audio
tags:
- musicgen
---

# MusicGen demo

A very small MusicGen checkpoint: a T5 text encoder with a tokenizer of its own, a MusicGen
decoder, and an EnCodec codec at 16 kHz mono with 50 frames per second and 4 codebooks of 512. It is there
so that MusicGen Studio works end to end on any computer without a download.

**Its weights are random.** It was not trained on anything, so it makes noise that depends on the prompt, the
seed and the settings, and no music. What it is good for: seeing a queue, progress, a waveform, a player and a
library at work, and testing software against a real checkpoint in under a second.

What it cannot do: make music, follow a prompt, sing or speak, tell one language from another. Do not judge
MusicGen by it.

Made by `python -m generation.engine.build_demo` with seed {seed}; the same seed gives the same files. It
contains no third party's weights, text or audio. Licence of weights, tokenizer and configs: Apache-2.0.
"""


def build_demo(folder: Path, *, seed: int = 0) -> None:
    """Write the demo checkpoint and its model card into `folder`, which is made where it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    build_checkpoint(folder, DEMO, seed=seed)
    (folder / "README.md").write_text(MODEL_CARD.format(seed=seed), encoding="utf-8")


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m generation.engine.build_demo", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    build_demo(arguments.folder, seed=arguments.seed)


if __name__ == "__main__":
    main()

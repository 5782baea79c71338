"""One command per stage: `python -m generation.training --run FOLDER codec|tokens|lm|export|adapter|takes|evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

PROMPTS = (
    "lo-fi hip hop with electric piano, bass and drums",
    "hip hop drum beat, laid back",
    "calm music box lullaby",
    "peaceful church organ hymn",
    "slow piano ballad, soft and warm",
    "distorted electric guitar, bass and rock drums",
)


def main() -> None:
    """Parse the command line and run one stage."""
    parser = argparse.ArgumentParser(prog="python -m generation.training", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints, tokens and logs")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train")
    stages = parser.add_subparsers(dest="stage", required=True)
    codec = stages.add_parser("codec", help="train the codec, or go on training it")
    codec.add_argument("--steps", type=int, default=4700)
    codec.add_argument("--batch", type=int, default=4)
    tokens = stages.add_parser("tokens", help="encode composed pieces for the language model")
    tokens.add_argument("--shards", type=int, default=12)
    language_model = stages.add_parser("lm", help="train decoder and text encoder, or go on training them")
    language_model.add_argument("--steps", type=int, default=3000)
    language_model.add_argument(
        "--restart", action="store_true", help="lift the learning rate again, to train a finished one further"
    )
    evaluate = stages.add_parser("evaluate", help="print the model card's figures as JSON")
    evaluate.add_argument("--clips", type=int, default=32)
    adapter = stages.add_parser("adapter", help="train a LoRA adapter for the checkpoint on one style")
    adapter.add_argument("--style", required=True, help="one of the composer's styles")
    adapter.add_argument("--steps", type=int, default=300)
    export = stages.add_parser("export", help="write the checkpoint in the official layout")
    export.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="one at which it plays best; it becomes the checkpoint's 1",
    )
    for stage in (
        adapter,
        export,
        stages.add_parser("takes", help="render six prompts as WAV and spectrogram into RUN/takes"),
        evaluate,
    ):
        stage.add_argument("--checkpoint", type=Path, help="its folder (default: RUN/musicgen-demo)")
    options = parser.parse_args()
    run: Path = options.run
    # The stages import torch; `--help` need not.
    device = _device(options.device)
    if options.stage == "codec":
        from .codec_training import train_codec

        train_codec(run, options.steps, options.batch, device)
    elif options.stage == "tokens":
        from .tokens import write_tokens

        write_tokens(run, options.shards, device)
    elif options.stage == "lm":
        from .language_model_training import train_language_model

        train_language_model(run, options.steps, restart=options.restart, device=device)
    else:
        _use_checkpoint(options.stage, run, options.checkpoint or run / "musicgen-demo", options, device)


def _device(wanted: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _use_checkpoint(
    stage: str, run: Path, checkpoint: Path, options: argparse.Namespace, device: str
) -> None:
    import torch
    from transformers import AutoProcessor, MusicgenForConditionalGeneration

    from .adapter_training import train_adapter
    from .checkpoint import export, play_as_at
    from .evaluation import evaluate, takes
    from .language_model_training import assembled
    from .pictures import write_spectrogram, write_wav

    if stage == "export":
        model, tokenizer = assembled(run)
        play_as_at(model, options.temperature)
        export(model, tokenizer, checkpoint)
        return
    if stage == "adapter":
        train_adapter(run, checkpoint, options.style, options.steps, device)
        return
    model = MusicgenForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoProcessor.from_pretrained(checkpoint).tokenizer
    if stage == "evaluate":
        sys.stdout.write(json.dumps(evaluate(model, tokenizer, clips=options.clips), indent=1) + "\n")
        return
    folder = run / "takes"
    folder.mkdir(parents=True, exist_ok=True)
    for prompt, audio in zip(PROMPTS, takes(model, tokenizer, PROMPTS), strict=True):
        name = "-".join("".join(letter if letter.isalnum() else " " for letter in prompt).split())
        write_wav(folder / f"{name}.wav", audio)
        write_spectrogram(folder / f"{name}.png", audio)


if __name__ == "__main__":
    main()

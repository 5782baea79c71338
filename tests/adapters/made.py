"""Real adapters, made with peft on dwarf checkpoints in the ways people make them, and spoiled in the ways they come.

Every function writes into a folder of its own and answers it. Nothing here knows Django.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

# The machine is shared, and dwarfs are too small to gain from threads. Read by torch when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyForConditionalGeneration,
)

from generation.engine.random_checkpoint import CheckpointShape, build_checkpoint
from tests.engine.dwarf import MONO

Kind = Literal["mono", "stereo", "wide", "deep", "melody"]
KINDS: Final[tuple[Kind, ...]] = ("mono", "stereo", "wide", "deep", "melody")

#: Text models: two of one width with one and two channels, one wider, one deeper. The melody dwarf is `mono` otherwise.
SHAPES: Final[dict[str, CheckpointShape]] = {
    "mono": MONO,
    "stereo": CheckpointShape(**{**vars(MONO), "channels": 2}),
    "wide": CheckpointShape(**{**vars(MONO), "width": 24, "feed_forward": 48}),
    "deep": CheckpointShape(**{**vars(MONO), "layers": 3}),
}

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"

#: What published adapters mostly target.
ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "out_proj")
EVERYTHING: Final = (*ATTENTION, "fc1", "fc2", "enc_to_dec_proj")

Part = Literal["whole", "decoder", "decoder_model", "decoder_stack"]
#: Where people attach peft: the module's path in the whole network.
PARTS: Final[dict[str, str]] = {
    "whole": "",
    "decoder": "decoder",
    "decoder_model": "decoder.model",
    "decoder_stack": "decoder.model.decoder",
}


def make_checkpoint(folder: Path, kind: Kind = "mono", *, seed: int = 0) -> Path:
    """Write a dwarf checkpoint of a kind into `folder`."""
    if kind != "melody":
        build_checkpoint(folder, SHAPES[kind], seed=seed)
        return folder
    parts = folder.with_name(f"{folder.name}-parts")
    build_checkpoint(parts, MONO, seed=seed)
    text = MusicgenForConditionalGeneration.from_pretrained(parts)
    shutil.rmtree(parts)
    config = MusicgenMelodyConfig(
        text_encoder=text.config.text_encoder.to_dict(),
        audio_encoder=text.config.audio_encoder.to_dict(),
        decoder={**text.config.decoder.to_dict(), "model_type": "musicgen_melody_decoder"},
        num_chroma=12,
        chroma_length=10,
    )
    torch.manual_seed(seed)
    MusicgenMelodyForConditionalGeneration(config).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Recipe:
    """How an adapter is made. `base_name` "" keeps what peft writes: the checkpoint's folder."""

    on: Part = "whole"
    targets: tuple[str, ...] | str = ATTENTION
    saved: tuple[str, ...] = ()
    r: int = 4
    lora_alpha: int = 8
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, int], ...] = ()
    layers_to_transform: tuple[int, ...] = ()
    exclude: tuple[str, ...] = ()
    base_name: str | None = ""
    seed: int = 0
    spread: float = 0.3
    extra: tuple[tuple[str, Any], ...] = ()


def heads_and_embeddings(codebooks: int = 4) -> tuple[str, ...]:
    """What the fine-tuning scripts people use list: everything, and each head and embedding by its number."""
    numbers = range(codebooks)
    return (
        *EVERYTHING,
        *(f"lm_heads.{number}" for number in numbers),
        *(f"embed_tokens.{number}" for number in numbers),
    )


#: The ways in which people make adapters that work, by name, for a mono dwarf.
WAYS: Final[dict[str, Recipe]] = {
    "whole": Recipe(),
    "decoder": Recipe(on="decoder"),
    "decoder_model": Recipe(on="decoder_model"),
    "decoder_stack": Recipe(on="decoder_stack"),
    "everything": Recipe(targets=EVERYTHING),
    "heads_and_embeddings": Recipe(targets=heads_and_embeddings()),
    "all_linear": Recipe(on="decoder", targets="all-linear"),
    "regex": Recipe(targets=r".*decoder\.layers\.\d+\.(self_attn|encoder_attn)\.[qv]_proj"),
    "rslora": Recipe(use_rslora=True),
    "dora": Recipe(use_dora=True),
    "dora_heads": Recipe(use_dora=True, targets=heads_and_embeddings()),
    "patterns": Recipe(
        rank_pattern=(("fc1", 2), (r"layers\.1\.self_attn\.q_proj", 3)),
        alpha_pattern=(("fc1", 5),),
        targets=(*ATTENTION, "fc1"),
    ),
    "patterns_decoder": Recipe(
        on="decoder",
        rank_pattern=(("^model.decoder.layers.0.self_attn.k_proj", 6),),
        alpha_pattern=(("^model.decoder.layers.0.self_attn.k_proj", 3),),
    ),
    "saved_modules": Recipe(saved=(*(f"lm_heads.{number}" for number in range(4)), "enc_to_dec_proj")),
    "some_layers": Recipe(layers_to_transform=(0,)),
    "feed_forward": Recipe(targets=("fc1", "fc2")),
}


def make_adapter(checkpoint: Path, folder: Path, recipe: Recipe = WAYS["whole"]) -> Path:
    """Train, as far as the tests need it, an adapter on a checkpoint and save it as peft does.

    All of its tensors are random, so that each has an effect; saved modules differ from the base's.
    """
    network = load_network(checkpoint)
    part = network.get_submodule(PARTS[recipe.on])
    config = LoraConfig(
        target_modules=list(recipe.targets) if isinstance(recipe.targets, tuple) else recipe.targets,
        modules_to_save=list(recipe.saved) or None,
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        rank_pattern=dict(recipe.rank_pattern),
        alpha_pattern=dict(recipe.alpha_pattern),
        layers_to_transform=list(recipe.layers_to_transform) or None,
        exclude_modules=list(recipe.exclude) or None,
        **dict(recipe.extra),
    )
    adapted = get_peft_model(part, config)
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                noise = torch.randn(weight.shape, generator=generator) * recipe.spread
                weight.add_(noise)
    adapted.save_pretrained(str(folder))
    told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if recipe.base_name != "":
        told["base_model_name_or_path"] = recipe.base_name
    elif recipe.on != "whole":
        # A part loaded with the whole does not know where it came from; scripts fill it in.
        told["base_model_name_or_path"] = str(checkpoint)
    (folder / CONFIG).write_text(json.dumps(told, indent=2), encoding="utf-8")
    return folder


def load_network(checkpoint: Path) -> torch.nn.Module:
    """The network of a dwarf, as the library loads it, to be changed at will. A dwarf itself never changes."""
    return copy.deepcopy(_loaded(checkpoint))


@lru_cache(maxsize=8)
def _loaded(checkpoint: Path) -> torch.nn.Module:
    # To load a dwarf takes twenty times as long as to copy it.
    family = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["model_type"]
    library: Any = (
        MusicgenMelodyForConditionalGeneration
        if family == "musicgen_melody"
        else MusicgenForConditionalGeneration
    )
    network: torch.nn.Module = library.from_pretrained(checkpoint)
    return network.eval()


# --- copies that are spoiled, each in one way ---


def rewrite(
    folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> Path:
    """A copy of an adapter whose tensors went through `change`."""
    shutil.copytree(folder, target)
    tensors = change(load_file(target / WEIGHTS))
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, target / WEIGHTS)
    return target


def reconfigure(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy of an adapter whose config tells something else."""
    shutil.copytree(folder, target)
    told = json.loads((target / CONFIG).read_text(encoding="utf-8"))
    (target / CONFIG).write_text(json.dumps({**told, **settings}), encoding="utf-8")
    return target


def with_base(folder: Path, target: Path, name: str | None) -> Path:
    """A copy that names another base model, or none."""
    return reconfigure(folder, target, base_model_name_or_path=name)


def renamed(folder: Path, target: Path, old: str, new: str) -> Path:
    """A copy in which `old` in every tensor's name is `new`: the prefix of another part of the network, or none."""
    return rewrite(
        folder,
        target,
        lambda tensors: {name.replace(old, new, 1): tensor for name, tensor in tensors.items()},
    )


def zero_b(folder: Path, target: Path) -> Path:
    """A copy as it is before training: every B is zero."""
    return rewrite(
        folder,
        target,
        lambda tensors: {
            name: torch.zeros_like(tensor) if "lora_B" in name or "embedding_B" in name else tensor
            for name, tensor in tensors.items()
        },
    )


def with_nan(folder: Path, target: Path, value: float = float("nan")) -> Path:
    """A copy with one value that is no number (or the value given), in its last tensor."""

    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[max(tensors)].view(-1)[-1] = value
        return tensors

    return rewrite(folder, target, spoil)


def missing_pair(folder: Path, target: Path) -> Path:
    """A copy that lacks one B."""

    def drop(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        gone = min(name for name in tensors if "lora_B" in name)
        return {name: tensor for name, tensor in tensors.items() if name != gone}

    return rewrite(folder, target, drop)


def cast(folder: Path, target: Path, dtype: torch.dtype) -> Path:
    """A copy in another precision."""
    return rewrite(
        folder, target, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}
    )


def truncated(folder: Path, target: Path, *, keep: float = 0.6) -> Path:
    """A copy whose download stopped early."""
    shutil.copytree(folder, target)
    content = (target / WEIGHTS).read_bytes()
    (target / WEIGHTS).write_bytes(content[: int(len(content) * keep)])
    return target


def pickled(folder: Path, target: Path) -> Path:
    """A copy whose weights are there as a pickle alone."""
    shutil.copytree(folder, target)
    torch.save(load_file(target / WEIGHTS), target / "adapter_model.bin")
    (target / WEIGHTS).unlink()
    return target


def full_checkpoint(checkpoint: Path, target: Path) -> Path:
    """What people take for an adapter: a whole fine-tuned model."""
    return Path(shutil.copytree(checkpoint, target))


def audiocraft_state(target: Path) -> Path:
    """A model as audiocraft saves it, put into safetensors by somebody."""
    target.mkdir(parents=True)
    save_file(
        {
            "transformer.layers.0.self_attn.in_proj_weight": torch.ones(48, 16),
            "transformer.layers.0.linear1.weight": torch.ones(32, 16),
            "emb.0.weight": torch.ones(33, 16),
            "linears.0.weight": torch.ones(32, 16),
        },
        target / "state_dict.safetensors",
    )
    return target


def language_model_adapter(target: Path) -> Path:
    """A LoRA adapter of a language model."""
    target.mkdir(parents=True)
    start = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{start}.lora_A.weight": torch.ones(4, 16), f"{start}.lora_B.weight": torch.ones(16, 4)},
        target / WEIGHTS,
    )
    told = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "meta-llama/Llama-3.2-1B",
    }
    (target / CONFIG).write_text(json.dumps(told), encoding="utf-8")
    return target

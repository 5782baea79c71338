"""Adapters of dwarf checkpoints, made and saved by peft itself, and what peft makes of them: the oracle."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MusicgenForConditionalGeneration

from generation.engine.protocol import AdapterUse

Root = Literal["decoder", "whole"]

#: Ways people train: what peft is told, and what it is attached to.
KINDS: dict[str, tuple[Root, dict[str, Any]]] = {
    "decoder": ("decoder", {"target_modules": ["q_proj", "v_proj"]}),
    "whole": ("whole", {"target_modules": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]}),
    "whole-layers": ("whole", {"target_modules": ["q_proj", "fc1"], "alpha_pattern": {"fc1": 3}}),
    "text": ("whole", {"target_modules": ["q", "v", "enc_to_dec_proj", "q_proj"]}),
    "rslora": ("decoder", {"target_modules": ["q_proj", "fc1"], "use_rslora": True}),
    "dora": ("decoder", {"target_modules": ["q_proj", "fc2"], "use_dora": True}),
    "dora-whole": ("whole", {"target_modules": ["q_proj", "enc_to_dec_proj", "wi"], "use_dora": True}),
    "heads": ("decoder", {"target_modules": ["lm_heads.0", "lm_heads.1", "lm_heads.2", "lm_heads.3"]}),
    "embeddings": ("decoder", {"target_modules": r".*embed_tokens\.\d+|.*lm_heads\.\d+|.*\.v_proj"}),
    "dora-embeddings": (
        "decoder",
        {"target_modules": r".*embed_tokens\.\d+|.*lm_heads\.\d+", "use_dora": True},
    ),
    "patterns": (
        "decoder",
        {
            "target_modules": ["q_proj", "v_proj", "fc1"],
            "rank_pattern": {"^model.decoder.layers.0.self_attn.q_proj": 2, r"layers\.1\.fc1": 6},
            "alpha_pattern": {"v_proj": 3, "^model.decoder.layers.1.encoder_attn.v_proj": 7},
        },
    ),
    "saved": (
        "decoder",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_heads.0", "layer_norm", "embed_tokens.1"]},
    ),
    "saved-layer": ("decoder", {"target_modules": ["lm_heads.1"], "modules_to_save": ["layers.1"]}),
    "some-layers": ("decoder", {"target_modules": ["q_proj", "fc1"], "layers_to_transform": [1]}),
    # These change one head and nothing before it, so that logits follow what the module answers.
    "one-head": ("decoder", {"target_modules": ["lm_heads.1"]}),
    "one-dora": ("decoder", {"target_modules": ["lm_heads.1"], "use_dora": True}),
    "one-saved": ("decoder", {"target_modules": ["lm_heads.0"], "modules_to_save": ["lm_heads.1"]}),
}


@dataclass(frozen=True)
class AdapterFiles:
    """A folder as `save_pretrained` leaves it."""

    folder: Path
    root: Root

    @property
    def weights(self) -> Path:
        return self.folder / "adapter_model.safetensors"

    @property
    def config(self) -> Path:
        return self.folder / "adapter_config.json"

    def use(self, strength: float = 1.0, **changes: Any) -> AdapterUse:
        """The use of this adapter as the studio names it."""
        values = {
            "path": str(self.weights),
            "sha256": hashlib.sha256(self.weights.read_bytes()).hexdigest(),
            "config": self.config.read_text(encoding="utf-8"),
            "strength": strength,
            "name": self.folder.name,
        }
        return AdapterUse(**{**values, **changes})

    def rewritten(
        self, folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    ) -> AdapterFiles:
        """A copy with other tensors."""
        folder.mkdir(parents=True)
        save_file(change(load_file(self.weights)), folder / self.weights.name)
        (folder / self.config.name).write_bytes(self.config.read_bytes())
        return AdapterFiles(folder, self.root)

    def reconfigured(self, folder: Path, **changes: Any) -> AdapterFiles:
        """A copy with other entries in its config."""
        folder.mkdir(parents=True)
        (folder / self.weights.name).write_bytes(self.weights.read_bytes())
        config = {**json.loads(self.config.read_bytes()), **changes}
        (folder / self.config.name).write_text(json.dumps(config), encoding="utf-8")
        return AdapterFiles(folder, self.root)


#: Checkpoint, kind and seed to an adapter, made once in a session.
Make = Callable[..., AdapterFiles]


def network_of(checkpoint: Path, dtype: torch.dtype = torch.float32) -> MusicgenForConditionalGeneration:
    """The checkpoint in the library's own class, to be changed at will. A checkpoint itself never changes."""
    return copy.deepcopy(_loaded(checkpoint, dtype))


@lru_cache(maxsize=16)
def _loaded(checkpoint: Path, dtype: torch.dtype) -> MusicgenForConditionalGeneration:
    # To load a dwarf takes twenty times as long as to copy it.
    return MusicgenForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype).eval()


def make_adapter(checkpoint: Path, folder: Path, kind: str = "decoder", *, seed: int = 0) -> AdapterFiles:
    """Train, in as many words, an adapter: peft attaches it, every weight it trains moves, peft saves it."""
    root, options = KINDS[kind]
    network = network_of(checkpoint)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, **options})
    adapted = get_peft_model(network.decoder if root == "decoder" else network, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    adapted.save_pretrained(str(folder))
    return AdapterFiles(folder, root)


def with_peft(
    checkpoint: Path, *adapters: AdapterFiles, dtype: torch.dtype = torch.float32
) -> MusicgenForConditionalGeneration:
    """The checkpoint with adapters as peft itself loads them, the way they were trained; all are active."""
    network = network_of(checkpoint, dtype)
    roots = {each.root for each in adapters}
    assert len(roots) == 1, "peft attaches all to one model"
    target = network.decoder if roots == {"decoder"} else network
    names = [f"a{number}" for number in range(len(adapters))]
    adapted: Any = PeftModel.from_pretrained(target, adapters[0].folder, adapter_name=names[0])
    for name, each in zip(names[1:], adapters[1:], strict=True):
        adapted.load_adapter(each.folder, adapter_name=name)
    if len(names) > 1:
        adapted.base_model.set_adapter(names)
    return network.eval()  # peft put its layers into it

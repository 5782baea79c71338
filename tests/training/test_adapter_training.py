"""The adapter's training: it learns its style, leaves the base alone, and saves what peft and the studio read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import MusicgenForConditionalGeneration, T5Tokenizer

from generation.training.adapter_training import BASE_MODEL, train_adapter
from generation.training.checkpoint import export
from generation.training.language_model_training import start_weights
from generation.training.tokens import write_shard
from registry.catalog import DEMO_MODEL_ID, MODEL_CONFIGS


@pytest.fixture
def run(tmp_path: Path, model: MusicgenForConditionalGeneration, tokenizer: T5Tokenizer) -> Path:
    """A run folder with an exported dwarf and one small shard of every style."""
    start_weights(model)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokens").mkdir()
    write_shard(model.audio_encoder, 0, tmp_path / "tokens", count=4)
    export(model, tokenizer, tmp_path / "musicgen-demo")
    return tmp_path


def test_it_learns_its_style_and_is_a_small_adapter_of_the_demo(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generation.training.adapter_training.PIECES", 4)
    checkpoint = run / "musicgen-demo"
    before = load_file(checkpoint / "model.safetensors")
    train_adapter(run, checkpoint, "lullaby", 50)

    folder = run / "adapters" / "lullaby"
    first, last = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert last["loss"] < first["loss"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE_MODEL
    assert MODEL_CONFIGS[BASE_MODEL]["id"] == DEMO_MODEL_ID
    weights = load_file(folder / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)
    after = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)

    model = MusicgenForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    ids, text = torch.randint(16, (4, 12)), torch.randn(1, 3, model.config.decoder.hidden_size)
    with torch.no_grad():
        plain = model.decoder(input_ids=ids, encoder_hidden_states=text).logits
        adapted = PeftModel.from_pretrained(model.decoder, folder)(
            input_ids=ids, encoder_hidden_states=text
        ).logits
    assert not torch.allclose(plain, adapted)


def test_an_unknown_style_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no style 'polka'. Choose one of: ambient, "):
        train_adapter(tmp_path, tmp_path, "polka", 1)
    assert not any(tmp_path.iterdir())

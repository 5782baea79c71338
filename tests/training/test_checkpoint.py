"""The export: a folder that the library's own loaders read, and a tokenizer that spells any word."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoProcessor, MusicgenForConditionalGeneration, T5Tokenizer

from generation.training.checkpoint import export, play_as_at


def test_the_export_loads_with_the_library_and_makes_audio(
    tmp_path: Path, model: MusicgenForConditionalGeneration, tokenizer: T5Tokenizer
) -> None:
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    export(model, tokenizer, tmp_path / "demo")
    assert {"config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json"} <= {
        path.name for path in (tmp_path / "demo").iterdir()
    }
    loaded = MusicgenForConditionalGeneration.from_pretrained(tmp_path / "demo")
    assert loaded.dtype == torch.float32
    for name, weight in loaded.state_dict().items():
        torch.testing.assert_close(weight, weights[name].half().to(weight.dtype), msg=name)
    assert loaded.generation_config.guidance_scale == 3.0
    processor = AutoProcessor.from_pretrained(tmp_path / "demo")
    inputs = processor(text=["A slow piano piece"], padding=True, return_tensors="pt")
    audio = loaded.generate(**inputs, max_new_tokens=13)
    assert audio.shape == (1, 1, 10 * 320)
    assert torch.isfinite(audio).all()


def test_a_new_export_takes_the_old_ones_place_and_keeps_its_card(
    tmp_path: Path, model: MusicgenForConditionalGeneration, tokenizer: T5Tokenizer
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "README.md").write_text("card")
    (folder / "stale.bin").write_text("old")
    export(model, tokenizer, folder)
    assert (folder / "README.md").read_text() == "card"
    assert not (folder / "stale.bin").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_the_saved_tokenizer_ignores_case_and_spells_unknown_words(
    tmp_path: Path, tokenizer: T5Tokenizer
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = T5Tokenizer.from_pretrained(tmp_path)
    assert loaded("Slow PIANO").input_ids == loaded("slow piano").input_ids
    assert loaded.unk_token_id not in loaded("xylophonic zydeco, 7/8 & more!").input_ids
    assert loaded("drums").input_ids[-1] == loaded.eos_token_id


def test_what_was_one_temperature_becomes_one(model: MusicgenForConditionalGeneration) -> None:
    ids, text = torch.randint(16, (4, 6), generator=torch.Generator().manual_seed(1)), torch.tensor([[3, 1]])

    def chances(temperature: float) -> torch.Tensor:
        """Of every code, given a text and given none, as guidance at 3 adds them up."""
        asked = {"decoder_input_ids": ids.repeat(2, 1), "attention_mask": torch.tensor([[1, 1], [0, 0]])}
        with torch.no_grad():
            logits = model(input_ids=text.repeat(2, 1), **asked).logits
        heard, deaf = logits.chunk(2)
        told: torch.Tensor = ((deaf + 3 * (heard - deaf)) / temperature).softmax(-1)
        return told

    model.eval()
    before = chances(0.8)
    play_as_at(model, 0.8)
    torch.testing.assert_close(chances(1.0), before)

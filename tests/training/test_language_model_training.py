"""The language model's training step: it learns, uses the engine's delay pattern, and captions can be left out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import EncodecConfig, EncodecModel, MusicgenForConditionalGeneration, T5Tokenizer

from generation.engine.delay import DelayPattern
from generation.training.codec_training import LATENT_SPREAD, CodecTraining
from generation.training.codec_training import start_weights as start_codec
from generation.training.composer import STEPS_PER_BAR
from generation.training.language_model_training import (
    LanguageModelTraining,
    assembled,
    book_losses,
    delayed,
    read,
    start_weights,
)
from generation.training.tokens import TokenPool, write_shard

FRAMES = 20


@pytest.fixture
def batch(tokenizer: T5Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [2, 4, T], caption ids and their mask [2, S]."""
    codes = torch.randint(16, (2, 4, FRAMES), generator=torch.Generator().manual_seed(3))
    text = tokenizer(["a slow sad piano piece", "drums"], return_tensors="pt", padding=True)
    return codes, text.input_ids, text.attention_mask


def loss_of(
    model: MusicgenForConditionalGeneration, codes: Tensor, text: Tensor, mask: Tensor, keep: Tensor
) -> Tensor:
    return book_losses(model, read(model, codes, text, mask, keep))


def test_ids_follow_the_engines_delay_pattern(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    pattern, codes = DelayPattern(codebooks=4, channels=1), batch[0]
    ids = delayed(codes, 16)
    assert ids.shape == (2, 4, 1 + pattern.steps_for(FRAMES))
    for row, row_codes in zip(ids, codes, strict=True):
        assert torch.equal(row, pattern.apply(row_codes, 16))
        assert torch.equal(pattern.undo(row, FRAMES), row_codes)


def test_the_loss_is_that_of_the_delayed_codes(
    model: MusicgenForConditionalGeneration, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Against the decoder's own log-probabilities, read at the places where the pattern puts each code."""
    codes, text, mask = batch
    model.eval()
    with torch.no_grad():
        losses = loss_of(model, codes, text, mask, torch.ones(2))
        described = model.text_encoder(input_ids=text, attention_mask=mask).last_hidden_state
        described = model.enc_to_dec_proj(described) * mask[..., None]
        ids = delayed(codes, 16)
        logits = model.decoder(
            input_ids=ids.flatten(0, 1), encoder_hidden_states=described, encoder_attention_mask=mask
        ).logits.view(2, 4, ids.shape[-1], -1)
    chances = logits.log_softmax(-1)
    for book in range(4):
        # The step before a code's own place predicts it: frame t of book k stands at 1 + k + t.
        told = chances[:, book, book : book + FRAMES].gather(-1, codes[:, book, :, None])
        assert losses[book].item() == pytest.approx(-told.mean().item(), rel=1e-4)


def test_a_row_without_caption_does_not_hear_it(
    model: MusicgenForConditionalGeneration, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    codes, text, mask = batch
    start_weights(model)
    other = torch.where(mask.bool(), text.flip(1), text)
    with torch.no_grad():
        deaf = [loss_of(model, codes, words, mask, torch.zeros(2)) for words in (text, other)]
        hearing = [loss_of(model, codes, words, mask, torch.ones(2)) for words in (text, other)]
    assert torch.equal(deaf[0], deaf[1])
    assert not torch.allclose(hearing[0], hearing[1])


def test_a_few_steps_lower_the_loss(
    model: MusicgenForConditionalGeneration, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    start_weights(model)
    optimiser = torch.optim.AdamW([*model.decoder.parameters(), *model.enc_to_dec_proj.parameters()], 3e-3)
    losses = []
    for _ in range(20):
        loss = loss_of(model, *batch, torch.ones(2)).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_shards_hold_codes_and_captions_of_the_same_pieces(
    tmp_path: Path, codec_shape: EncodecConfig
) -> None:
    torch.manual_seed(0)
    codec = EncodecModel(codec_shape).eval()
    start_codec(codec)
    write_shard(codec, 0, tmp_path, count=3)
    pool = TokenPool(tmp_path)
    batch = pool.batch(random.Random(0), rows=2, frames=100)
    assert batch.codes.shape == (2, 4, 100)
    sixteenths = {
        caption: bar // STEPS_PER_BAR
        for shard in pool.shards.values()
        for captions, bar in zip(shard["captions"], shard["bars"], strict=True)
        for caption in captions
    }
    assert batch.sixteenths.tolist() == [sixteenths[caption] for caption in batch.captions]


def test_a_run_resumes_where_it_stopped_and_is_assembled_with_its_codec(
    tmp_path: Path, model: MusicgenForConditionalGeneration, tokenizer: T5Tokenizer
) -> None:
    codec_training = CodecTraining(tmp_path, steps=8, batch=2, config=model.config.audio_encoder)
    for layer in codec_training.codec.quantizer.layers:
        layer.codebook.embed.normal_(std=300.0)
    codec_training.save()
    (tmp_path / "tokens" / "unseen").mkdir(parents=True)
    write_shard(codec_training.codec.eval(), 0, tmp_path / "tokens", count=3)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    training = LanguageModelTraining(tmp_path, model.config)
    training.step(0.0)
    training.save()
    expected = training.step(0.1)
    resumed = LanguageModelTraining(tmp_path, model.config)
    assert resumed.steps_done == 1
    assert torch.equal(resumed.step(0.1), expected)

    whole, _ = assembled(tmp_path, model.config)
    saved = torch.load(tmp_path / "lm.pt", weights_only=True)["model"]
    assert torch.equal(whole.decoder.state_dict()["lm_heads.0.weight"], saved["decoder.lm_heads.0.weight"])
    assert whole.audio_encoder.quantizer.layers[0].codebook.embed.std().item() == pytest.approx(LATENT_SPREAD)

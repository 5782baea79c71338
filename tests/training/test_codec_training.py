"""The codec's training: it learns, goes on where it stopped, and its codes and audio survive the export's rescaling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from generation.training.codec_training import (
    LATENT_SPREAD,
    CodecTraining,
    TrainableCodebooks,
    crops,
    decode,
    encode,
    load_codec,
    start_weights,
    storable_scale,
)
from generation.training.spectra import reconstruction_loss


def test_a_few_steps_lower_the_loss_on_unseen_music(tmp_path: Path, codec_shape: EncodecConfig) -> None:
    training = CodecTraining(tmp_path, steps=200, batch=2, config=codec_shape)
    audio = crops(1_000_000, 4)

    def energy() -> float:
        with torch.no_grad():
            made = training.codec.decoder(training.codec.encoder(audio))
        return float(reconstruction_loss(made[:, 0], audio[:, 0])["energy"])

    before = energy()
    for _ in range(14):
        training.step()
    assert energy() < 0.7 * before


@pytest.mark.parametrize("stop_after", [1, 5], ids=["before the codebooks", "with the codebooks"])
def test_a_resumed_run_has_the_same_next_loss(
    tmp_path: Path, codec_shape: EncodecConfig, stop_after: int
) -> None:
    training = CodecTraining(tmp_path, steps=8, batch=2, config=codec_shape)
    for _ in range(stop_after):
        training.step()
    training.save()
    expected = [training.step(), training.step()]
    resumed = CodecTraining(tmp_path, steps=8, batch=2, config=codec_shape)
    assert resumed.steps_done == stop_after
    assert [resumed.step(), resumed.step()] == expected


def test_the_encoder_and_the_books_stand_still_at_the_end(tmp_path: Path, codec_shape: EncodecConfig) -> None:
    training = CodecTraining(tmp_path, steps=10, batch=2, config=codec_shape)
    while training.steps_done < training.final_from:
        training.step()
    audio = crops(77, 2)[:, 0]
    with torch.no_grad():
        codes = encode(training.codec, audio)
        before = decode(training.codec, codes)
    training.step()
    with torch.no_grad():
        assert torch.equal(encode(training.codec, audio), codes)
        assert not torch.equal(decode(training.codec, codes), before)


def test_the_saved_codec_can_be_loaded_for_use(tmp_path: Path, codec_shape: EncodecConfig) -> None:
    training = CodecTraining(tmp_path, steps=8, batch=2, config=codec_shape)
    training.step()
    training.save()
    audio = crops(1, 2)[:, 0]
    with torch.no_grad():
        assert torch.equal(
            load_codec(tmp_path, codec_shape).encoder(audio[:, None]),
            training.codec.eval().encoder(audio[:, None]),
        )


def test_books_started_from_clusters_come_close_to_the_latents(codec_shape: EncodecConfig) -> None:
    torch.manual_seed(0)
    centres = torch.randn(16, 16)
    latents = centres[torch.randint(16, (400,))] + 0.01 * torch.randn(400, 16)
    codebooks = TrainableCodebooks(EncodecModel(codec_shape))
    codebooks.start_from_clusters(latents)
    quantised, _ = codebooks(latents.T[None], learn=False)
    assert (quantised[0].T - latents).square().mean() < 0.1 * latents.var()


def test_rescaled_latents_keep_codes_and_audio(codec_shape: EncodecConfig) -> None:
    torch.manual_seed(0)
    codec = EncodecModel(codec_shape).eval()
    start_weights(codec)
    audio = crops(2, 2)
    with torch.no_grad():
        codec.encoder.layers[-1].conv.weight = 2e6 * codec.encoder.layers[-1].conv.weight
        latents = codec.encoder(audio)
        TrainableCodebooks(codec).start_from_clusters(latents.transpose(1, 2).flatten(0, 1))
        codes = encode(codec, audio[:, 0])
        made = decode(codec, codes)
        storable_scale(codec)
        assert codec.quantizer.layers[0].codebook.embed.std().item() == pytest.approx(LATENT_SPREAD)
        assert all(weight.half().isfinite().all() for weight in codec.state_dict().values())
        assert (encode(codec, audio[:, 0]) == codes).float().mean() > 0.99
        torch.testing.assert_close(decode(codec, codes), made, rtol=1e-3, atol=1e-3 * float(made.abs().max()))

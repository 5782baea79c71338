"""The questions beside the codes: each is asked of the rows that it makes sense for, and the answers reach the network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import MusicgenForConditionalGeneration, T5Tokenizer

from generation.training.composer import SIXTEENTHS, STEPS_PER_BAR
from generation.training.hints import KEYS, Hints
from generation.training.language_model_training import captioned_loss, start_weights
from generation.training.tokens import Batch

WIDTH, FRAMES = 8, 2 * 5 * STEPS_PER_BAR
TEMPO, PLACE, KEY = math.log(len(SIXTEENTHS)), math.log(STEPS_PER_BAR), math.log(len(KEYS))
#: Tempo at three depths and place in the bar at two.
OF_FRAMES = 3 * TEMPO + 2 * PLACE


@pytest.fixture
def unsure() -> Hints:
    """Heads for which every answer is as likely."""
    hints = Hints(WIDTH)
    for weight in hints.parameters():
        torch.nn.init.zeros_(weight)
    return hints


def asked(hints: Hints, captions: list[str | None], sixteenths: list[int]) -> float:
    layers = [torch.zeros(len(captions), FRAMES, WIDTH)] * 7
    described, mask = torch.ones(len(captions), 3, WIDTH), torch.tensor([[1, 1, 0]] * len(captions))
    told: Tensor = hints(layers, described, mask, captions, torch.tensor(sixteenths))
    return told.item()


@pytest.mark.parametrize(
    ("captions", "more"),
    [
        (["drums", "a slow piano"], 0.0),
        (["drums at 120 bpm", "a slow piano"], TEMPO),
        (["drums", "piano in E flat minor"], KEY),
        (["drums at 120 bpm", "piano in C major at 60 bpm"], TEMPO + KEY),
        ([None, None], 0.0),
    ],
)
def test_a_caption_is_asked_for_what_it_names(captions: list[str | None], more: float, unsure: Hints) -> None:
    assert asked(unsure, captions, [5, 12]) == pytest.approx(OF_FRAMES + more, rel=1e-5)


def test_the_right_tempo_costs_nothing_and_the_wrong_one_much(unsure: Hints) -> None:
    for head in (unsure.early[1], unsure.middle[1], unsure.frame, unsure.caption):
        head.get_parameter("bias").data[7 - SIXTEENTHS[0]] = 30.0
    assert asked(unsure, ["at 107 bpm"], [7]) == pytest.approx(2 * PLACE, rel=1e-4)
    assert asked(unsure, ["at 107 bpm"], [8]) > 100


def test_the_place_goes_on_through_each_bar(unsure: Hints) -> None:
    """Hidden states that say the place outright, and heads that read it off."""
    sixteenth = 5
    layers = torch.zeros(1, FRAMES, WIDTH * 4)
    place = torch.arange(FRAMES) // sixteenth % STEPS_PER_BAR
    layers[0, torch.arange(FRAMES), place] = 30.0
    hints = Hints(WIDTH * 4)
    for weight in hints.parameters():
        torch.nn.init.zeros_(weight)
    hints.middle[0] = torch.nn.Identity()
    for head in (hints.middle[1], hints.frame):
        head.get_parameter("weight").data[len(SIXTEENTHS) :, :STEPS_PER_BAR] = torch.eye(STEPS_PER_BAR)
    told = hints([layers] * 7, torch.ones(1, 1, WIDTH * 4), torch.ones(1, 1), ["drums"], torch.tensor([5]))
    assert told.item() == pytest.approx(3 * TEMPO, rel=1e-4)


def test_what_is_asked_reaches_the_middle_of_the_network(
    model: MusicgenForConditionalGeneration, tokenizer: T5Tokenizer
) -> None:
    start_weights(model)
    codes: Tensor = torch.randint(16, (2, 4, 40), generator=torch.Generator().manual_seed(3))
    batch = Batch(codes, ["drums at 120 bpm", "drums at 90 bpm"], torch.tensor([6, 8]))
    hints = Hints(model.config.decoder.hidden_size)
    plain = captioned_loss(model, tokenizer, batch, [True, True])
    losses = captioned_loss(model, tokenizer, batch, [True, True], hints)
    assert torch.equal(losses[:-1], plain), "the codes' own losses stay what they are"
    torch.autograd.backward(losses[-1])
    first, last = model.decoder.model.decoder.layers[0], model.decoder.model.decoder.layers[-1]
    for weight in (model.enc_to_dec_proj.weight, first.fc1.weight, last.fc1.weight):
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0
    assert not model.decoder.lm_heads[0].weight.grad.any()
    deaf = captioned_loss(model, tokenizer, batch, [False, False], hints)
    assert deaf[-1].item() != losses[-1].item()

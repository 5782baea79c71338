"""Adapters of every dwarf on every dwarf: each has its effect or is refused, and the base is what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from adapters.format.lora_config import parse_config
from generation.engine.adapters.attach import Attachment
from generation.engine.adapters.proof import fixed_logits
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.errors import EngineError
from generation.engine.protocol import ADAPTER_MISMATCH
from generation.engine.random_checkpoint import CheckpointShape, build_checkpoint
from tests.adapters.made import CONFIG, PARTS, WAYS, make_adapter, make_checkpoint
from tests.engine.adapter_files import AdapterFiles, Make, network_of, with_peft
from tests.engine.dwarf import MONO
from tests.engine.test_adapter_logits import logits_of, logits_with, state_of

SHAPES = {
    "mono": MONO,
    "stereo": CheckpointShape(**{**vars(MONO), "channels": 2}),
    "wide": CheckpointShape(**{**vars(MONO), "width": 24}),
    "deep": CheckpointShape(**{**vars(MONO), "layers": 3}),
}
KINDS = ["decoder", "whole", "heads", "embeddings", "dora", "saved-layer", "some-layers"]
#: What one dwarf's adapter has in common with another dwarf. Its shapes cannot tell a mono adapter that leaves
#: embeddings and heads alone from a stereo one: that is for the studio's verdict, which knows more.
FITS = {
    ("decoder", "mono", "stereo"),
    ("decoder", "stereo", "mono"),
    ("whole", "mono", "stereo"),
    ("whole", "stereo", "mono"),
    ("dora", "mono", "stereo"),
    ("dora", "stereo", "mono"),
    ("saved-layer", "mono", "stereo"),
    ("saved-layer", "stereo", "mono"),
    ("some-layers", "mono", "stereo"),
    ("some-layers", "stereo", "mono"),
    # Heads and embeddings of a mono model are the first ones of a stereo model, but not the reverse.
    ("heads", "mono", "stereo"),
    ("heads", "stereo", "mono"),
    ("embeddings", "mono", "stereo"),
    # These name what they change, and it is there at any depth.
    ("heads", "mono", "deep"),
    ("heads", "deep", "mono"),
    ("heads", "deep", "stereo"),
    ("heads", "stereo", "deep"),
    ("some-layers", "mono", "deep"),
    ("some-layers", "deep", "mono"),
    ("some-layers", "deep", "stereo"),
    ("some-layers", "stereo", "deep"),
    ("saved-layer", "mono", "deep"),
    ("saved-layer", "deep", "mono"),
    ("saved-layer", "deep", "stereo"),
    ("saved-layer", "stereo", "deep"),
    ("embeddings", "mono", "deep"),
}


@pytest.fixture(scope="module")
def dwarfs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, LoadedModel, Tensor]]:
    """Folder, model and logits of the fixed input, of each shape."""
    found = {}
    for name, shape in SHAPES.items():
        folder = tmp_path_factory.mktemp(name)
        build_checkpoint(folder, shape, seed=1)
        model = load_checkpoint(str(folder), device="cpu")
        found[name] = (folder, model, fixed_logits(model))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made_for", SHAPES)
@pytest.mark.parametrize("loaded", SHAPES)
def test_each_adapter_on_each_model(
    dwarfs: dict[str, tuple[Path, LoadedModel, Tensor]], make: Make, kind: str, made_for: str, loaded: str
) -> None:
    adapter = make(dwarfs[made_for][0], kind)
    folder, model, base = dwarfs[loaded]
    before, modules = state_of(model), list(model.network.named_modules())
    attachment = Attachment()
    if made_for == loaded or (kind, made_for, loaded) in FITS:
        got = fixed_logits(attachment.model_for(model, [adapter.use()]))
        assert (got - base).abs().mean() > 1e-3
        if made_for == loaded:
            assert torch.equal(got, logits_of(model, with_peft(folder, adapter)))
    else:
        with pytest.raises(EngineError, match="does not fit the loaded model") as caught:
            attachment.model_for(model, [adapter.use()])
        assert caught.value.error_code == ADAPTER_MISMATCH
        assert caught.value.detail
    assert attachment.model_for(model, []) is model
    assert torch.equal(fixed_logits(model), base)
    assert state_of(model) == before
    assert list(model.network.named_modules()) == modules


def _renamed(change: Callable[[str], str]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {change(name): tensor for name, tensor in tensors.items()}


#: Ways in which names come out of training scripts: kind, and what became of each name.
SPELLINGS: dict[str, tuple[str, Callable[[str], str], str]] = {
    "trained on the decoder, named for the whole": (
        "saved",
        lambda name: name.replace("base_model.model.", "base_model.model.decoder."),
        "",
    ),
    "trained on the whole, named for the decoder": (
        "whole-layers",
        lambda name: name.replace("base_model.model.decoder.", "base_model.model."),
        "Trained on the decoder alone",
    ),
    "without peft's prefix": (
        "embeddings",
        lambda name: name.removeprefix("base_model.model."),
        "lack the prefix",
    ),
    "with the adapter's name": (
        "decoder",
        lambda name: name.replace(".weight", ".default.weight"),
        "had in training",
    ),
    "named from the layers on": (
        "dora",
        lambda name: name.replace("base_model.model.model.decoder.", ""),
        "Trained on the layers alone",
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("dwarf_name", ["mono", "stereo"])
def test_other_spellings_of_names_act_the_same(
    dwarfs: dict[str, tuple[Path, LoadedModel, Tensor]],
    make: Make,
    tmp_path: Path,
    spelling: str,
    dwarf_name: str,
) -> None:
    folder, model, _ = dwarfs[dwarf_name]
    kind, change, note = SPELLINGS[spelling]
    adapter = make(folder, kind)
    other = adapter.rewritten(tmp_path / "other", _renamed(change))
    attachment = Attachment()
    got = fixed_logits(attachment.model_for(model, [other.use()]))
    assert torch.equal(got, logits_of(model, with_peft(folder, adapter)))
    assert note in " ".join(attachment.attached[0].notes)
    if not note:
        assert attachment.attached[0].notes == []


@pytest.mark.parametrize("base", [None, "somebody/else", "/home/them/checkpoint"])
def test_the_base_that_an_adapter_names_does_not_matter(
    dwarfs: dict[str, tuple[Path, LoadedModel, Tensor]], make: Make, tmp_path: Path, base: str | None
) -> None:
    folder, model, _ = dwarfs["mono"]
    adapter = make(folder, "patterns")
    other = adapter.reconfigured(tmp_path / "renamed", base_model_name_or_path=base, task_type=None)
    assert torch.equal(logits_with(model, other.use()), logits_of(model, with_peft(folder, adapter)))


@pytest.mark.parametrize("kind", ["patterns", "rslora", "dora", "some-layers"])
def test_the_config_that_the_studio_keeps_says_the_same(
    dwarfs: dict[str, tuple[Path, LoadedModel, Tensor]], make: Make, kind: str
) -> None:
    folder, model, _ = dwarfs["mono"]
    adapter = make(folder, kind)
    kept = parse_config(adapter.config.read_bytes()).canonical()
    assert torch.equal(
        logits_with(model, adapter.use(config=kept)), logits_of(model, with_peft(folder, adapter))
    )


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_training_acts_as_in_peft(
    dwarfs: dict[str, tuple[Path, LoadedModel, Tensor]], tmp_path: Path, way: str
) -> None:
    folder, model, base = dwarfs["mono"]
    recipe = WAYS[way]
    adapter = make_adapter(folder, tmp_path / "adapter", recipe)
    network = network_of(folder)
    trained = network.get_submodule(PARTS[recipe.on])
    PeftModel.from_pretrained(trained, str(adapter))  # puts its layers into the network
    got = logits_with(model, AdapterFiles(adapter, "whole").use())
    assert torch.equal(got, logits_of(model, network.eval()))
    assert not torch.equal(got, base)


@pytest.mark.parametrize("way", ["whole", "decoder", "everything", "dora"])
def test_an_adapter_of_a_melody_model_does_not_fit_a_text_model(
    dwarfs: dict[str, tuple[Path, LoadedModel, Tensor]], tmp_path: Path, way: str
) -> None:
    melody = make_checkpoint(tmp_path / "melody", "melody")
    adapter = make_adapter(melody, tmp_path / "adapter", WAYS[way])
    assert (adapter / CONFIG).is_file()
    _, model, base = dwarfs["mono"]
    with pytest.raises(EngineError, match="does not fit the loaded model") as caught:
        logits_with(model, AdapterFiles(adapter, "whole").use())
    assert caught.value.error_code == ADAPTER_MISMATCH
    assert torch.equal(fixed_logits(model), base)

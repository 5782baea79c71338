"""Loading checkpoints from folders, and every way in which that fails."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from generation.engine.checkpoint import LoadedModel, load_checkpoint, weight_files
from generation.engine.errors import EngineError
from generation.engine.protocol import (
    CHECKPOINT_CORRUPT,
    CHECKPOINT_NOT_FOUND,
    CHECKPOINT_UNSUPPORTED,
    ENGINE_ERROR,
)
from registry import number_formats
from tests.engine.conftest import DEMO


def failure(folder: Path | str, **options: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        load_checkpoint(str(folder), device="cpu", **options)
    assert caught.value.message.endswith(".")
    return caught.value


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_it_says_what_was_loaded(model: LoadedModel) -> None:
    assert model.device == torch.device("cpu")
    assert model.dtype == torch.float32
    assert (model.sample_rate, model.frame_rate, model.samples_per_frame) == (800, 50, 16)
    assert model.codebooks == 4 * model.channels
    assert model.pad_token == 32
    assert model.revision is None
    assert model.parameters == sum(each.numel() for each in model.network.parameters())
    assert model.weight_bytes > 4 * model.parameters  # codebooks are buffers
    assert not any(each.requires_grad for each in model.network.parameters())
    assert not model.network.training


def test_it_reports_stages_and_fractions(mono: Path) -> None:
    seen: list[tuple[str, float | None]] = []
    load_checkpoint(
        str(mono), device="cpu", on_progress=lambda stage, fraction: seen.append((stage, fraction))
    )
    assert {stage for stage, _ in seen} == {"reading weights", "preparing"}
    fractions = [fraction for stage, fraction in seen if stage == "reading weights"]
    assert fractions == sorted(fractions, key=lambda fraction: fraction or 0.0)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert len(fractions) > 20
    assert seen[-1] == ("preparing", None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_codec_stays_in_float32(mono: Path, dtype: str) -> None:
    model = load_checkpoint(str(mono), device="cpu", dtype=dtype)
    half = getattr(torch, dtype)
    assert model.dtype == half
    assert {each.dtype for each in model.network.decoder.parameters()} == {half}
    assert model.network.enc_to_dec_proj.weight.dtype == half
    codec = [*model.network.audio_encoder.parameters(), *model.network.audio_encoder.buffers()]
    assert {each.dtype for each in codec if each.is_floating_point()} == {torch.float32}
    exact = load_file(mono / "model.safetensors")["audio_encoder.quantizer.layers.0.codebook.embed"]
    assert torch.equal(model.network.audio_encoder.quantizer.layers[0].codebook.embed, exact)


def test_a_bin_file_loads_like_safetensors(broken: Path, mono_model: LoadedModel) -> None:
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    loaded = load_checkpoint(str(broken), device="cpu").network.state_dict()
    for name, weight in mono_model.network.state_dict().items():
        assert torch.equal(loaded[name], weight)


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(__file__).parent / "malice-was-here",))


def test_a_bin_file_that_holds_code_is_never_run(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    torch.save({"weights": Malice()}, broken / "pytorch_model.bin")
    error = failure(broken)
    assert error.error_code == CHECKPOINT_CORRUPT
    assert "more than weights" in error.message
    assert not (Path(__file__).parent / "malice-was-here").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_bin_file_that_is_a_bare_pickle_is_never_run(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(pickle.dumps(Malice()))
    assert failure(broken).error_code == CHECKPOINT_CORRUPT
    assert not (Path(__file__).parent / "malice-was-here").exists()


def test_a_missing_folder(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), "./none", "~/no-such-folder-at-all", "a/b/c", ""):
        error = failure(name)
        assert error.error_code == CHECKPOINT_NOT_FOUND
        assert "There is no folder" in error.message


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    error = failure(tmp_path)
    assert error.error_code == CHECKPOINT_NOT_FOUND
    assert "no config.json" in error.message


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff"])
def test_a_config_that_cannot_be_read(broken: Path, text: str) -> None:
    (broken / "config.json").write_text(text, encoding="latin-1")
    error = failure(broken)
    assert error.error_code == CHECKPOINT_CORRUPT
    assert "config.json" in error.message


def test_another_kind_of_model(broken: Path) -> None:
    edit_config(broken, model_type="llama")
    error = failure(broken)
    assert error.error_code == CHECKPOINT_UNSUPPORTED
    assert "not a MusicGen model but of type 'llama'" in error.message


def test_cut_off_safetensors(broken: Path) -> None:
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    error = failure(broken)
    assert error.error_code == CHECKPOINT_CORRUPT
    assert "cut off" in error.message


def test_a_cut_off_bin_file(broken: Path) -> None:
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    path = broken / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-1000])
    assert failure(broken).error_code == CHECKPOINT_CORRUPT


def test_no_weights_at_all(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    error = failure(broken)
    assert error.error_code == CHECKPOINT_CORRUPT
    assert "lacks its weights" in error.message


@pytest.mark.parametrize(
    "name",
    [
        "decoder.lm_heads.1.weight",
        "enc_to_dec_proj.bias",
        "audio_encoder.quantizer.layers.0.codebook.embed",
    ],
)
def test_a_missing_weight_is_never_made_up(broken: Path, name: str) -> None:
    edit_weights(broken, lambda weights: weights.pop(name))
    error = failure(broken)
    assert error.error_code == CHECKPOINT_CORRUPT
    assert name in error.detail
    assert "lacks 1 of its weights" in error.message


def test_a_weight_of_another_shape_is_never_made_up(broken: Path) -> None:
    def widen(weights: dict[str, torch.Tensor]) -> None:
        weights["decoder.lm_heads.1.weight"] = torch.zeros(33, 16)

    edit_weights(broken, widen)
    error = failure(broken)
    assert error.error_code == CHECKPOINT_CORRUPT
    assert "decoder.lm_heads.1.weight" in error.detail


def test_tied_weights_that_are_both_missing(broken: Path) -> None:
    edit_weights(broken, lambda weights: weights.pop("text_encoder.shared.weight"))
    assert failure(broken).error_code == CHECKPOINT_CORRUPT


def test_a_config_of_nonsense(broken: Path) -> None:
    edit_config(broken, decoder={"hidden_size": "wide"})
    assert failure(broken).error_code == CHECKPOINT_CORRUPT


def test_sentences_do_not_show_where_the_folder_is(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    assert failure(broken).message == "broken lacks its weights, or a part of them. Fetch the model again."


def test_weights_that_nobody_asks_for_do_no_harm(broken: Path) -> None:
    edit_weights(broken, lambda weights: weights.update(extra=torch.zeros(3)))
    assert load_checkpoint(str(broken), device="cpu").codebooks == 4


def test_a_missing_tokenizer(broken: Path) -> None:
    (broken / "tokenizer.json").unlink()
    error = failure(broken)
    assert error.error_code == CHECKPOINT_CORRUPT
    assert "tokenizer" in error.message


def test_a_tokenizer_with_code_of_its_own_is_not_run(broken: Path) -> None:
    path = broken / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "tokenizer_class": "Evil"}
    path.write_text(json.dumps({**settings, "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    (broken / "evil.py").write_text(f"open({str(broken / 'ran')!r}, 'w')\nclass Evil: pass\n")
    load_checkpoint(str(broken), device="cpu")  # from tokenizer.json, by a class of the library
    assert not (broken / "ran").exists()


def test_a_decoder_that_its_codec_cannot_follow(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["audio_encoder"]["target_bandwidths"] = [0.5]  # two codebooks instead of four
    (broken / "config.json").write_text(json.dumps(config))
    error = failure(broken)
    assert error.error_code == CHECKPOINT_UNSUPPORTED
    assert "codes that its codec does not have" in error.message


def test_a_device_that_is_not_there(mono: Path) -> None:
    for device in ("tpu", *(["cuda"] if not torch.cuda.is_available() else [])):
        with pytest.raises(EngineError, match=f"no device '{device}'") as caught:
            load_checkpoint(str(mono), device=device)
        assert caught.value.error_code == ENGINE_ERROR
    assert "dtype" in failure(mono, dtype="float8").message


def test_auto_is_float32_on_a_cpu(mono: Path) -> None:
    model = load_checkpoint(str(mono), device="auto")
    if model.device.type == "cpu":
        assert model.dtype == torch.float32


def test_weight_files_prefer_safetensors_and_want_every_part(tmp_path: Path) -> None:
    assert weight_files(tmp_path) == []
    index = {
        "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    assert weight_files(tmp_path) == []
    (tmp_path / "model-2.safetensors").touch()
    assert [each.name for each in weight_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]
    (tmp_path / "pytorch_model.bin").touch()
    assert weight_files(tmp_path)[0].suffix == ".safetensors"


def test_parts_load_like_a_whole(broken: Path, mono_model: LoadedModel) -> None:
    weights = load_file(broken / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:80], "model-00002-of-00002.safetensors": names[80:]}
    for part, held in parts.items():
        save_file({name: weights[name] for name in held}, broken / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, held in parts.items() for name in held}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    (broken / "model.safetensors").unlink()
    loaded = load_checkpoint(str(broken), device="cpu").network.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in mono_model.network.state_dict().items())
    (broken / "model-00002-of-00002.safetensors").unlink()
    assert failure(broken).error_code == CHECKPOINT_CORRUPT


def test_the_runner_holds_it(monkeypatch: pytest.MonkeyPatch, mono: Path) -> None:
    monkeypatch.setattr(number_formats, "_LARGE_PARAMETERS", 1)
    monkeypatch.setattr(number_formats, "multiplies_bfloat16", lambda: True)
    assert str(load_checkpoint(str(mono), device="cpu", dtype="auto").dtype) == "torch.bfloat16"
    assert str(load_checkpoint(str(mono), device="cpu", dtype="float32").dtype) == "torch.float32"
    monkeypatch.undo()
    assert str(load_checkpoint(str(DEMO), device="cpu", dtype="auto").dtype) == "torch.float32"

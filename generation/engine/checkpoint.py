"""Loads a MusicGen checkpoint from a folder or the hub and says exactly what was loaded.

Decides device and dtype once. Never runs code from a checkpoint, and never fills a missing weight with a
random one.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging

from generation.engine.chroma import ChromaShape, read_chroma_shape
from generation.engine.errors import EngineError
from generation.engine.families import FAMILIES, MELODY, network_class
from generation.engine.hub import fetch_checkpoint
from generation.engine.kernels import Kernels, NoKernels, compiled_kernels
from generation.engine.measured_format import measure_once
from generation.engine.memory import is_out_of_memory
from generation.engine.packed import held_weights
from generation.engine.protocol import (
    CHECKPOINT_CORRUPT,
    CHECKPOINT_NOT_FOUND,
    CHECKPOINT_UNSUPPORTED,
    DEVICES,
    DTYPES,
    ENGINE_ERROR,
    OUT_OF_MEMORY,
    LoadStage,
)
from generation.engine.quantised import QuantisedFormat, quantise_decoder
from registry.number_formats import format_on_processor, size_of

if TYPE_CHECKING:
    from generation.engine.families import Network

OnProgress = Callable[[LoadStage, float | None], None]  # stage, fraction of it


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A checkpoint in memory, ready to generate, with what its configs say about it."""

    network: Network
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype  # of text encoder and decoder
    sample_rate: int
    frame_rate: int
    samples_per_frame: int
    channels: int
    codebooks: int
    pad_token: int  # stands where the delay pattern leaves a gap, and starts every sequence
    revision: str | None  # commit on the hub
    chroma: ChromaShape | None = None  # how it reads the melody of a clip; None for a text model
    kernels: Kernels | None = None  # compiled ones, on a card only to draw tokens; None where torch does it
    no_kernels: NoKernels | None = None  # why there are none, where there could be
    quantised: QuantisedFormat | None = None  # how the decoder's layers are held, where that is not `dtype`

    @property
    def format_name(self) -> str:
        """The format of its weights, one of DTYPES."""
        return self.quantised or str(self.dtype).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        """Number of weights of all three parts."""
        held = sum(layer.in_features * layer.out_features for layer in held_weights(self.network))
        plain: int = sum(each.numel() for each in self.network.parameters())
        return held + plain

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers as they are held."""
        held = [each for layer in held_weights(self.network) for each in layer.held]
        tensors = [*held, *self.network.parameters(), *self.network.buffers()]
        return sum(each.numel() * each.element_size() for each in tensors)


def load_checkpoint(
    checkpoint: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    kept: Path | None = None,
    on_progress: OnProgress = lambda stage, fraction: None,
) -> LoadedModel:
    """Load the checkpoint in a folder, in the hub's cache or on the hub.

    `device` is one of DEVICES, `dtype` one of DTYPES, `kept` a folder for what is compiled and measured once for a
    processor; without it neither is done. Raises EngineError with a code of `load.failed`.
    """
    try:
        return _load_checkpoint(checkpoint, revision, device, dtype, kept, on_progress)
    except EngineError:
        raise
    except Exception as error:
        raise load_failure(error) from error


def load_failure(error: Exception) -> EngineError:
    """The error with a code of `load.failed` and a sentence for people."""
    if isinstance(error, EngineError):
        return error
    detail = f"{type(error).__name__}: {error}"
    if is_out_of_memory(error):
        message = "There was not enough memory to load the model. Free some, or use a smaller one."
        return EngineError(OUT_OF_MEMORY, message, detail)
    message = "Loading the model failed inside the engine. The details say where."
    return EngineError(ENGINE_ERROR, message, detail)


def _load_checkpoint(
    checkpoint: str,
    revision: str | None,
    device: str,
    dtype: str,
    kept: Path | None,
    on_progress: OnProgress,
) -> LoadedModel:
    chosen_device = choose_device(device)
    _check_dtype(dtype)
    folder, commit = _locate(checkpoint, revision, on_progress)
    name = folder.name if commit is None else checkpoint  # for people, who need not see the server's folders
    model_type, decoder = _check_config(folder, name)
    quantised = _quantised(dtype, chosen_device)
    kernels, no_kernels = _kernels(kept if chosen_device.type != "mps" else None)
    chosen_dtype = (
        torch.bfloat16 if quantised else _choose_dtype(dtype, chosen_device, decoder, kept, kernels)
    )
    on_progress("reading weights", 0.0)
    network = _read_weights(
        network_class(model_type), folder, name, torch.float32 if quantised else chosen_dtype, on_progress
    )
    on_progress("preparing", None)
    _check_parts(network, name)
    chroma = _read_chroma(network, folder, name) if model_type == MELODY else None
    tokenizer = _read_tokenizer(folder, name)
    network.requires_grad_(False).eval().to(chosen_device)
    if quantised:
        quantise_decoder(network, quantised, kernels)
    if chosen_device.type == "cpu" and chosen_dtype != torch.float32:
        _detach_from_file(network.audio_encoder)
    codec = network.config.audio_encoder
    return LoadedModel(
        network=network,
        tokenizer=tokenizer,
        device=chosen_device,
        dtype=chosen_dtype,
        sample_rate=codec.sampling_rate,
        frame_rate=codec.frame_rate,
        samples_per_frame=codec.hop_length,
        channels=network.config.decoder.audio_channels,
        codebooks=network.config.decoder.num_codebooks,
        pad_token=_pad_token(network),
        revision=commit,
        chroma=chroma,
        quantised=quantised,
        kernels=kernels,
        no_kernels=no_kernels,
    )


def _kernels(kept: Path | None) -> tuple[Kernels | None, NoKernels | None]:
    """Compiled ones that are kept in a folder, or why there are none."""
    try:
        return (compiled_kernels(kept) if kept else None), None
    except NoKernels as reason:
        return None, reason


def choose_device(device: str) -> torch.device:
    """The device that a name of DEVICES means here; "auto" prefers cuda, then mps, then the CPU."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, there in present.items() if there))
    if not present.get(device, False):
        known = ", ".join(DEVICES)
        raise EngineError(ENGINE_ERROR, f"This machine has no device {device!r}. Choose another of {known}.")
    return torch.device(device)


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise EngineError(
            ENGINE_ERROR, f"{dtype!r} is no dtype of the engine. Choose one of {', '.join(DTYPES)}."
        )


def _quantised(dtype: str, device: torch.device) -> QuantisedFormat | None:
    if dtype != "int8" and dtype != "int4":
        return None
    if device.type != "cpu":
        message = (
            f"{dtype} is for processors; on {device.type} use bfloat16 or float16. Change MUSICGEN_DTYPE."
        )
        raise EngineError(ENGINE_ERROR, message)
    return "int8" if dtype == "int8" else "int4"


def _choose_dtype(
    dtype: str,
    device: torch.device,
    decoder: MusicgenDecoderConfig,
    kept: Path | None,
    kernels: Kernels | None,
) -> torch.dtype:
    """The dtype that a name of DTYPES means on a device, for such a decoder; "auto" is what is quickest there."""
    if dtype == "auto" and device.type == "cpu":
        size = size_of(
            layers=decoder.num_hidden_layers, hidden=decoder.hidden_size, intermediate=decoder.ffn_dim
        )
        if kept and size:
            measure_once(size, kept, kernels)
        dtype = format_on_processor(size, kept)
    if dtype != "auto":
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


# --- finding ---


def _locate(checkpoint: str, revision: str | None, on_progress: OnProgress) -> tuple[Path, str | None]:
    """Folder of the checkpoint and, where it is from the hub, its commit."""
    folder = Path(checkpoint).expanduser()
    if checkpoint and folder.is_dir():
        return folder, None
    if (
        folder.is_absolute()
        or checkpoint.startswith((".", "~"))
        or checkpoint.count("/") > 1
        or not checkpoint
    ):
        raise EngineError(
            CHECKPOINT_NOT_FOUND, f"There is no folder {checkpoint!r}. Check the path of the model."
        )
    return fetch_checkpoint(
        checkpoint,
        revision,
        is_complete=_is_complete,
        on_progress=lambda fraction: on_progress("downloading", fraction),
    )


def _is_complete(folder: Path) -> bool:
    tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model"))
    return tokenizer and (folder / "config.json").is_file() and bool(weight_files(folder))


def weight_files(folder: Path) -> list[Path]:
    """The weight files that a folder is loaded from, safetensors before .bin; empty where one is missing."""
    for whole, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            try:
                shards = sorted(set(json.loads((folder / index).read_bytes())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError):
                return []
            files = [folder / shard for shard in shards]
            return files if all(file.is_file() for file in files) else []
    return []


def _check_config(folder: Path, name: str) -> tuple[str, MusicgenDecoderConfig]:
    """Refuse what is not MusicGen by its config alone, before any weight is read; answers its family and decoder."""
    path = folder / "config.json"
    if not path.is_file():
        raise EngineError(
            CHECKPOINT_NOT_FOUND, f"{name} holds no config.json, so it is no model. Check the path."
        )
    unreadable = f"The config.json of {name} cannot be read. Fetch the model again."
    try:
        config = json.loads(path.read_bytes())
        model_type = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(CHECKPOINT_CORRUPT, unreadable, f"{type(error).__name__}: {error}") from error
    if model_type not in FAMILIES:
        message = f"{name} is not a MusicGen model but of type {model_type!r}. Choose a MusicGen model."
        raise EngineError(CHECKPOINT_UNSUPPORTED, message, f"model_type is {model_type!r}")
    try:
        # Both families' decoders say their sizes alike.
        return model_type, MusicgenDecoderConfig.from_dict(config.get("decoder") or {})
    except Exception as error:  # the library checks values in ways of its own
        raise EngineError(CHECKPOINT_CORRUPT, unreadable, f"{type(error).__name__}: {error}") from error


# --- reading ---


def _read_weights(kind: Any, folder: Path, name: str, dtype: torch.dtype, on_progress: OnProgress) -> Network:
    files = weight_files(folder)
    if not files:
        message = f"{name} lacks its weights, or a part of them. Fetch the model again."
        raise EngineError(CHECKPOINT_CORRUPT, message)
    try:
        with _weights_progress(lambda fraction: on_progress("reading weights", fraction)):
            network: Network
            network, found = kind.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=files[0].suffix == ".safetensors",
                weights_only=True,  # a .bin file is a pickle; never run what one may hold
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told by name below
            )
    except pickle.UnpicklingError as error:
        message = f"The weights of {name} are damaged, or hold more than weights. Use another copy."
        raise EngineError(CHECKPOINT_CORRUPT, message, str(error).split("\n")[0]) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # Each format and each part of a config fails with exceptions of its own.
        message = f"The weights of {name} are damaged or cut off. Fetch the model again."
        raise EngineError(CHECKPOINT_CORRUPT, message, f"{type(error).__name__}: {error}") from error
    # A weight that is missing or misshapen would silently be a random one.
    for what in ("missing_keys", "mismatched_keys"):
        if keys := sorted(str(key) for key in found[what]):
            message = f"{name} lacks {len(keys)} of its weights or has them misshapen. Fetch it again."
            raise EngineError(CHECKPOINT_CORRUPT, message, f"{what}: {', '.join(keys[:8])}")
    return network


def _detach_from_file(module: nn.Module) -> None:
    """Give a module memory of its own: as part of the mapped file it would keep all pages that were read for the rest."""
    for part in module.modules():
        # New tensors: one that was only given other data would still be a view of the file.
        for name, weight in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.clone())


class _CountedBar:
    """Stands in for the library's progress bar over the tensors of a checkpoint."""

    def __init__(self, items: Any, on_fraction: Callable[[float], None]) -> None:
        self._items = items
        self._on_fraction = on_fraction

    def __iter__(self) -> Iterator[Any]:
        total = max(1, len(self._items))
        for count, item in enumerate(self._items, start=1):
            yield item
            self._on_fraction(count / total)


@contextmanager
def _weights_progress(on_fraction: Callable[[float], None]) -> Iterator[None]:
    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and kwargs.get("desc") == "Loading weights":
            return _CountedBar(args[0], on_fraction)
        return factory(*args, **kwargs)

    previous = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)


def _read_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        message = f"The tokenizer of {name} is missing or cannot be read. Fetch the model again."
        raise EngineError(CHECKPOINT_CORRUPT, message, f"{type(error).__name__}: {error}") from error
    return tokenizer


# --- checking ---


def _check_parts(network: Network, name: str) -> None:
    """Refuse a checkpoint whose decoder makes codes that its codec cannot read."""
    decoder, codec = network.config.decoder, network.config.audio_encoder
    per_channel, left_over = divmod(decoder.num_codebooks, decoder.audio_channels)
    if codec.model_type != "encodec" or codec.audio_channels != 1:
        mismatch = "its codec is not a mono EnCodec"
    elif left_over or per_channel > codec.num_quantizers or decoder.vocab_size > codec.codebook_size:
        mismatch = "its decoder makes codes that its codec does not have"
    else:
        return
    message = f"{name} cannot be played: {mismatch}. Choose another model."
    raise EngineError(CHECKPOINT_UNSUPPORTED, message)


def _read_chroma(network: Network, folder: Path, name: str) -> ChromaShape:
    try:
        return read_chroma_shape(folder, network.config, network.config.audio_encoder.sampling_rate)
    except ValueError as error:
        message = f"{name} does not say how it reads a melody, or not so that it can be. Fetch it again."
        raise EngineError(CHECKPOINT_CORRUPT, message, str(error)) from error


def _pad_token(network: Network) -> int:
    """The library pads the delay pattern with the token that starts a sequence."""
    generation = network.generation_config
    candidates = (
        generation.decoder_start_token_id,
        generation.bos_token_id,
        network.config.decoder.pad_token_id,
    )
    return int(next(token for token in (*candidates, network.config.decoder.vocab_size) if token is not None))


def device_name(device: torch.device) -> str:
    """What people call a device: the card's name, or the kind of device where it has none."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return {"cpu": "CPU", "mps": "Apple GPU"}.get(device.type, device.type)

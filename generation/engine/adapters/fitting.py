"""Finds the place of each tensor of an adapter in a network, and refuses an adapter that does not fit it whole.

peft would warn and leave out what does not fit; here a tensor without a place, or a place without a tensor, is an
error with a sentence. Knows no peft: names and config are read by `adapters.format`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NoReturn

from torch import Tensor, nn

from adapters.format.errors import AdapterRefused, UnsupportedAdapter
from adapters.format.keys import KeyKind, LoraKey, parse_key, repair_notes
from adapters.format.lora_config import AdapterConfig, parse_config
from generation.engine.adapters.fit import FittedAdapter, LowRank
from generation.engine.adapters.weights import AdapterWeights
from generation.engine.errors import EngineError
from generation.engine.packed import shape_of
from generation.engine.protocol import ADAPTER_BROKEN, ADAPTER_MISMATCH, ADAPTER_UNSUPPORTED, AdapterUse

_LAYER = re.compile(r"decoder\.model\.decoder\.layers\.(\d+)\.")

Parts = dict[KeyKind, tuple[LoraKey, Tensor]]  # of one module


def fitted(network: nn.Module, use: AdapterUse, weights: AdapterWeights) -> FittedAdapter:
    """The adapter as it acts on `network`, with a place for every tensor.

    Raises EngineError ADAPTER_MISMATCH where it was made for another model, ADAPTER_BROKEN where the adapter
    contradicts itself, ADAPTER_UNSUPPORTED for kinds of adapters that the engine cannot do.
    """
    return _Fitting(network, use, weights).result()


class _Fitting:
    def __init__(self, network: nn.Module, use: AdapterUse, weights: AdapterWeights) -> None:
        self._name = use.name
        self._modules = dict(network.named_modules(remove_duplicate=False))
        self._weights = weights
        self._config = self._read_config(use.config)

    def result(self) -> FittedAdapter:
        keys = self._keys()
        parts: defaultdict[str, Parts] = defaultdict(dict)
        saved: dict[str, Tensor] = {}
        for key in keys:
            tensor = self._weights.tensors[key.raw]
            if key.kind is KeyKind.SAVED:
                path = f"{key.module}.{key.parameter}"
                self._check_saved(key, tensor, is_new=path not in saved)
                saved[path] = tensor
            elif key.kind in parts[key.module]:
                self._broken("holds one tensor under two names", key.raw)
            else:
                parts[key.module][key.kind] = (key, tensor)
        low_rank = {path: self._low_rank(path, of_module) for path, of_module in parts.items()}
        both = sorted(path for path in low_rank if {f"{path}.weight", f"{path}.bias"} & saved.keys())
        if both:
            self._unsupported("trains a module whole and in low rank at once", both[0])
        self._check_completeness(low_rank.keys() | {path.rpartition(".")[0] for path in saved})
        return FittedAdapter(
            name=self._name,
            low_rank=low_rank,
            saved=saved,
            use_rslora=self._config.use_rslora,
            tensor_count=len(keys),
            notes=repair_notes(keys),
        )

    def _read_config(self, text: str) -> AdapterConfig:
        try:
            return parse_config(text)
        except AdapterRefused as error:
            code = ADAPTER_UNSUPPORTED if isinstance(error, UnsupportedAdapter) else ADAPTER_BROKEN
            raise EngineError(code, f"Adapter {self._name!r}: {error.message}", error.detail) from error

    def _keys(self) -> list[LoraKey]:
        keys: list[LoraKey] = []
        homeless: list[str] = []
        if not self._weights.tensors:
            self._broken("holds no tensors", "")
        for raw in self._weights.tensors:
            if ".audio_encoder." in f".{raw}":
                self._unsupported("changes the codec, which turns codes into sound", raw)
            key = parse_key(raw)
            if key is None or key.module not in self._modules:
                homeless.append(raw)
            else:
                keys.append(key)
        if homeless:
            count, total = len(homeless), len(self._weights.tensors)
            self._mismatch(f"{count} of its {total} tensors have no place in this model", homeless[0])
        return keys

    def _check_saved(self, key: LoraKey, tensor: Tensor, *, is_new: bool) -> None:
        shape = shape_of(self._modules[key.module], key.parameter)
        if shape is None:
            self._mismatch("a weight that it replaces is not there in this model", key.raw)
        if not is_new:
            self._broken("holds one weight under two names", key.raw)
        if shape != tensor.shape:
            self._misshapen(key, tensor, tuple(shape))

    def _low_rank(self, path: str, parts: Parts) -> LowRank:
        module = self._modules[path]
        is_embedding = isinstance(module, nn.Embedding)
        if isinstance(module, nn.Embedding):
            wide, out = module.num_embeddings, module.embedding_dim
            kinds = (KeyKind.EMBEDDING_A, KeyKind.EMBEDDING_B)
        elif isinstance(module, nn.Linear):
            wide, out = module.in_features, module.out_features
            kinds = (KeyKind.LORA_A, KeyKind.LORA_B)
        else:
            self._unsupported(f"adapts a module of the kind {type(module).__name__}", path)
        wanted = {*kinds, KeyKind.MAGNITUDE} if self._config.use_dora else {*kinds}
        if parts.keys() != wanted:
            lacking = ", ".join(sorted(wanted - parts.keys())) or "nothing"
            surplus = ", ".join(sorted(parts.keys() - wanted)) or "nothing"
            self._broken(
                "and its config do not agree on the tensors of a module",
                f"{path} lacks {lacking} and has {surplus} too much",
            )
        (a_key, a), (b_key, b) = parts[kinds[0]], parts[kinds[1]]
        rank = self._config.rank_of(a_key.trained_module)
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
            self._broken(
                "holds matrices that cannot be multiplied", f"{path}: {tuple(a.shape)}, {tuple(b.shape)}"
            )
        if a.shape[0] != rank:
            self._broken(
                "and its config do not agree on a rank", f"{path} has {a.shape[0]}, the config says {rank}"
            )
        if a.shape[1] != wide:
            self._misshapen(a_key, a, (rank, wide))
        if b.shape[0] != out:
            self._misshapen(b_key, b, (out, rank))
        magnitude = None
        if self._config.use_dora:
            key, magnitude = parts[KeyKind.MAGNITUDE]
            if magnitude.shape != (out,):
                self._misshapen(key, magnitude, (out,))
        return LowRank(
            a=a,
            b=b,
            magnitude=magnitude,
            is_embedding=is_embedding,
            rank=rank,
            alpha=self._config.alpha_of(a_key.trained_module),
        )

    def _check_completeness(self, adapted: Iterable[str]) -> None:
        """Refuse an adapter whose config also means layers of this model that it has no tensors for.

        Every tensor of a shallow model's adapter has a place in a deeper model of the same width, and every one
        of a melody model's in a text model; half of the network would go on unadapted.
        """
        targets, excluded = self._config.target_modules, self._config.exclude_modules
        if isinstance(targets, str) or isinstance(excluded, str):
            return  # a pattern may mean anything, and may have been written for other names
        done = set(adapted)
        meant = [path for path in self._modules if path not in done and self._is_meant(path)]
        if meant:
            count = len(meant)
            self._mismatch(
                f"it has nothing for {count} modules of this model that it should change", meant[0]
            )

    def _is_meant(self, path: str) -> bool:
        layer = _LAYER.match(path)
        only = self._config.layers_to_transform
        return (
            layer is not None
            and (not only or int(layer[1]) in only)
            and _is_named(path, self._config.target_modules)
            and not _is_named(path, self._config.exclude_modules)
        )

    # --- refusals ---

    def _misshapen(self, key: LoraKey, tensor: Tensor, here: tuple[int, ...]) -> NoReturn:
        there = tuple(tensor.shape)
        self._mismatch("it was made for a model of another size", f"{key.raw} is {there}, here {here}")

    def _mismatch(self, what: str, detail: str) -> NoReturn:
        raise EngineError(
            ADAPTER_MISMATCH,
            f"Adapter {self._name!r} does not fit the loaded model: {what}. Use it with the model it was made for.",
            detail,
        )

    def _broken(self, what: str, detail: str) -> NoReturn:
        raise EngineError(
            ADAPTER_BROKEN,
            f"Adapter {self._name!r} is broken: its file {what}. Ask for another copy and import that.",
            detail,
        )

    def _unsupported(self, what: str, detail: str) -> NoReturn:
        raise EngineError(
            ADAPTER_UNSUPPORTED,
            f"Adapter {self._name!r} {what}, which the engine cannot do. Use another adapter.",
            detail,
        )


def _is_named(path: str, names: Iterable[str]) -> bool:
    """Whether peft would take one of the names to mean this module."""
    return any(path == name or path.endswith(f".{name}") for name in names)

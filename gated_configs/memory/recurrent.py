"""States of layers that carry a summary instead of keys and values. Runs in the child process.

Each reader names the family it was read from: the shape is that of the tensor which the layer's forward pass
hands to its cache in transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

from torch import nn

from gated_configs.memory.architecture import LayerState


def is_recurrent(module: nn.Module) -> bool:
    """Whether the module is a mixer that keeps a state of its own."""
    return _reader_of(type(module).__name__) is not None


def recurrent_state(module: nn.Module) -> LayerState | None:
    """What a recurrent mixer keeps per sequence, or None where the module is none."""
    name = type(module).__name__
    reader = _reader_of(name)
    if reader is None:
        return None
    state, conv, dtype = reader(module)
    return LayerState(
        (),
        "linear" if name.endswith(_LINEAR) else "none",
        "recurrent",
        state_elements=state,
        conv_elements=conv,
        state_dtype=dtype,
    )


def _conv(module: nn.Module) -> int:
    """Elements of the rolling input of a short convolution: `[channels, kernel]`."""
    conv = module._modules.get("conv1d") or module._modules.get("conv")
    if not isinstance(conv, nn.Conv1d):
        return 0
    return int(conv.in_channels * conv.kernel_size[0])


def _mamba(module: Any) -> tuple[int, int, str]:
    """Mamba, FalconMamba, Jamba, Zamba: `[intermediate, state]`."""
    return int(module.intermediate_size) * int(module.ssm_state_size), _conv(module), "float32"


def _mamba2(module: Any) -> tuple[int, int, str]:
    """Mamba-2, Bamba, Zamba2, NemotronH, GraniteMoeHybrid, FalconH1: `[heads, head_dim, state]`."""
    return int(module.num_heads) * int(module.head_dim) * int(module.ssm_state_size), _conv(module), "float32"


def _mixer(module: Any) -> tuple[int, int, str]:
    return _mamba2(module) if hasattr(module, "head_dim") and hasattr(module, "num_heads") else _mamba(module)


def _gated_delta(module: Any) -> tuple[int, int, str]:
    """Qwen3-Next, Qwen3.5, OlmoHybrid: `[value heads, key width, value width]`."""
    state = int(module.num_v_heads) * int(module.head_k_dim) * int(module.head_v_dim)
    conv = _conv(module) or sum(_depthwise(child) for child in module._modules.values())
    return state, conv, "float32"


def _depthwise(module: Any) -> int:
    return int(module.in_channels * module.kernel_size[0]) if isinstance(module, nn.Conv1d) else 0


def _kimi_delta(module: Any) -> tuple[int, int, str]:
    """Kimi Linear, Bailing hybrid: `[heads, width, width]`."""
    return int(module.num_heads) * int(module.head_dim) ** 2, _conv(module), "float32"


def _short_conv(module: Any) -> tuple[int, int, str]:
    """LFM2: the rolling input only."""
    return 0, _conv(module), "cache"


def _lightning(module: Any) -> tuple[int, int, str]:
    """MiniMax's lightning attention: `[heads, width, width]`."""
    return int(module.num_attention_heads) * int(module.head_dim) ** 2, 0, "cache"


def _rg_lru(module: Any) -> tuple[int, int, str]:
    """RecurrentGemma: `[lru_width]` in float32 and `[hidden, kernel - 1]` of the convolution."""
    return int(module.lru_width), int(module.hidden_size) * (int(module.conv1d_width) - 1), "float32"


def _rwkv(module: Any) -> tuple[int, int, str]:
    """RWKV-4: two vectors of inputs in the cache's format, three of attention in float32."""
    hidden = int(module.attention_hidden_size)
    return 3 * hidden, 2 * hidden, "float32"


_LINEAR: Final = ("GatedDeltaNet", "DeltaAttention", "LightningAttention", "RwkvSelfAttention")
_READERS: Final[dict[str, Callable[[Any], tuple[int, int, str]]]] = {
    "MambaMixer": _mixer,
    "BambaMixer": _mamba2,
    "Mamba2Mixer": _mamba2,
    "MambaLayer": _mixer,
    "FalconH1Mixer": _mamba2,
    "NemotronHMamba2Mixer": _mamba2,
    "GatedDeltaNet": _gated_delta,
    "DeltaAttention": _kimi_delta,
    "ShortConv": _short_conv,
    "LightningAttention": _lightning,
    "RecurrentBlock": _rg_lru,
    "RwkvSelfAttention": _rwkv,
}


@cache
def _reader_of(name: str) -> Callable[[Any], tuple[int, int, str]] | None:
    """How the state of a class of that name is read. A model has few classes and thousands of modules."""
    return next((reader for ending, reader in _READERS.items() if name.endswith(ending)), None)

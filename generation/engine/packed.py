"""Linear layers of the decoder with their weights in the form in which a CPU's kernel reads them.

Products of a few rows by such a weight take about half the time, and a row's result depends less on its company. Knows
nothing of takes.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from generation.engine.blocks import Held, can_be_pairs, out_of_pairs, pairs
from generation.engine.kernels import Kernels

if TYPE_CHECKING:
    from generation.engine.families import Network

#: Rows for which the order is chosen: those of two takes with guidance, or of one.
_ROWS = 4
_MADV_DONTNEED = 4


class HeldLinear(nn.Linear):
    """A linear layer that holds its weight in another form. `weight` is made anew whenever it is asked for."""

    def __init__(self, plain: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.register_parameter("bias", plain.bias)
        self.held = self.hold(plain.weight.detach())

    def hold(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The weight [out, in] in the layer's form."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """The weight [out, in] out of that form again."""
        raise NotImplementedError

    def product(self, rows: Tensor) -> Tensor:
        """Rows [N, in] times the weight, and the bias, [N, out]."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight [out, in]."""
        return self.dense()

    def with_bias(self, product: Tensor) -> Tensor:
        """Rows [N, out] and the layer's bias, where it has one."""
        bias: Tensor | None = self.bias
        return product if bias is None else product + bias

    def forward(self, x: Tensor) -> Tensor:
        """Rows [..., in] times the weight, [..., out]."""
        return self.product(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    def unpacked(self) -> nn.Linear:
        """A plain layer with memory of its own that answers the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(self.weight, requires_grad=False)
        plain.bias = self.bias
        return plain


class PackedLinear(HeldLinear):
    """Answers what the layer that it was made from answers, and its weight is the same to the bit."""

    def hold(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The weight in the order in which the kernel reads it."""
        return (torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS),)

    def dense(self) -> Tensor:
        """The weight [out, in]."""
        return self.held[0].to_dense()

    def product(self, rows: Tensor) -> Tensor:
        """Rows [N, in] times the weight, and the bias, [N, out]."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.held[0], self.bias, "none", [], "")
        return result


class CompiledLinear(HeldLinear):
    """A layer for the engine's own kernel, here in bfloat16. A row's result does not depend on its company."""

    form: ClassVar[Held] = Held.PAIRS

    def __init__(self, plain: nn.Linear, kernels: Kernels) -> None:
        super().__init__(plain)
        self._kernels = kernels

    def hold(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The weight in the kernel's order."""
        return (pairs(weight),)

    def dense(self) -> Tensor:
        """The weight [out, in]."""
        return out_of_pairs(self.held[0])

    def product(self, rows: Tensor) -> Tensor:
        """Rows [N, in] times the weight, and the bias, [N, out]."""
        return self.with_bias(self._kernels.multiply(rows, self.held[0], self.form, self.out_features))


def pack_decoder(network: Network, kernels: Kernels | None = None, *, is_large: bool = True) -> bool:
    """Pack every linear layer of the decoder, one by one, so that at no time more than one is held twice.

    False, and nothing changed, where neither `kernels` nor this build of torch can, or does not answer what it should.
    """
    first = next((module for module in network.decoder.modules() if type(module) is nn.Linear), None)
    if first is None or (pack := packing(first, kernels, is_large=is_large)) is None:
        return False
    replace_linears(network.decoder, pack)
    return True


def packing(
    like: nn.Linear, kernels: Kernels | None, *, is_large: bool
) -> Callable[[nn.Linear], nn.Linear] | None:
    """What packs layers of that dtype on that device: the compiled kernel where it can, else torch's; None for neither.

    torch's is for large networks: its product is slower to call than a plain one, and of a small one caches hold the weights.
    """
    torch_can = is_large and _can_pack(like)

    def pack(plain: nn.Linear) -> nn.Linear:
        if kernels is not None and can_be_pairs(plain.weight):
            return CompiledLinear(plain, kernels)
        return PackedLinear(plain) if torch_can else plain

    return pack if torch_can or (kernels is not None and can_be_pairs(like.weight)) else None


def replace_linears(module: nn.Module, kind: Callable[[nn.Linear], nn.Linear]) -> None:
    """Put another kind of layer for each plain linear one, one by one, giving back what the first one held."""
    found = [(path, each) for path, each in module.named_modules() if type(each) is nn.Linear]
    mapped = _file_mappings()
    # The list must not keep what the network lets go of.
    while found:
        path, plain = found.pop()
        owner, _, name = path.rpartition(".")
        setattr(module.get_submodule(owner), name, kind(plain))
        _let_go(plain.weight, mapped)


def held_weights(network: nn.Module) -> Iterator[HeldLinear]:
    """The layers whose weights are no parameters."""
    for module in network.modules():
        if isinstance(module, HeldLinear):
            yield module


def shape_of(module: nn.Module, name: str) -> torch.Size | None:
    """The shape of a module's own weight of that name, packed or not; None where it has none."""
    if isinstance(module, HeldLinear) and name == "weight":
        return torch.Size([module.out_features, module.in_features])
    parameter = dict(module.named_parameters(recurse=False)).get(name)
    return None if parameter is None else parameter.shape


@torch.inference_mode()
def _can_pack(plain: nn.Linear) -> bool:
    weight = plain.weight
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    rows = torch.randn(_ROWS, plain.in_features, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    try:
        answer = PackedLinear(plain)(rows)
    except (RuntimeError, AttributeError, NotImplementedError):  # an operator that this build lacks
        return False
    bias = getattr(plain, "bias", None)
    wanted = linear(rows.float(), weight.float(), None if bias is None else bias.float())
    return bool(torch.allclose(answer.float(), wanted, rtol=0.02, atol=0.02))


def _file_mappings() -> list[tuple[int, int]]:
    """Address ranges of this process that are files, where the system tells."""
    found = []
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        span, _, _, _, inode = line.split()[:5]
        if inode != "0":
            first, _, end = span.partition("-")
            found.append((int(first, 16), int(end, 16)))
    return found


def _let_go(weight: Tensor, mapped: list[tuple[int, int]]) -> None:
    """Give back the pages of a weight that is a part of a mapped file; they would be read again if anybody asked.

    Its neighbours in the file keep theirs: pages that it shares with them stay.
    """
    first, end = weight.data_ptr(), weight.data_ptr() + weight.numel() * weight.element_size()
    if not any(start <= first and end <= stop for start, stop in mapped):
        return
    first, end = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        libc: Any = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _MADV_DONTNEED)

"""What a checkpoint stores beyond its parameters: written-out ties, layers that predict further ahead, scales.

Each is a named count of its own beside the headline. Runs in the child process.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from gated_configs.memory.architecture import Count, Matrix, Quantisation
from gated_configs.memory.parts import every_module, take_inventory


def written_out_ties(model: nn.Module) -> int:
    """Elements that appear under more than one name, counted once for every further name."""
    once: dict[int, int] = {}
    every = 0
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        waiting.extend(module._modules.values())
        for parameter in module._parameters.values():
            if parameter is not None:
                every += parameter.numel()
                once[id(parameter)] = parameter.numel()
    return every - sum(once.values())


def prediction_layers(model: nn.Module, family: str, config: Any) -> tuple[int, int, tuple[Matrix, ...], str]:
    """Parameters of multi-token-prediction layers, which checkpoints hold and transformers does not build.

    Gives elements, learned buffers, the matrices among them and where the shape is from. DeepSeek-V3's layout
    (its README_WEIGHTS.md, followed by Kimi K2 and GLM-4.5): one more decoder layer, `eh_proj` of `[hidden, 2 * hidden]`, three
    norms, and copies of embedding and head. Qwen3-Next's and Qwen3.5's: one more layer with full attention, `fc` of
    the same shape, three norms.
    """
    hidden, vocabulary = _integer(config, "hidden_size"), _integer(config, "vocab_size")
    layers = _layers_of(model)
    if not hidden or layers is None or not len(layers):
        return 0, 0, (), ""
    if family in {"deepseek_v3", "deepseek_v32", "glm4_moe", "glm_moe_dsa", "glm4_moe_lite"}:
        count = _integer(config, "num_nextn_predict_layers")
        inventory = take_inventory(layers[len(layers) - 1])
        each = inventory.total + 2 * hidden * hidden + 3 * hidden + 2 * vocabulary * hidden
        return (
            count * each,
            count * inventory.stored_buffers,
            _times(inventory.matrix_list(), count),
            "DeepSeek-V3's layout",
        )
    if family in {"qwen3_next", "qwen3_5", "qwen3_5_moe"}:
        count = 1 if family == "qwen3_next" else _integer(config, "mtp_num_hidden_layers")
        full = next((layer for layer in reversed(list(layers)) if hasattr(layer, "self_attn")), None)
        if full is None or not count:
            return 0, 0, (), ""
        inventory = take_inventory(full)
        return (
            count * inventory.total + 2 * hidden * hidden + 3 * hidden,
            0,
            _times(inventory.matrix_list(), count),
            "Qwen3-Next's layout",
        )
    return 0, 0, (), ""


def _times(matrices: tuple[Matrix, ...], count: int) -> tuple[Matrix, ...]:
    return tuple(Matrix(item.rows, item.columns, item.count * count, item.part) for item in matrices if count)


def _integer(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _layers_of(model: nn.Module) -> nn.ModuleList | None:
    """The longest list of layers of the part that generates."""
    getter: Any = getattr(model, "get_decoder", None)
    decoder: nn.Module = getter() if getter is not None else model
    lists = [module for _, module in every_module(decoder) if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=None)


def quantisation_of(
    settings: object,
    matrices: tuple[Matrix, ...],
    parameters: int,
    extra_matrices: tuple[Matrix, ...],
    extra: int,
) -> tuple[Quantisation | None, str | None]:
    """The published format of a checkpoint with a `quantization_config`, or a note why its size is not known.

    `parameters` and `matrices` are the model's, `extra` and `extra_matrices` what the checkpoint holds besides.
    What is not quantised is taken to stay in 16 bits.
    """
    if not isinstance(settings, dict):
        return None, None
    method = str(settings.get("quant_method", "")).lower()
    taken = list(matrices) + list(extra_matrices)
    if method == "mxfp4":
        taken = [matrix for matrix in taken if matrix.part == "experts"]
    elements = sum(matrix.rows * matrix.columns * matrix.count for matrix in taken)
    rest_bytes = 2 * (parameters + extra - elements)
    if method == "mxfp4":
        # OCP MX: 4 bits an element and one byte for 32 of them.
        scales = elements // 32
        return Quantisation(
            "mxfp4",
            4,
            rest_bytes + elements // 2 + scales,
            scales,
            "experts in MXFP4, one byte of scale for 32 elements",
        ), None
    block = settings.get("weight_block_size")
    if (
        method == "fp8"
        and isinstance(block, list)
        and len(block) == 2
        and all(isinstance(n, int) and n > 0 for n in block)
    ):
        scales = sum(
            math.ceil(matrix.rows / block[0]) * math.ceil(matrix.columns / block[1]) * matrix.count
            for matrix in taken
        )
        return Quantisation(
            "fp8",
            8,
            rest_bytes + elements + 4 * scales,
            scales,
            f"linear layers in float8, a float32 scale for {block[0]} x {block[1]}",
        ), None
    if method in {"fp8", "fbgemm_fp8"}:
        scales = sum(matrix.rows * matrix.count for matrix in taken)
        return Quantisation(
            method,
            8,
            rest_bytes + elements + 4 * scales,
            scales,
            "linear layers in float8, a float32 scale a row",
        ), None
    if method in {"gptq", "awq"}:
        return _grouped(method, settings, taken, rest_bytes), None
    if method in {"bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"} or "load_in_4bit" in settings:
        if settings.get("load_in_4bit"):
            blocks = sum(-(-matrix.rows * matrix.columns // 64) * matrix.count for matrix in taken)
            double = bool(settings.get("bnb_4bit_use_double_quant"))
            scale_bytes = blocks + 4 * -(-blocks // 256) if double else 4 * blocks
            return Quantisation(
                "bitsandbytes",
                4,
                rest_bytes + -(-elements // 2) + scale_bytes,
                blocks,
                "linear layers in 4 bits, one scale for 64 elements",
            ), None
        rows = sum(matrix.rows * matrix.count for matrix in taken)
        return Quantisation(
            "bitsandbytes",
            8,
            rest_bytes + elements + 4 * rows,
            rows,
            "linear layers in 8 bits, one float32 scale a row",
        ), None
    return (
        None,
        f"The size of the published {method or 'quantised'} files is not computed: the format is not known here.",
    )


def _grouped(method: str, settings: dict[str, Any], taken: list[Matrix], rest_bytes: int) -> Quantisation:
    """GPTQ and AWQ: packed weights, per group and output one float16 scale and one packed zero."""
    bits = settings.get("bits", settings.get("w_bit", 4))
    bits = bits if isinstance(bits, int) and bits in {2, 3, 4, 8} else 4
    group = settings.get("group_size", settings.get("q_group_size", 128))
    group = group if isinstance(group, int) and not isinstance(group, bool) and group > 0 else 0
    packed = scale_bytes = scales = 0
    for matrix in taken:
        groups = -(-matrix.columns // group) if group else 1
        packed += matrix.count * -(-matrix.rows * matrix.columns * bits // 8)
        scales += matrix.count * groups * matrix.rows
        scale_bytes += matrix.count * (groups * matrix.rows * 2 + groups * -(-matrix.rows * bits // 32) * 4)
        if method == "gptq":
            # `g_idx`: one int32 for each input.
            scale_bytes += matrix.count * matrix.columns * 4
    return Quantisation(
        method,
        bits,
        rest_bytes + packed + scale_bytes,
        scales,
        f"linear layers in {bits} bits, scale and zero for {group or 'a whole row of'} elements",
    )


def named_counts(
    total: int,
    ties: int,
    extra: int,
    corrections: int,
    buffers: int,
    quantisation: Quantisation | None,
    layout: str,
) -> list[Count]:
    """Every other defensible number, the smallest step first."""
    counts = [Count("unique", total, "every parameter once")]
    if ties:
        counts.append(
            Count("ties_written_out", total + ties, "shared tensors counted under each of their names")
        )
    if extra:
        counts.append(
            Count(
                "with_prediction_layers",
                total + extra,
                f"with the layers that predict several tokens ahead ({layout}); the checkpoint stores them",
            )
        )
    scales = quantisation.scale_elements if quantisation is not None else 0
    if corrections or scales:
        counts.append(
            Count(
                "as_published",
                total + extra + corrections + scales,
                "as the checkpoint stores it: with layers that predict ahead, the routers' correction biases,"
                " and every scale of quantisation as an element",
            )
        )
    if corrections:
        counts.append(Count("with_corrections", total + corrections, "with the routers' correction biases"))
    if corrections and extra:
        counts.append(
            Count(
                "with_corrections_and_scales",
                total + corrections + scales,
                "the same with scales, without the layers that predict ahead",
            )
        )
    if buffers:
        counts.append(
            Count("with_buffers", total + buffers, "with buffers: tables and codebooks that are not trained")
        )
    return counts

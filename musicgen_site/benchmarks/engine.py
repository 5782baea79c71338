"""The engine's step loop beside `generate` of transformers, on one decoder, and beside the machine's memory.

Interleaved in one process, so that a machine whose speed drifts treats all alike. Imports torch when it runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from django.conf import settings

from musicgen_site.benchmarks.switching import hardware_line, made_checkpoint

#: Steps of one measurement, and where in a take of `TAKE_FRAMES` they lie: attention costs more the later it is.
STEPS: Final = 40
TAKE_FRAMES: Final = 1500
FIRST_STEP: Final = 730
#: Steps that are not counted: the first ones read what later ones have at hand.
WARM_STEPS: Final = 5
#: Of two that are measured in turns, so that a machine whose speed drifts treats both alike.
STEPS_IN_TURN: Final = 4
TOGETHER: Final = {"cpu": (1, 2, 8), "mps": (1, 2, 8), "cuda": (1, 2, 8, 32)}
PROMPT: Final = "lo-fi hip hop with electric piano, bass and drums"


def run(*, rounds: int, checkpoint: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure and return the figures. Without `checkpoint` one of musicgen-small's shape is made and kept."""
    from generation.engine.libraries import bound_waiting

    bound_waiting()  # as in a runner
    folder = checkpoint or made_checkpoint(say)
    import torch

    from generation.engine.checkpoint import choose_device

    device = choose_device("auto")
    say("loading")
    plain = ["float32", "bfloat16"]
    dtypes = [*plain, "int8", "int4"] if device.type == "cpu" else plain
    library = {dtype: _Library(folder, dtype, device.type) for dtype in plain}
    engine = {dtype: _Engine(folder, dtype, device.type) for dtype in dtypes}
    library_steps: dict[str, list[float]] = {dtype: [] for dtype in plain}
    engine_steps: dict[tuple[str, int], list[float]] = {
        (dtype, takes): [] for dtype in dtypes for takes in TOGETHER[device.type]
    }
    slowed: dict[tuple[str, int], list[float]] = {
        (dtype, first): [] for dtype in dtypes for first in (0, FIRST_STEP)
    }
    # Before each measurement: what memory gives changes by half within minutes where others share it.
    bandwidth: dict[tuple[str, int], list[float]] = {at: [] for at in engine_steps}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for dtype in dtypes:
            if dtype in library:
                library_steps[dtype].append(library[dtype].seconds_a_step())
            for takes in TOGETHER[device.type]:
                bandwidth[dtype, takes].append(_bandwidth(device))
                engine_steps[dtype, takes].append(engine[dtype].seconds_a_step(takes, FIRST_STEP))
            for first in (0, FIRST_STEP):
                slowed[dtype, first].append(engine[dtype].share_of_a_second_take(first))
    best_library = min(median(times) for times in library_steps.values())
    return {
        "hardware": hardware_line(),
        "threads": torch.get_num_threads(),
        "kernels": engine[dtypes[0]].kernels,
        "checkpoint_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "rounds": rounds,
        "bandwidth_gb_per_second": sorted(round(each, 1) for each in chain.from_iterable(bandwidth.values())),
        "library": {dtype: _figures(times) for dtype, times in library_steps.items()},
        "engine": [
            {
                "dtype": dtype,
                "takes": takes,
                **_figures(times),
                "steps_per_second_of_all": round(takes / median(times), 1),
                "times_library": round(takes * best_library / median(times), 2),
                "share_of_bandwidth": round(
                    engine[dtype].bytes_of_a_step(takes)
                    / median(times)
                    / 1e9
                    / median(bandwidth[dtype, takes]),
                    2,
                ),
            }
            for (dtype, takes), times in engine_steps.items()
        ],
        "second_take_slows_the_first": {
            dtype: {
                where: round(median(slowed[dtype, first]), 3)
                for where, first in (("start", 0), ("middle", FIRST_STEP))
            }
            for dtype in dtypes
        },
        "codec_seconds_per_audio_second": round(engine[dtypes[0]].codec_seconds(), 3),
        "first_sound_seconds": {dtype: round(engine[dtype].first_sound_seconds(), 2) for dtype in dtypes},
    }


class _Library:
    """`generate` of transformers, of one take with guidance. Its time is that from step to step of the decoder."""

    def __init__(self, folder: Path, dtype: str, device: str) -> None:
        import torch
        from transformers import AutoTokenizer, MusicgenForConditionalGeneration

        self._network = MusicgenForConditionalGeneration.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True
        )
        self._network.eval().to(device)
        self._text = AutoTokenizer.from_pretrained(folder, local_files_only=True)(
            [PROMPT], return_tensors="pt"
        ).to(device)
        # What the take is by then: [K, steps], of one take.
        books = self._network.config.decoder.num_codebooks
        self._known = _some_codes(books, self._network.config.decoder.vocab_size, FIRST_STEP).to(device)
        self._began: list[float] = []
        self._network.decoder.register_forward_pre_hook(
            lambda module, given: self._began.append(time.perf_counter())
        )

    def seconds_a_step(self) -> float:
        """Median over the steps in the middle of one take."""
        self._began.clear()
        self._network.generate(
            **self._text,
            decoder_input_ids=self._known,
            do_sample=True,
            guidance_scale=3.0,
            max_new_tokens=STEPS + WARM_STEPS + 1,
        )
        return _median_gap(self._began)


class _Engine:
    """This engine's step loop, prepared as a runner prepares it."""

    def __init__(self, folder: Path, dtype: str, device: str) -> None:
        from generation.engine.checkpoint import load_checkpoint
        from generation.engine.runner import prepare

        self._model = load_checkpoint(
            str(folder), device=device, dtype=dtype, kept=settings.STUDIO.engine_folder
        )
        self._weight_bytes = self._decoder_bytes()
        self._cache_bytes = 0.0  # of one take where it was measured last
        self._known: tuple[list[Any], int] | None = (
            None  # a take's keys and values in its middle, and its position
        )
        prepare(self._model)

    @property
    def kernels(self) -> str:
        """Whose products and attention the steps are made with."""
        return "compiled" if self._model.kernels else "torch"

    def bytes_of_a_step(self, takes: int) -> float:
        """What a step in the middle of so many takes has to read: weights, and keys and values of each take."""
        return self._weight_bytes + takes * self._cache_bytes

    def seconds_a_step(self, takes: int, first_step: int) -> float:
        """Median over the steps from `first_step` on, of so many takes side by side."""
        batch, began = self._batch(takes, first_step), []
        for _ in range(STEPS + WARM_STEPS + 1):
            began.append(time.perf_counter())
            batch.step()
        return _median_gap(began)

    def share_of_a_second_take(self, first_step: int) -> float:
        """By what share a step from `first_step` on takes longer for two takes than for one, a few steps each in turns."""
        batches = {takes: self._batch(takes, first_step) for takes in (1, 2)}
        times: dict[int, list[float]] = {takes: [] for takes in batches}
        for _ in range(STEPS // STEPS_IN_TURN):
            for takes, batch in batches.items():
                batch.step()  # caches hold what the other one has read
                for _ in range(STEPS_IN_TURN):
                    began = time.perf_counter()
                    batch.step()
                    times[takes].append(time.perf_counter() - began)
        return median(times[2]) / median(times[1]) - 1

    def _batch(self, takes: int, first_step: int) -> Any:
        """So many takes side by side, of which `first_step` steps are made."""
        import torch

        from generation.engine.decode import Batch, CodesRequest
        from generation.engine.network import DecoderStep
        from generation.engine.prompt import encode_prompt
        from generation.engine.sampling import Sampling

        batch, step = Batch(self._model), DecoderStep(self._model)
        known = _some_codes(self._model.codebooks, self._model.pad_token, first_step)
        with torch.inference_mode():
            conditioning = encode_prompt(self._model, PROMPT, 3.0)
            for seed in range(takes):
                take = batch.join(
                    CodesRequest(
                        conditioning=conditioning,
                        frames=TAKE_FRAMES,
                        seed=seed,
                        sampling=Sampling(temperature=1.0, top_k=250, top_p=0.0, greedy=False),
                    )
                )
                if first_step:
                    take.memory = step.begin(conditioning.states_at(0), take.steps)
                    if self._known is None:
                        # Once for all takes, who only add to it: it takes as long as some hundred steps.
                        step.read(known, take.memory, conditioning.states_at(0))
                        self._known = take.memory.own, take.memory.position
                    else:
                        for mine, read in zip(take.memory.own, self._known[0], strict=True):
                            for each, other in zip(mine, read, strict=True):
                                each.copy_(other)
                        take.memory.position = self._known[1]
                    held = sum(each.nbytes for layer in take.memory.own for each in layer)
                    self._cache_bytes = held * first_step / take.steps
        return batch

    def first_sound_seconds(self) -> float:
        """Seconds from a request to the first samples of its take that can be heard, with the model loaded."""
        from generation.engine.adapters.attach import Attachment
        from generation.engine.company import Company
        from generation.engine.protocol import Generate

        heard: list[float] = []
        company = Company(self._model, Attachment())
        with TemporaryDirectory() as folder:
            request = Generate(
                request="first-sound",
                prompt=PROMPT,
                duration_seconds=10.0,
                seed=0,
                guidance_scale=3.0,
                output=f"{folder}/take.wav",
                live=f"{folder}/live",
            )
            began = time.perf_counter()
            company.add(
                request,
                on_stage=lambda *_: None,
                should_stop=lambda: bool(heard),
                on_audio=lambda *_: heard.append(time.perf_counter() - began),
            )
            while not company.is_idle:
                company.advance()
        return heard[0]

    def codec_seconds(self) -> float:
        """Seconds that turning the codes of a second into sound takes."""
        import torch

        from generation.engine.chunks import decode_take

        codes = torch.zeros(self._model.codebooks, 5 * self._model.frame_rate, dtype=torch.long)
        began = time.perf_counter()
        decode_take(self._model, codes)
        return (time.perf_counter() - began) / 5

    def _decoder_bytes(self) -> int:
        """Bytes that each step must read: every weight of the decoder's layers and heads."""
        from generation.engine.packed import held_weights

        decoder = self._model.network.decoder
        read = [
            weight
            for part in (decoder.model.decoder.layers, decoder.lm_heads)
            for weight in (*part.parameters(), *(each for layer in held_weights(part) for each in layer.held))
        ]
        # Keys and values of the prompt are computed once, before the first step.
        once: int = sum(
            weight.numel() * weight.element_size()
            for layer in decoder.model.decoder.layers
            for name in ("k_proj", "v_proj")
            for weight in _weights_of(getattr(layer.encoder_attn, name))
        )
        each_step: int = sum(weight.numel() * weight.element_size() for weight in read)
        return each_step - once


def _some_codes(books: int, pad_token: int, steps: int) -> Any:
    """The first tokens of a take, [K, steps]: which ones makes no difference to the time."""
    import torch

    return torch.randint(pad_token, (books, steps), generator=torch.Generator().manual_seed(0))


def _weights_of(layer: Any) -> list[Any]:
    return list(getattr(layer, "held", None) or layer.parameters())


def _bandwidth(device: Any) -> float:
    """GB a second that this machine reads from memory, by a sum over 800 MB; the best of five."""
    import torch

    block = torch.ones(200_000_000, device=device)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        float(block.sum())
        best = max(best, 4 * len(block) / (time.perf_counter() - began) / 1e9)
    return best


def _median_gap(began: list[float]) -> float:
    gaps = [after - before for before, after in pairwise(began)]
    return median(gaps[WARM_STEPS:])


def _figures(times: list[float]) -> dict[str, Any]:
    return {
        "milliseconds_a_step": [round(1000 * each, 1) for each in times],
        "steps_per_second": round(1 / median(times), 1),
    }

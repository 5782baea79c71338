"""What a folder, a zip or a repository holds of an adapter: which files are read, and which are left where they are.

Decides by names alone; the three sources share it, so that they agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.format.errors import AdapterRefused, NotAnAdapter
from adapters.format.recognise import FULL_CHECKPOINT, NOT_WEIGHTS, PICKLE_REFUSED

CONFIG_NAME: Final = "adapter_config.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"
README_NAME: Final = "README.md"

NO_ADAPTER: Final = "NO_ADAPTER"

#: Bounds of what is read of the two small files. The config's own reader refuses one over a megabyte.
MAX_CONFIG_BYTES: Final = 1024 * 1024
README_HEAD_BYTES: Final = 64 * 1024

#: Files that can run code when they are loaded.
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
#: What systems put into every folder.
_CLUTTER: Final = re.compile(r"__MACOSX/.*|(.*/)?(\.DS_Store|Thumbs\.db|desktop\.ini|\._[^/]*)")

_WHOLE_MODEL: Final = re.compile(r"model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin")
_ALONE: Final = {
    "zip": "Zip one such folder alone and import that.",
    "folder": "Import one such folder alone.",
    "repository": "Download one such folder and import that.",
}


@dataclass(frozen=True)
class Arrived:
    """The files of one adapter, in a folder of their own, not judged yet.

    `config` and `readme` are None where there is none; `names` are all the names that were there, for recognising
    what is no adapter; `left_out` are pickles beside the weights, which are never read. All of them are copies made
    for this import. `revision` is the hub's commit.
    """

    name: str
    config: Path | None
    weights: Path | None
    readme: Path | None = None
    names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    revision: str = ""


@dataclass(frozen=True)
class Chosen:
    """Names, as the source writes them, of the files that are read."""

    config: str | None
    weights: str | None
    readme: str | None
    left_out: tuple[str, ...]
    top: str


def choose_files(names: Iterable[str], *, where: str) -> Chosen:
    """Pick the adapter's files among all names, which are paths with `/`; one top folder may be around everything.

    `where` is "zip", "folder" or "repository", for sentences. Where there is no `adapter_model.safetensors`, a
    single other safetensors file is taken for the weights: it is an adapter under another name, or lets us say what
    it is. Raises AdapterRefused where it is unclear which adapter is meant, and where there are only pickles.
    """
    kept = [name for name in names if not _CLUTTER.fullmatch(name)]
    top = _top_folder(kept)
    here = {name.removeprefix(top): name for name in kept if "/" not in name.removeprefix(top)}
    pickles = tuple(sorted(name for name in here if name.lower().endswith(PICKLES)))
    tensors = sorted(name for name in here if name.endswith(".safetensors"))
    weights = WEIGHTS_NAME if WEIGHTS_NAME in here else tensors[0] if len(tensors) == 1 else None
    if weights is None and len(tensors) > 1 and CONFIG_NAME in here:
        raise AdapterRefused(
            NO_ADAPTER,
            f"The {where} holds {len(tensors)} safetensors files and none is named {WEIGHTS_NAME}. Give that name to"
            " the adapter's weights.",
            ", ".join(tensors)[:300],
        )
    if weights is None and not tensors:
        _refuse_without_weights(kept, top, pickles, where)
    return Chosen(
        config=here.get(CONFIG_NAME),
        weights=here[weights] if weights else None,
        readme=here.get(README_NAME),
        left_out=pickles,
        top=top.rstrip("/"),
    )


def pickles_refused(names: Iterable[str], where: str) -> AdapterRefused:
    """The refusal of an adapter that is there only as pickles."""
    shown = ", ".join(sorted(names)[:3])
    return AdapterRefused(
        PICKLE_REFUSED,
        f"The {where} holds its weights only as a pickle ({shown}), and loading one can run any program hidden in it."
        " Save the adapter as safetensors (save_pretrained of peft does so) and import that.",
        shown,
    )


def no_weights(names: Iterable[str]) -> NotAnAdapter:
    """What files are of which none is an adapter's weights, told from their names."""
    here = sorted(names)
    shown = ", ".join(here[:10])[:300]
    if "config.json" in here and any(_WHOLE_MODEL.fullmatch(name) for name in here):
        return NotAnAdapter(
            FULL_CHECKPOINT,
            "This is a whole model, not an adapter. Add it as a model in the admin, by its hub id or folder.",
            shown,
        )
    if any(name.endswith(".gguf") for name in here):
        return NotAnAdapter(
            NOT_WEIGHTS,
            "These are GGUF files, which are made for language models. Import a LoRA adapter of peft.",
            shown,
        )
    return NotAnAdapter(
        NO_ADAPTER,
        f"There is no adapter of peft here: {WEIGHTS_NAME} and {CONFIG_NAME} are what one is made of. Choose the folder"
        " that training wrote.",
        shown,
    )


def _top_folder(names: list[str]) -> str:
    """The one folder around everything, with its slash; empty where there is none."""
    tops = {name.partition("/")[0] for name in names}
    if len(tops) == 1 and all("/" in name for name in names):
        return f"{tops.pop()}/"
    return ""


def _refuse_without_weights(names: list[str], top: str, pickles: tuple[str, ...], where: str) -> None:
    deeper = sorted(name for name in names if name.endswith(f"/{WEIGHTS_NAME}"))
    if len(deeper) == 1:
        folder = deeper[0].removesuffix(f"/{WEIGHTS_NAME}")
        raise AdapterRefused(
            NO_ADAPTER,
            f"The adapter lies deeper in the {where}, in {folder[:100]}. {_ALONE[where]}",
            deeper[0][:300],
        )
    if deeper:
        raise AdapterRefused(
            NO_ADAPTER,
            f"The {where} holds {len(deeper)} adapters, in folders of their own. {_ALONE[where]}",
            ", ".join(deeper)[:300],
        )
    if pickles:
        raise pickles_refused(pickles, where)
    there = sorted(name.removeprefix(top) for name in names)
    raise AdapterRefused(
        NO_ADAPTER,
        f"The {where} holds no adapter: {WEIGHTS_NAME} and {CONFIG_NAME} are what one is made of."
        " Choose the folder that training wrote.",
        f"there are: {', '.join(there[:10])[:300]}" if there else "nothing is in it",
    )

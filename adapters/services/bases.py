"""Which model of the registry an adapter names as its base, in the many ways in which people name one.

Trusts no name that the adapter's own shapes contradict.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from adapters.format.compatibility import contradiction
from adapters.format.fingerprint import Fingerprint
from adapters.models import Adapter
from adapters.models.adapter import describe_architecture
from registry.models import ModelConfig

_ADDRESS: Final = re.compile(
    r"(?:hf://|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)(?:models/)?", re.IGNORECASE
)
#: How the hub's cache names a repository's folder, with or without the snapshot in it.
_CACHE_FOLDER: Final = re.compile(r"(?:^|/)models--([A-Za-z0-9._-]+?)--([A-Za-z0-9._-]+)(?:/|\Z)")
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_BARE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def find_base(name: str) -> ModelConfig | None:
    """The model that an adapter's config names; None where it names none, or one that the registry does not know.

    Knows ids of the hub in any case, with a slash or a revision at the end, as an address, without their owner, as
    a folder of the hub's cache, and the folder of a model's own checkpoint. Any other folder says nothing.
    """
    wanted = name.strip().replace("\\", "/")
    if not wanted.isprintable():
        return None
    if (own := _with_folder(wanted)) is not None:
        return own
    wanted = wanted.rstrip("/")
    if cached := _CACHE_FOLDER.search(wanted):
        wanted = f"{cached[1]}/{cached[2]}"
    if address := _ADDRESS.match(wanted):
        wanted = "/".join(wanted[address.end() :].split("/")[:2])
    wanted = wanted.partition("@")[0]
    if _HUB_ID.fullmatch(wanted):
        return ModelConfig.objects.filter(hf_model_id__iexact=wanted).first()
    if not _BARE_ID.fullmatch(wanted):
        return None
    if (listed := ModelConfig.objects.filter(id__iexact=wanted).first()) is not None:
        return listed
    # Without its owner: of two that share the name, neither is meant for certain.
    named = list(ModelConfig.objects.filter(hf_model_id__iendswith=f"/{wanted}")[:2])
    return named[0] if len(named) == 1 else None


def believed_base(name: str, fingerprint: Fingerprint) -> tuple[ModelConfig | None, list[str]]:
    """The base model that an adapter names, unless its shapes contradict it; and sentences for people on that."""
    model = find_base(name)
    if model is None or not contradiction(fingerprint, describe_architecture(model)):
        return model, []
    return None, [
        f"Its config names {model.display_name} as its base model, which its shapes contradict: the name is ignored."
    ]


def link_bases(model: ModelConfig) -> int:
    """Tell adapters that were imported before this model was added that it is their base; answer how many."""
    linked = 0
    for adapter in Adapter.objects.filter(base_model__isnull=True).exclude(base_model_name=""):
        base, _ = believed_base(adapter.base_model_name, adapter.fingerprint)
        if base is not None and base.pk == model.pk:
            linked += Adapter.objects.filter(pk=adapter.pk, base_model__isnull=True).update(base_model=model)
    return linked


def _with_folder(path: str) -> ModelConfig | None:
    """The model whose own checkpoint lies in that folder. The path is compared and never opened."""
    if not path.startswith("/"):
        return None
    wanted = Path(os.path.normpath(path))
    for model in ModelConfig.objects.exclude(local_path=""):
        folder = Path(model.checkpoint)
        if wanted in (Path(os.path.normpath(folder)), folder.resolve()):
            return model
    return None

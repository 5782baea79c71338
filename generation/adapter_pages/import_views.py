"""Importing an adapter by page: a zip, the hub, or a folder of this computer. A refusal keeps the form as it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from adapters.format.errors import AdapterRefused
from adapters.services.importing import (
    FolderSource,
    HubSource,
    ImportResult,
    Source,
    ZipSource,
    import_adapter,
)
from adapters.services.uploads import zip_of
from gated_configs.wording import spoken_bytes
from generation.adapter_pages.access import check_staff, go_to, is_htmx
from generation.adapter_pages.details import DETAILS, sent_values, wording_of
from registry.services import ModelNotFound, list_models

#: Refusals of the form itself, at the field of each source.
_MISSING: Final = {
    "zip": "Choose a zip file first.",
    "hub": "Write the repository as owner/name.",
    "folder": "Write the full path of the folder.",
}


@require_http_methods(["GET", "HEAD", "POST"])
def adapter_import(request: HttpRequest) -> HttpResponse:
    """The form, and what becomes of it. Staff only."""
    check_staff(request)
    if request.method != "POST":
        return render(request, "adapters/import.html", _context(QueryDict()))
    try:
        result = _import(request)
    except AdapterRefused as refused:
        return _refused(request, refused.message, field=str(refused.facts.get("field", "")))
    except ModelNotFound as refused:
        return _refused(request, str(refused), field="base_model")
    sentence = (
        f"Imported {result.adapter}."
        if result.created
        else f"This adapter was here already, as {result.adapter}. Nothing was added."
    )
    messages.info(request, sentence)
    return go_to(request, reverse("generation:adapter", args=[result.adapter.pk]))


def _import(request: HttpRequest) -> ImportResult:
    """Raises AdapterRefused, also where the form does not say what to import; and ModelNotFound."""
    kind = _kind(request.POST)
    if kind == "zip":
        upload = request.FILES.get("zip")
        if not isinstance(upload, UploadedFile):
            raise AdapterRefused("SOURCE_MISSING", _MISSING["zip"], field="zip")
        with zip_of(upload) as path:
            return _import_from(request, ZipSource(path, upload.name or ""))
    place = request.POST.get("hf_model_id" if kind == "hub" else "folder", "").strip()
    if not place or "\0" in place:
        raise AdapterRefused("SOURCE_MISSING", _MISSING[kind], field=kind)
    if kind == "hub":
        return _import_from(request, HubSource(place))
    folder = Path(os.path.expanduser(place))  # noqa: PTH111 - Path's raises for a person who is not there
    if not folder.is_absolute():
        raise AdapterRefused("SOURCE_MISSING", _MISSING[kind], field=kind)
    return _import_from(request, FolderSource(folder))


def _import_from(request: HttpRequest, source: Source) -> ImportResult:
    """Only what was filled in is said: the rest is in the files."""
    wording = wording_of(request.POST)
    return import_adapter(
        source=source,
        imported_by=request.user if request.user.is_authenticated else None,
        name=wording.name,
        version=wording.version,
        description=wording.description or "",
        trigger_words=wording.trigger_words or "",
        default_strength=wording.default_strength,
        base_model=wording.base_model,
    )


def _is_local() -> bool:
    """A folder of the server's disk is the person's own only in local mode."""
    return bool(settings.STUDIO.access == "local")


def _kind(sent: QueryDict) -> str:
    """Which source the form speaks of."""
    kind = sent.get("source", "zip")
    return kind if kind == "hub" or (kind == "folder" and _is_local()) else "zip"


def _refused(request: HttpRequest, sentence: str, *, field: str) -> HttpResponse:
    """The form again: the sentence at its field, or above all of them."""
    context = _context(request.POST)
    if field in {*DETAILS, "hub", "folder"}:
        context["errors"] = {field: sentence}
        context["has_details"] = context["has_details"] or field in DETAILS
    else:
        context["refusal"] = sentence
    if not is_htmx(request) and request.FILES:
        context["refusal"] = f"{context['refusal']} The file must be chosen again.".strip()
    template = "adapters/_import_form.html" if is_htmx(request) else "adapters/import.html"
    return render(request, template, context, status=400)


def _context(sent: QueryDict) -> dict[str, Any]:
    most = int(settings.STUDIO.max_adapter_bytes)
    return {
        "source": _kind(sent),
        "is_local": _is_local(),
        "max_bytes": most,
        "max_size": spoken_bytes(most),
        "models": list_models(),
        "values": {
            **sent_values(sent),
            "hf_model_id": sent.get("hf_model_id", ""),
            "folder": sent.get("folder", ""),
        },
        "has_details": any(sent.get(name) for name in DETAILS),
        "errors": {},
        "refusal": "",
    }

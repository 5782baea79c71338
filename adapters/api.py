"""The JSON API of the adapters: list, look, import, edit. Deleting is in `generation`, which knows what needs one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from django.conf import settings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI, Router, Schema, Status
from ninja.errors import HttpError, ValidationError
from ninja.params.functions import Query
from pydantic import ValidationError as SchemaError

from adapters.api_schemas import AdapterOut, AdaptersOut, AdapterWording, ImportIn, ImportOut, ZipFields
from adapters.format.errors import AdapterRefused
from adapters.models import Adapter
from adapters.services.editing import AdapterNotFound, Wording, edit_adapter, get_adapter
from adapters.services.importing import (
    FolderSource,
    HubSource,
    ImportResult,
    Source,
    ZipSource,
    import_adapter,
)
from adapters.services.uploads import zip_of
from registry.api_schemas import ErrorOut
from registry.media import MEDIA_AWAY
from registry.models import ModelConfig
from registry.services import NoActiveModel, get_active_model, get_model_config

router = Router(tags=["adapters"])

_MAX_JSON_BYTES: Final = 64 * 1024
#: Statuses of refusals; what is not here is 400.
_STATUS: Final = {
    "ADAPTER_NAME_TAKEN": 409,
    "ADAPTER_TOO_LARGE": 413,
    "CONFIG_TOO_LARGE": 413,
    "DISK_FULL": 507,
    MEDIA_AWAY: 503,
}

S = TypeVar("S", bound=Schema)


class StaffOnly(Exception):
    """`str()` is the sentence for people."""

    def __init__(self) -> None:
        super().__init__("Only staff may import and edit adapters. Ask the person who runs this studio.")


def register_refusals(api: NinjaAPI, refuse: Callable[..., HttpResponse]) -> None:
    """Teach the API how to answer what is raised here; `refuse(request, status, sentence, code, **facts)` answers."""

    @api.exception_handler(AdapterRefused)
    def _refused(request: HttpRequest, refused: AdapterRefused) -> HttpResponse:
        facts = {name: value for name, value in refused.facts.items() if name not in ("error", "error_code")}
        field = facts.pop("field", None)
        errors = {"errors": {str(field): refused.message}} if field else {}
        return refuse(
            request, _STATUS.get(refused.code, 400), refused.message, refused.code, **facts, **errors
        )

    @api.exception_handler(AdapterNotFound)
    def _not_found(request: HttpRequest, problem: AdapterNotFound) -> HttpResponse:
        return refuse(request, 404, str(problem), "ADAPTER_NOT_FOUND", adapter_id=problem.adapter_id)

    @api.exception_handler(StaffOnly)
    def _staff_only(request: HttpRequest, problem: StaffOnly) -> HttpResponse:
        return refuse(request, 403, str(problem), "STAFF_ONLY")


@router.get("", response={200: AdaptersOut, 400: ErrorOut, 404: ErrorOut}, operation_id="list_adapters")
def adapters_list(
    request: HttpRequest,
    compatible_with: str = Query(
        "", max_length=300, description="Only those that work with this model, by id or Hugging Face id."
    ),
    q: str = Query(
        "", max_length=200, description="Words in name, version, description, trigger words or base."
    ),
) -> Any:
    """The adapters, each with its verdict for the model that is asked for, else for the active one."""
    found = Adapter.objects.select_related("base_model", "imported_by").prefetch_related("proofs")
    active = _active_model()
    model = active
    if compatible_with:
        model = get_model_config(compatible_with)
        found = found.compatible_with(model)
    if q:
        found = found.search(q)
    rows = [AdapterOut.of(adapter, model) for adapter in found]
    return AdaptersOut(
        adapters=rows, total=len(rows), current_model=active.pk if active is not None else None
    )


@router.get(
    "/{int:adapter_id}",
    response={200: AdapterOut, 400: ErrorOut, 404: ErrorOut},
    operation_id="get_adapter",
)
def adapter_detail(
    request: HttpRequest,
    adapter_id: int,
    model: str = Query(
        "", max_length=300, description="The model of the verdict; the active one without it."
    ),
) -> Any:
    """One adapter, its base model, its verdict and its proofs."""
    adapter = get_adapter(adapter_id)
    return AdapterOut.of(adapter, get_model_config(model) if model else _active_model())


_TEXT: Final = {"type": "string"}
#: Ninja describes one kind of body; this route takes two.
_IMPORT_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ImportIn.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "A zip of the adapter's folder.",
                        },
                        **dict.fromkeys(AdapterWording.model_fields, _TEXT),
                    },
                    "required": ["file"],
                }
            },
        },
    }
}


@router.post(
    "",
    response={
        200: ImportOut,
        201: ImportOut,
        400: ErrorOut,
        403: ErrorOut,
        404: ErrorOut,
        409: ErrorOut,
        413: ErrorOut,
        507: ErrorOut,
    },
    operation_id="import_adapter",
    openapi_extra=_IMPORT_BODY,
)
def adapter_import(request: HttpRequest) -> Any:
    """Import an adapter: a zip as a form with `file`, or JSON with `hf_model_id` or `folder`. 200 when it was there."""
    # First of all: what nobody may import is not even read.
    user = _staff(request)
    if request.content_type == "multipart/form-data":
        fields = _checked(ZipFields, {name: value for name, value in request.POST.items() if value != ""})
        file = request.FILES.get("file")
        if not isinstance(file, UploadedFile):
            raise AdapterRefused("NO_FILE", "Choose a zip file: the form's field is `file`.", field="file")
        with zip_of(file) as path:
            result = _import(ZipSource(path, file.name or ""), fields, user)
    else:
        wanted = _checked(ImportIn, _json(request))
        result = _import(_source(wanted), wanted, user)
    answer = ImportOut(created=result.created, adapter=AdapterOut.of(result.adapter, _active_model()))
    return Status(201 if result.created else 200, answer)


@router.patch(
    "/{int:adapter_id}",
    response={
        200: AdapterOut,
        400: ErrorOut,
        403: ErrorOut,
        404: ErrorOut,
        409: ErrorOut,
        413: ErrorOut,
    },
    operation_id="edit_adapter",
)
def adapter_edit(request: HttpRequest, adapter_id: int, wanted: AdapterWording) -> Any:
    """Change what is said of an adapter. Fields that are left out stay; `base_model` "" means unknown."""
    _staff(request)
    adapter = edit_adapter(get_adapter(adapter_id), _wording(wanted))
    return AdapterOut.of(adapter, _active_model())


def _import(source: Source, fields: AdapterWording, user: User) -> ImportResult:
    said = _wording(fields)
    return import_adapter(
        source=source,
        imported_by=user,
        name=said.name,
        version=said.version,
        base_model=said.base_model,
        description=said.description or "",
        trigger_words=said.trigger_words or "",
        default_strength=said.default_strength,
    )


def _source(wanted: ImportIn) -> Source:
    if wanted.hf_model_id and wanted.folder:
        raise AdapterRefused("NO_SOURCE", "Send `hf_model_id` or `folder`, not both.")
    if not wanted.hf_model_id and not wanted.folder:
        raise AdapterRefused(
            "NO_SOURCE",
            "Say where the adapter is: send `hf_model_id` or `folder`, or a zip as a form with the field `file`.",
        )
    if wanted.hf_model_id:
        return HubSource(wanted.hf_model_id, wanted.revision or "")
    # A path is a right to read files of the server. In local mode who asks owns the machine; in shared mode even
    # staff need not be those who may log in to it, and what a folder holds could be told from the answers.
    if settings.STUDIO.access != "local":
        raise AdapterRefused(
            "FOLDER_NOT_ALLOWED",
            "A folder of the server cannot be imported from here. Upload a zip, or run `manage.py import_adapter` there.",
            field="folder",
        )
    path = Path(wanted.folder or "")
    if "\0" in str(path) or not path.is_absolute():
        raise AdapterRefused(
            "FOLDER_NOT_FOUND", "Give the whole path of the folder, from the root.", field="folder"
        )
    return FolderSource(path)


def _wording(fields: AdapterWording) -> Wording:
    strength = fields.default_strength
    return Wording(
        name=fields.name,
        version=fields.version,
        description=fields.description,
        trigger_words=fields.trigger_words,
        default_strength=None if strength is None else float(strength),
        base_model=fields.base_model,
    )


def _json(request: HttpRequest) -> Any:
    if len(request.body) > _MAX_JSON_BYTES:
        raise HttpError(
            413, f"The request is larger than {_MAX_JSON_BYTES // 1024} kB. Send an adapter as a form."
        )
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError):
        raise HttpError(
            400, 'The request is not JSON. Send an object such as {"hf_model_id": "someone/my-adapter"}.'
        ) from None


def _checked(schema: type[S], values: Any) -> S:
    try:
        return schema.model_validate(values)
    except SchemaError as error:
        # Without what was sent: an upload's fields may be long.
        raise ValidationError(
            [cast("dict[str, Any]", each) for each in error.errors(include_input=False)]
        ) from error


def _staff(request: HttpRequest) -> User:
    user = cast(User, request.user)
    if not user.is_staff:
        raise StaffOnly
    return user


def _active_model() -> ModelConfig | None:
    try:
        return get_active_model()
    except NoActiveModel:
        return None

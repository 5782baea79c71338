"""The settings page: every model the studio knows and what it can do, and the machine it runs on."""

from __future__ import annotations

import platform

import psutil
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from gated_configs.wording import gigabytes
from registry.services import list_models


@require_GET
def settings_page(request: HttpRequest) -> HttpResponse:
    """Models and hardware, read only; limits are edited in the admin."""
    memory = psutil.virtual_memory()
    hardware = {
        "Machine": platform.node(),
        "Processor cores": psutil.cpu_count(logical=True),
        "Memory": f"{gigabytes(memory.total)}, {gigabytes(memory.available)} free",
    }
    return render(request, "registry/settings.html", {"models": list_models(), "hardware": hardware})

"""What every page needs besides its own content: the engine's state, the place in the navigation, the mode of access."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from generation.engine_state import engine_state

_NAVIGATION = {
    "generation:studio": ("studio", "studio"),
    "generation:library": ("library", "library"),
    "generation:deleted": ("library", "shell"),
    "generation:adapters": ("adapters", "adapters"),
    "generation:adapter-import": ("adapters", "shell"),
    "generation:adapter": ("adapters", "adapter"),
    "generation:adapter-try": ("adapters", "adapter"),
    "generation:adapter-trial": ("adapters", "adapter"),
    "generation:adapter-edit": ("adapters", "shell"),
    "generation:adapter-delete": ("adapters", "shell"),
    "memory:page": ("memory", "shell"),
    "memory:config": ("memory", "shell"),
    "generation:settings": ("settings", "settings"),
    "generation:switch-plan": ("settings", "shell"),
    "generation:inside": ("settings", "shell"),
    "generation:webhooks": ("settings", "shell"),
}


def studio(request: HttpRequest) -> dict[str, Any]:
    """Context processor. `live_view` tells the socket what the page shows."""
    name = request.resolver_match.view_name if request.resolver_match else ""
    nav, live_view = _NAVIGATION.get(name, ("", "shell"))
    if name == "generation:webhooks" and settings.STUDIO.access == "shared":
        nav = ""  # of the account there
    if live_view == "adapter" and request.resolver_match is not None:
        live_view = f"adapter-{request.resolver_match.kwargs['pk']}"
        if trial := request.resolver_match.kwargs.get("trial_pk"):
            live_view += f"-{trial}"
    return {
        "engine": SimpleLazyObject(engine_state),
        "nav": nav,
        "live_view": live_view,
        "access": settings.STUDIO.access,
    }

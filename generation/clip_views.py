"""What the studio's field for a clip does: bring a sound file in, and put it away again."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from generation.clip_field import clip_context, clip_values
from generation.clips.decoding import ClipRefused
from generation.models import Clip
from generation.services import clips
from generation.services.refusals import GenerationRefused
from registry.media import MediaAway


@require_POST
def clip_upload(request: HttpRequest) -> HttpResponse:
    """Keep a sound file, and answer with the field that goes on from it."""
    try:
        clip, _ = clips.keep_upload(owner=request.user, upload=request.FILES.get("file"))
    except (ClipRefused, GenerationRefused, MediaAway) as refused:
        return _refused(request, str(refused))
    if not _is_htmx(request):
        return redirect(f"{reverse('generation:studio')}?clip={clip.pk}")
    context = clip_context(clip, seconds=clip_values(clip)["continue_from_seconds"])
    return render(request, "generation/_clip_field.html", context)


@require_POST
def clip_remove(request: HttpRequest, pk: int) -> HttpResponse:
    """Begin without it. It is deleted, unless something was made from it."""
    clips.put_away(get_object_or_404(Clip.objects.for_user(request.user), pk=pk))
    if not _is_htmx(request):
        return redirect("generation:studio")
    return render(request, "generation/_clip_field.html", clip_context(None))


def _refused(request: HttpRequest, sentence: str) -> HttpResponse:
    if not _is_htmx(request):
        messages.error(request, sentence)
        return redirect("generation:studio")
    return render(request, "generation/_clip_field.html", clip_context(None, error=sentence), status=400)


def _is_htmx(request: HttpRequest) -> bool:
    return bool(getattr(request, "htmx", False))

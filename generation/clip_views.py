"""What the studio's fields for clips do: bring a sound file in, and put it away again."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from generation.clip_field import CONTINUED, MELODY, ClipUse, clip_context, clip_values
from generation.clips.decoding import ClipRefused
from generation.models import Clip
from generation.services import clips
from generation.services.refusals import GenerationRefused
from registry.media import MediaAway


@require_POST
def clip_upload(request: HttpRequest) -> HttpResponse:
    """Keep a sound file, and answer with the field that goes on from it or follows it."""
    use = _use(request)
    try:
        clip, _ = clips.keep_upload(owner=request.user, upload=request.FILES.get(use.file_field))
    except (ClipRefused, GenerationRefused, MediaAway) as refused:
        return _refused(request, use, str(refused))
    if not _is_htmx(request):
        return redirect(f"{reverse('generation:studio')}?{use.key}={clip.pk}")
    field = clip_context(use, clip, seconds=clip_values(clip)["continue_from_seconds"])
    return render(request, "generation/_clip_field.html", {"field": field})


@require_POST
def clip_remove(request: HttpRequest, pk: int) -> HttpResponse:
    """Begin without it. It is deleted, unless something was made from it."""
    use, clip = _use(request), get_object_or_404(Clip.objects.for_user(request.user), pk=pk)
    other = CONTINUED if use is MELODY else MELODY
    if request.POST.get(other.field) != str(pk):  # the same one may be chosen for both
        clips.put_away(clip)
    if not _is_htmx(request):
        return redirect("generation:studio")
    return render(request, "generation/_clip_field.html", {"field": clip_context(use, None)})


def _use(request: HttpRequest) -> ClipUse:
    return MELODY if request.GET.get("use") == MELODY.key else CONTINUED


def _refused(request: HttpRequest, use: ClipUse, sentence: str) -> HttpResponse:
    if not _is_htmx(request):
        messages.error(request, sentence)
        return redirect("generation:studio")
    field = clip_context(use, None, error=sentence)
    return render(request, "generation/_clip_field.html", {"field": field}, status=400)


def _is_htmx(request: HttpRequest) -> bool:
    return bool(getattr(request, "htmx", False))

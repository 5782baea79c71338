"""The account page: quotas, API tokens, the password, and ending every login."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import PasswordChangeView
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.views.decorators.http import require_http_methods, require_POST

from generation.models import Webhook
from generation.services.quotas import use_of
from generation.services.storage import storage_of
from musicgen_site.forms import PasswordForm, TokenForm
from musicgen_site.models import ApiToken
from musicgen_site.services.tokens import TokenRefused, create_token, revoke_token, scopes_for
from musicgen_site.views.access import RefusedIs400, shared_mode_only


@shared_mode_only
@require_http_methods(["GET", "HEAD"])
def account(request: HttpRequest) -> HttpResponse:
    """Who is logged in, what they may still ask for, and their tokens."""
    return render(request, "account/account.html", _context(request, TokenForm(initial={"days": "90"})))


@shared_mode_only
@require_POST
def token_create(request: HttpRequest) -> HttpResponse:
    """Make a token. It is in this answer and nowhere else: neither in a session nor in a redirect."""
    form = TokenForm(request.POST)
    if form.is_valid():
        try:
            _, secret = create_token(
                owner=request.user,
                name=form.cleaned_data["name"],
                scope=form.cleaned_data["scope"],
                expires_at=form.expires_at,
            )
        except TokenRefused as refused:
            form.add_error(refused.field, str(refused))
        else:
            context = _context(request, TokenForm(initial={"days": "90"}))
            return render(request, "account/account.html", {**context, "secret": secret})
    return render(request, "account/account.html", _context(request, form), status=400)


@shared_mode_only
@require_POST
def token_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    """End a token of one's own."""
    token = revoke_token(owner=request.user, pk=pk)
    if token is None:
        raise Http404
    messages.info(request, f"Revoked “{token.name}”. Scripts that use it are refused from now on.")
    return redirect("account")


class PasswordPage(RefusedIs400, PasswordChangeView):
    """Another password. It ends every other login of this person; the session at hand goes on under a new key."""

    form_class = PasswordForm
    template_name = "account/password.html"
    success_url = reverse_lazy("account")

    def form_valid(self, form: Any) -> HttpResponse:
        """Change it, and say what else has changed by that."""
        response = super().form_valid(form)
        messages.info(
            self.request, "The password is changed, and every other login has ended. API tokens stay valid."
        )
        return response


def _context(request: HttpRequest, form: TokenForm) -> dict[str, Any]:
    return {
        "token_form": form,
        "tokens": ApiToken.objects.for_user(request.user).unrevoked(),
        "scopes": scopes_for(request.user),
        "use": use_of(request.user),
        "webhooks": list(Webhook.objects.for_user(request.user)),
        "storage": storage_of(request.user),
        "keep_days": settings.STUDIO.keep_takes_days,
    }

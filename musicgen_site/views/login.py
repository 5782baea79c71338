"""Doors: the login, behind its guard, which is the admin's too, and the first administrator's page."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from generation.events import AccessChanged
from musicgen_site.forms import FirstAdministratorForm, LoginForm, suggested_username
from musicgen_site.services import setup
from musicgen_site.services.login_guard import remember_device
from musicgen_site.views.access import shared_mode_only
from registry.events import send_on_commit


class StudioLogin(LoginView):
    """Django's login with our form. A refused try answers 200 with the form, too many tries 429."""

    authentication_form = LoginForm
    redirect_authenticated_user = True

    def form_valid(self, form: Any) -> HttpResponse:
        """Log in, in a new session, and remember the browser."""
        response = super().form_valid(form)
        remember_device(self.request, response, form.get_user().get_username())
        return response

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """The form again, with the sentence."""
        response = super().form_invalid(form)
        refused = form.refused if isinstance(form, LoginForm) else None
        if refused is not None:
            response.status_code = 429
            response.headers["Retry-After"] = str(math.ceil(refused.seconds))
        return response

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        """Offer a reset by mail where mails can be sent."""
        return super().get_context_data(**context) | {"can_reset": settings.STUDIO.email_url is not None}


class StudioLogout(LogoutView):
    """Ends this login, and the sockets that it had open."""

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Log out."""
        user_id = request.user.pk
        response = super().post(request, *args, **kwargs)
        if user_id is not None:
            # After the session is gone: pages come back at once, and must then be refused.
            send_on_commit(AccessChanged(owner_id=user_id))
        return response


@login_not_required
@never_cache
def admin_login(request: HttpRequest) -> HttpResponse:
    """The admin has no door of its own, so that no try at a password passes the guard by."""
    if request.user.is_authenticated:
        if request.user.is_staff:
            return redirect("admin:index")
        raise PermissionDenied("Only staff may use the admin.")
    return redirect(f"{reverse('login')}?{urlencode({'next': request.GET.get('next') or '/admin/'})}")


@login_not_required
@shared_mode_only
@require_http_methods(["GET", "HEAD", "POST"])
def first_administrator(request: HttpRequest, secret: str) -> HttpResponse:
    """Make the first administrator with the link that `serve` printed; it works once."""
    if not setup.is_open(secret):
        return render(request, "registration/setup_over.html", status=410)
    if request.method != "POST":
        form = FirstAdministratorForm(initial={"username": suggested_username(request)})
        return render(request, "registration/setup.html", {"form": form})
    form = FirstAdministratorForm(request.POST)
    user = None
    if form.is_valid():
        try:
            user = setup.create_first_administrator(
                secret=secret,
                username=form.cleaned_data["username"],
                password=form.cleaned_data["password1"],
            )
        except setup.NameTaken as taken:
            form.add_error("username", str(taken))
        else:
            if user is None:
                return render(request, "registration/setup_over.html", status=410)
    if user is None:
        return render(request, "registration/setup.html", {"form": form}, status=400)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    response = redirect("generation:studio")
    remember_device(request, response, user.get_username())
    return response

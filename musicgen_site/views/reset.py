"""A new password by mail, for those who forgot theirs. There only where the studio can send mails."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.views import (
    PasswordResetCompleteView,
    PasswordResetConfirmView,
    PasswordResetDoneView,
    PasswordResetView,
)
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.http.request import split_domain_port, validate_host

from gated_configs.services.rate_limits import Limit, take
from gated_configs.wording import rough_seconds
from musicgen_site.forms import NewPasswordForm, ResetForm
from musicgen_site.request_in_hand import address_of, network_of
from musicgen_site.request_limits import too_many
from musicgen_site.views.access import RefusedIs400, shared_mode_only

#: Mails asked for from one address, and mails to one mailbox.
FROM_HERE: Final = Limit("reset-address", 10, 3600)
TO_MAILBOX: Final = Limit("reset-mailbox", 3, 3600)


def with_mail(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """404 in local mode and where no mail can be sent."""

    @wraps(view)
    def checked(request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponseBase:
        if settings.STUDIO.email_url is None:
            raise Http404
        return view(request, *arguments, **named)

    return shared_mode_only(checked)


def mailed_host(request: HttpRequest) -> str:
    """Host and port for links in mails: the request's, where it is one of MUSICGEN_ALLOWED_HOSTS, else the first of those.

    This machine's own names are answered, too, but lead nowhere for who reads the mail.
    """
    host = request.get_host()
    name, port = split_domain_port(host)
    named = settings.STUDIO.allowed_hosts
    if not named or validate_host(name, named):
        return host
    return f"{named[0].removeprefix('.')}{f':{port}' if port else ''}"


class ResetPage(RefusedIs400, PasswordResetView):
    """Asks for the address. The answer is the same whether or not somebody has it."""

    form_class = ResetForm
    template_name = "registration/reset.html"
    email_template_name = "registration/reset_email.txt"
    subject_template_name = "registration/reset_subject.txt"

    def form_valid(self, form: PasswordResetForm) -> HttpResponse:
        """Send, unless that was done too often."""
        wait = take(FROM_HERE, network_of(address_of(self.request)))
        if wait:
            sentence = f"Too many mails were asked for from here. Try again in {rough_seconds(wait)}."
            return too_many(self.request, sentence, wait)
        if take(TO_MAILBOX, form.cleaned_data["email"].casefold()):
            return HttpResponseRedirect(self.get_success_url())
        self.extra_email_context = {"domain": mailed_host(self.request)}
        return super().form_valid(form)


class SentPage(PasswordResetDoneView):
    """Says that a mail is on its way, if somebody has that address."""

    template_name = "registration/reset_sent.html"


class NewPasswordPage(RefusedIs400, PasswordResetConfirmView):
    """The page behind the mail's link."""

    form_class = NewPasswordForm
    template_name = "registration/reset_confirm.html"


class ChangedPage(PasswordResetCompleteView):
    """Says that it worked."""

    template_name = "registration/reset_done.html"

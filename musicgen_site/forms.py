"""Forms of people's accounts. Words and checks are here; what becomes of them is the services'."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from django import forms
from django.contrib.auth import get_user_model
from django.contrib.auth.forms import (
    AuthenticationForm,
    BaseUserCreationForm,
    PasswordChangeForm,
    PasswordResetForm,
    SetPasswordForm,
)
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.utils import timezone

from musicgen_site.services.login_guard import TooManyTries, begin_login
from musicgen_site.services.tokens import NO_SCOPE, UNSHOWN

if TYPE_CHECKING:
    _UserCreationForm = BaseUserCreationForm[User]
    _SetPasswordForm = SetPasswordForm[User]
else:
    # They take a type argument in the stubs only.
    _UserCreationForm = BaseUserCreationForm
    _SetPasswordForm = SetPasswordForm

logger = logging.getLogger(__name__)

WRONG: Final = "This user name and password do not belong together. Capital and small letters differ."


#: What an empty field is told.
_EMPTY: Final = {
    "username": "Type a user name.",
    "password": "Type your password.",
    "old_password": "Type the password that you have now.",
    "password1": "Choose a password.",
    "new_password1": "Choose a password.",
    "password2": "Type the new password again.",
    "new_password2": "Type the new password again.",
    "email": "Type the email address of your account.",
}
_DIFFER: Final[dict[str, Any]] = {"password_mismatch": "The two passwords differ. Type the same one twice."}


#: What other wrong input is told, by the kind of the field and the code of the problem.
_UNTYPED: Final = "null_characters_not_allowed"
_WRONG: Final = {
    "username": {
        "invalid": "A user name has letters, digits and the signs @ . + - _ only.",
        "max_length": "A user name can have %(limit_value)d characters, and this has %(show_value)d. Shorten it.",
        _UNTYPED: "The user name holds a character that cannot be typed. Type it again.",
    },
    "email": {
        "invalid": "This is no email address. One looks like name@example.org.",
        "max_length": "An email address can have %(limit_value)d characters, and this has %(show_value)d.",
    },
    "password": {_UNTYPED: "The password holds a character that cannot be typed. Type it again."},
}


class InOurWords(forms.BaseForm):
    """What people are told of an empty field and of wrong input, for forms of Django's."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name, field in self.fields.items():
            field.error_messages |= {"required": _EMPTY[name], **_WRONG.get(name, _WRONG["password"])}


class LoginForm(InOurWords, AuthenticationForm):
    """Django's own, behind the guard. Every refusal of a name and password reads the same."""

    error_messages = {"invalid_login": WRONG, "inactive": WRONG}
    refused: TooManyTries | None = None

    def clean(self) -> dict[str, Any]:
        """Count the try, then look at the password."""
        username = self.cleaned_data.get("username")
        if username is None or not self.cleaned_data.get("password"):
            return self.cleaned_data
        assert self.request is not None
        try:
            attempt = begin_login(self.request, username)
        except TooManyTries as refused:
            self.refused = refused
            raise forms.ValidationError(str(refused), code="too_many") from refused
        cleaned = super().clean()
        attempt.succeeded()
        return cleaned


class PasswordForm(InOurWords, PasswordChangeForm):
    """Another password, by who knows the one until now."""

    error_messages = {
        **_DIFFER,
        "password_incorrect": "This is not the password that you have now. Capital and small letters differ.",
    }


class NewPasswordForm(InOurWords, _SetPasswordForm):
    """A password by the link of a mail."""

    error_messages = _DIFFER


class FirstAdministratorForm(InOurWords, _UserCreationForm):
    """Name and password of the first administrator. It saves nothing: a service makes the account."""

    error_messages = _DIFFER

    class Meta:
        model = User
        fields = ("username",)

    def validate_unique(self) -> None:
        """The service decides about names: the owner of local mode may become the administrator."""


#: Lives of a token, in days; the empty one is for as long as nobody revokes it.
_LIVES: Final = (("30", "30 days"), ("90", "90 days"), ("365", "1 year"), ("", "No end"))


class TokenForm(forms.Form):
    """A new token: what it is called, what it may do, for how long."""

    name = forms.CharField(required=False, strip=False, error_messages={_UNTYPED: UNSHOWN})
    scope = forms.CharField(required=False, error_messages={_UNTYPED: NO_SCOPE})
    days = forms.ChoiceField(
        choices=_LIVES,
        required=False,
        error_messages={"invalid_choice": "Choose for how long the token is valid."},
    )

    @property
    def expires_at(self) -> Any:
        """When it ends, or None."""
        days = self.cleaned_data.get("days")
        return timezone.now() + timedelta(days=int(days)) if days else None


class ResetForm(InOurWords, PasswordResetForm):
    """Sends its mail beside the answer, so that the time it takes does not tell who has an account."""

    def send_mail(self, *args: Any, **options: Any) -> None:
        """Send from a thread; what goes wrong is logged."""

        def send() -> None:
            try:
                super(ResetForm, self).send_mail(*args, **options)
            except OSError:
                logger.exception("the mail for a new password could not be sent")

        threading.Thread(target=send, name="password-mail", daemon=True).start()


def suggested_username(request: HttpRequest) -> str:
    """Who the first administrator may want to be: the owner of local mode, where there was one."""
    return "owner" if get_user_model().objects.filter(username="owner").exists() else ""

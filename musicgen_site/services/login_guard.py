"""Keeps a login from being guessed: counts tries by person and address, and never asks whether the person exists.

A try is counted before the password is looked at, so that many at once gain nothing; the right password gives it back.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Final

from django.core import signing
from django.http import HttpRequest, HttpResponseBase

from gated_configs.services.rate_limits import Limit, forget, give_back, take
from gated_configs.wording import rough_seconds
from musicgen_site.request_in_hand import address_of, network_of

#: Wrong passwords of one person from one address.
PERSON_HERE: Final = Limit("login-person-here", 6, 18 * 60)
#: Wrong passwords from one address, whoever they were for.
ADDRESS: Final = Limit("login-address", 40, 20 * 60)
#: Wrong passwords of one person from everywhere: many machines that guess together. Small steps, because the right
#: person, coming from a new place, waits for them too.
PERSON: Final = Limit("login-person", 60, 15 * 60)
#: Wrong passwords of one person in a browser that this person has used before. It stands apart from all of the above:
#: whatever others do, the right person gets in.
DEVICE: Final = Limit("login-device", 10, 10 * 60)

DEVICE_COOKIE: Final = "musicgen_device"
_DEVICE_LIFE: Final = 90 * 24 * 3600
_SALT: Final = "musicgen_site.login_guard.device"


class TooManyTries(Exception):
    """`str()` is the sentence for people; `seconds` is how long to wait."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            f"There were too many tries with a wrong password. Try again in {rough_seconds(seconds)}."
        )


@dataclass(frozen=True)
class LoginTry:
    """One try that has been counted."""

    counted: tuple[tuple[Limit, str], ...]

    def succeeded(self) -> None:
        """It was the right person: what they got wrong before is forgotten, what others share is given back."""
        for limit, who in self.counted:
            (forget if limit in (PERSON_HERE, DEVICE) else give_back)(limit, who)


def begin_login(request: HttpRequest, username: str) -> LoginTry:
    """Count a try. Raises TooManyTries; then nothing was counted, and the password is not looked at."""
    person = _person(username)
    place = network_of(address_of(request))
    device = _device_of(request, person)
    wanted: list[tuple[Limit, str]]
    if device:
        wanted = [(DEVICE, device)]
    else:
        wanted = [(PERSON_HERE, f"{person} {place}"), (ADDRESS, place), (PERSON, person)]
    counted: list[tuple[Limit, str]] = []
    for limit, who in wanted:
        wait = take(limit, who)
        if wait:
            for taken in counted:
                give_back(*taken)
            raise TooManyTries(wait)
        counted.append((limit, who))
    return LoginTry(tuple(counted))


def remember_device(request: HttpRequest, response: HttpResponseBase, username: str) -> None:
    """Mark this browser as one that this person has logged in with."""
    value = signing.dumps([_person(username), secrets.token_hex(16)], salt=_SALT)
    response.set_cookie(
        DEVICE_COOKIE,
        value,
        max_age=_DEVICE_LIFE,
        path="/login/",
        secure=request.is_secure(),
        httponly=True,
        samesite="Lax",
    )


def _device_of(request: HttpRequest, person: str) -> str:
    """The mark of this browser, where it is that person's; else ""."""
    try:
        whose, mark = signing.loads(request.COOKIES.get(DEVICE_COOKIE, ""), salt=_SALT, max_age=_DEVICE_LIFE)
    except (signing.BadSignature, ValueError, TypeError):
        return ""
    return f"{person} {mark}" if whose == person else ""


def _person(username: str) -> str:
    """One key for the spellings of a name that look the same. Not the name: people type passwords there."""
    plain = unicodedata.normalize("NFKC", username).casefold().strip()
    return hashlib.sha256(plain.encode(errors="replace")).hexdigest()[:32]

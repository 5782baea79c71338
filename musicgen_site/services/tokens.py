"""Personal API tokens: make one, find whose it is, revoke it. The token itself is told once and never stored."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Q
from django.utils import timezone

from gated_configs.deeds import tell_deed
from musicgen_site.models import ApiToken, TokenScope
from musicgen_site.models.api_token import MAX_NAME_CHARACTERS

#: Every token begins so: scanners for lost secrets know one when they see it.
PREFIX: Final = "mgs_"
MAX_TOKENS: Final = 20
#: The last use is told no finer than this: a list of tokens is no diary.
USE_STEP: Final = timedelta(hours=1)


UNSHOWN: Final = "The name holds a character that cannot be shown. Type it again."
NO_SCOPE: Final = "Choose what the token may do."


class TokenRefused(ValueError):
    """`str()` is the sentence for people; `field` is the form's."""

    def __init__(self, field: str, sentence: str) -> None:
        self.field = field
        super().__init__(sentence)


def scopes_for(owner: Any) -> list[TokenScope]:
    """What a token of this person may be allowed to do."""
    return [scope for scope in TokenScope if scope is not TokenScope.MANAGE or owner.is_staff]


def create_token(
    *, owner: Any, name: str, scope: str, expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """Make a token: its row, and the token itself, which cannot be told again. Raises TokenRefused."""
    name = " ".join(name.split())
    if not name:
        raise TokenRefused("name", "Give the token a name that tells what it is for.")
    if len(name) > MAX_NAME_CHARACTERS:
        raise TokenRefused(
            "name", f"The name can have {MAX_NAME_CHARACTERS} characters, and this has {len(name)}."
        )
    if not name.isprintable():
        raise TokenRefused("name", UNSHOWN)
    if scope not in scopes_for(owner):
        raise TokenRefused("scope", NO_SCOPE)
    if ApiToken.objects.for_user(owner).unrevoked().count() >= MAX_TOKENS:
        raise TokenRefused("name", f"You have {MAX_TOKENS} tokens, which is the limit. Revoke one first.")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken.objects.create(
        owner=owner,
        name=name,
        scope=scope,
        expires_at=expires_at,
        digest=_digest(secret),
        hint=secret[: len(PREFIX) + 4],
    )
    tell_deed("token.created", token, by=owner, detail=token.get_scope_display())
    return token, secret


def revoke_token(*, owner: Any, pk: int) -> ApiToken | None:
    """End one of this person's tokens at once. None when there is none of that number."""
    token = ApiToken.objects.for_user(owner).unrevoked().filter(pk=pk).first()
    if token is None:
        return None
    if not ApiToken.objects.unrevoked().filter(pk=pk).update(revoked_at=timezone.now()):
        return None
    tell_deed("token.revoked", token, by=owner)
    return token


def find_token(secret: str) -> ApiToken | None:
    """The valid token that this is, with its owner; its use is noted. None for anything else."""
    if not secret.startswith(PREFIX) or len(secret) > 200:
        return None
    token = ApiToken.objects.valid().select_related("owner").filter(digest=_digest(secret)).first()
    if token is not None:
        now = timezone.now()
        stale = Q(last_used_at__isnull=True) | Q(last_used_at__lte=now - USE_STEP)
        ApiToken.objects.filter(stale, pk=token.pk).update(
            last_used_at=now.replace(minute=0, second=0, microsecond=0)
        )
    return token


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()

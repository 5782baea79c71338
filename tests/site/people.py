"""Shared mode for tests: a person logged in, and a script with a token."""

from typing import Any

from django.contrib.auth.models import User
from django.test import Client

from musicgen_site.services.tokens import create_token


def logged_in(user: User, **options: Any) -> Client:
    """A browser of that person."""
    client = Client(**options)
    client.force_login(user)
    return client


def script(owner: User, scope: str = "read", **token: Any) -> Client:
    """A program that sends a token of that person, and no cookie."""
    _, secret = create_token(owner=owner, name="script", scope=scope, **token)
    return Client(headers={"Authorization": f"Bearer {secret}"})

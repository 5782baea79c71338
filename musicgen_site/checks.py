"""What `manage.py` says before it does anything else. Asks no other machine."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error

from registry.media import MISSING_EXTRA


def check_media_packages(**_: Any) -> list[CheckMessage]:
    """The packages for a bucket are there where one is configured."""
    if settings.STUDIO.media_url is None or (find_spec("storages") and find_spec("boto3")):
        return []
    return [Error(MISSING_EXTRA, id="musicgen.E001")]

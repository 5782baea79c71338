"""Where a config may be posted to, and how large such a request may be. Imported before Django is ready."""

from __future__ import annotations

from typing import Final

from gated_configs.memory.validation import MAX_BYTES

SUBMISSION_URL: Final = "/api/models/config/submit"
#: The API, and the page whose form has a large field.
SUBMISSION_PATHS: Final = frozenset({SUBMISSION_URL, "/memory/config/"})
#: In the admin a config is edited under its own number.
ADMIN_PATHS: Final = "/admin/gated_configs/"
#: A config of the largest size, and what quoting it as a text adds: line breaks and quotes take two characters then.
MAX_BODY_BYTES: Final = MAX_BYTES * 3 // 2
TOO_LARGE: Final = (
    f"The request is larger than {MAX_BODY_BYTES // 2**20} MiB; a config.json of up to"
    f" {MAX_BYTES // 2**20} MiB is read."
)


def takes_configs(path: str) -> bool:
    """Whether a config may be posted to that address."""
    return path in SUBMISSION_PATHS or path.startswith(ADMIN_PATHS)

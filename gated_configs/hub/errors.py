"""What a download may end with: a code for programs, a sentence for people, a detail for debugging."""

from __future__ import annotations

from typing import Final

GATED_NO_TOKEN: Final = "GATED_NO_TOKEN"  # noqa: S105 - codes, not secrets
BAD_TOKEN: Final = "BAD_TOKEN"  # noqa: S105
GATED_NO_ACCESS: Final = "GATED_NO_ACCESS"
MODEL_NOT_FOUND: Final = "MODEL_NOT_FOUND"
REVISION_NOT_FOUND: Final = "REVISION_NOT_FOUND"
RATE_LIMITED: Final = "RATE_LIMITED"
HUB_UNREACHABLE: Final = "HUB_UNREACHABLE"
HUB_ERROR: Final = "HUB_ERROR"
NOT_A_HUB: Final = "NOT_A_HUB"
DISK_FULL: Final = "DISK_FULL"
STORAGE_ERROR: Final = "STORAGE_ERROR"
FILE_CORRUPT: Final = "FILE_CORRUPT"
INCOMPLETE: Final = "INCOMPLETE"
WRONG_ARCHITECTURE: Final = "WRONG_ARCHITECTURE"


class DownloadFailed(RuntimeError):
    """A download or a check of one failed. `str()` is the sentence for people and says what to do."""

    def __init__(self, error_code: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.error_code = error_code
        self.detail = detail


class Interrupted(DownloadFailed):
    """A failure that may pass by itself: worth another try, after a pause of at least `pause_seconds`."""

    def __init__(
        self, error_code: str, message: str, detail: str = "", *, pause_seconds: float = 0.0
    ) -> None:
        super().__init__(error_code, message, detail)
        self.pause_seconds = pause_seconds


class DownloadCancelled(Exception):
    """The caller's `should_stop` said so. What arrived is kept for the next time."""

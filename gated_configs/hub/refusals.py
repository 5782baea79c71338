"""What it means when the hub answers with anything but the thing asked for.

Decided by status and by the hub's own code in `X-Error-Code`, never by the words of a message.
"""

from __future__ import annotations

from typing import Final

from gated_configs.hub.client import Head, Hub
from gated_configs.hub.errors import (
    BAD_TOKEN,
    GATED_NO_ACCESS,
    GATED_NO_TOKEN,
    HUB_ERROR,
    MODEL_NOT_FOUND,
    NOT_A_HUB,
    RATE_LIMITED,
    REVISION_NOT_FOUND,
    DownloadFailed,
    Interrupted,
)
from gated_configs.wording import spoken_seconds

#: A longer wait than this is for people to decide.
_LONGEST_PAUSE_SECONDS: Final = 10


def check_answer(head: Head, hub: Hub, *, repo_id: str, revision: str) -> None:
    """Raise DownloadFailed, or Interrupted where another try may help, unless the answer is what was asked for."""
    status = head.status
    detail = f"HTTP {status} from {head.address}"
    if status in (200, 206):
        if head.is_html:
            raise not_a_hub(hub, f"a web page from {head.address}")
        if head.headers.get("content-encoding", "identity") != "identity":
            message = "The hub, or something on the way to it, changes what it sends. Check HF_ENDPOINT and proxies."
            raise DownloadFailed(HUB_ERROR, message, f"content-encoding from {head.address}, unasked")
        return
    if status == 429:
        raise _rate_limited(head, detail)
    if status >= 500 or status == 408:
        message = f"The hub has trouble answering ({status}). Try again later."
        raise Interrupted(HUB_ERROR, message, detail)
    if not head.is_of_hub:
        # A store that the hub sent us on to by a signed address, which expires: the next try gets a new one.
        message = f"The store that holds the files of {repo_id} refused them ({status}). Try again later."
        raise Interrupted(HUB_ERROR, message, detail)
    raise _refusal(head, hub, repo_id, revision, detail)


def not_a_hub(hub: Hub, detail: str) -> DownloadFailed:
    """The failure for an answer that no hub would give, such as a login page of a network."""
    return DownloadFailed(
        NOT_A_HUB,
        f"What answers at {hub.address} is not a model hub. Check HF_ENDPOINT, and whether this network asks"
        " for a login first.",
        detail,
    )


def _refusal(head: Head, hub: Hub, repo_id: str, revision: str, detail: str) -> DownloadFailed:
    status, code = head.status, head.headers.get("x-error-code", "")
    page = f"{hub.address}/{repo_id}"
    if status == 403 and (code == "GatedRepo" or hub.token):
        message = f"This token has no access to {repo_id} yet. Ask for access on {page}, then try again."
        return DownloadFailed(GATED_NO_ACCESS, message, detail)
    if code == "GatedRepo" and not hub.token:
        message = f"{repo_id} is gated. Ask for access on {page}, set HF_TOKEN to a token of that account, and try again."
        return DownloadFailed(GATED_NO_TOKEN, message, detail)
    if code == "RevisionNotFound":
        message = f"{repo_id} has no revision '{revision}'. Check the branch, tag or commit."
        return DownloadFailed(REVISION_NOT_FOUND, message, detail)
    if status == 401 and hub.token and code != "RepoNotFound":
        message = (
            "The hub does not accept the token in HF_TOKEN. Make a new one in the hub's settings and set it."
        )
        return DownloadFailed(BAD_TOKEN, message, detail)
    if status in (401, 404) and code != "EntryNotFound":
        # Without a token a missing repository answers 401, as a private one does.
        message = (
            f"The hub has no model {repo_id} for you to see. Check the id; a private one needs HF_TOKEN."
        )
        return DownloadFailed(MODEL_NOT_FOUND, message, detail)
    message = f"The hub refused {repo_id} ({status}). Try again later."
    return DownloadFailed(HUB_ERROR, message, detail)


def _rate_limited(head: Head, detail: str) -> DownloadFailed:
    told = head.headers.get("retry-after", "").strip()
    seconds = int(told) if told.isascii() and told.isdigit() and len(told) < 8 else None
    when = "a few minutes" if seconds is None else spoken_seconds(max(1, seconds))
    message = f"The hub takes no more requests from here for now. Try again in {when}; a token (HF_TOKEN) raises the limit."
    if seconds is None or seconds <= _LONGEST_PAUSE_SECONDS:
        return Interrupted(RATE_LIMITED, message, detail, pause_seconds=float(seconds or 0))
    return DownloadFailed(RATE_LIMITED, message, detail)

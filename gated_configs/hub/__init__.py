"""Asks a Hugging Face hub over HTTP, and tells its refusals apart. Knows nothing of Django, rows or torch."""

from gated_configs.hub.client import Answer, Head, Hub, hub_of, with_retries
from gated_configs.hub.errors import DownloadCancelled, DownloadFailed, Interrupted
from gated_configs.hub.refusals import check_answer, not_a_hub

__all__ = [
    "Answer",
    "DownloadCancelled",
    "DownloadFailed",
    "Head",
    "Hub",
    "Interrupted",
    "check_answer",
    "hub_of",
    "not_a_hub",
    "with_retries",
]

"""Brings a model's files from the Hugging Face hub into the hub library's own cache, and checks them there.

Plain functions that block: run them on a thread. Knows nothing of Django, rows or switches, nor of torch.
"""

from gated_configs.hub.errors import DownloadCancelled, DownloadFailed
from registry.downloads.cache import installed_bytes, installed_folder, remove_installed
from registry.downloads.checkpoint import verify_checkpoint
from registry.downloads.plan import DownloadPlan, FilePlan, plan_download
from registry.downloads.transfer import download

__all__ = [
    "DownloadCancelled",
    "DownloadFailed",
    "DownloadPlan",
    "FilePlan",
    "download",
    "installed_bytes",
    "installed_folder",
    "plan_download",
    "remove_installed",
    "verify_checkpoint",
]

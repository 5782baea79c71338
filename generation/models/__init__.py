"""Rows of generation: jobs and their adapters, takes, clips, trials, engine hosts, webhooks, and how the clean-up went."""

from generation.models.clean_up import CleanUp
from generation.models.clip import Clip, ClipQuerySet
from generation.models.engine_host import EngineHost
from generation.models.job import TRANSITIONS, Job, JobQuerySet, JobStatus
from generation.models.job_adapter import JobAdapter, adapter_label
from generation.models.take import Take, TakeQuerySet
from generation.models.trial import TRIAL_STRENGTHS, AdapterTrial, AdapterTrialQuerySet
from generation.models.webhook import DeliveryStatus, Webhook, WebhookDelivery, WebhookQuerySet

__all__ = [
    "TRANSITIONS",
    "TRIAL_STRENGTHS",
    "AdapterTrial",
    "AdapterTrialQuerySet",
    "CleanUp",
    "Clip",
    "ClipQuerySet",
    "DeliveryStatus",
    "EngineHost",
    "Job",
    "JobAdapter",
    "JobQuerySet",
    "JobStatus",
    "Take",
    "TakeQuerySet",
    "Webhook",
    "WebhookDelivery",
    "WebhookQuerySet",
    "adapter_label",
]

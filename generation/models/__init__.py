"""Rows of generation: jobs and their adapters, the takes they made, trials, the engine hosts, and what keeps order."""

from generation.models.clean_up import CleanUp
from generation.models.engine_host import EngineHost
from generation.models.job import TRANSITIONS, Job, JobQuerySet, JobStatus
from generation.models.job_adapter import JobAdapter, adapter_label
from generation.models.take import Take, TakeQuerySet
from generation.models.trial import TRIAL_STRENGTHS, AdapterTrial, AdapterTrialQuerySet

__all__ = [
    "TRANSITIONS",
    "TRIAL_STRENGTHS",
    "AdapterTrial",
    "AdapterTrialQuerySet",
    "CleanUp",
    "EngineHost",
    "Job",
    "JobAdapter",
    "JobQuerySet",
    "JobStatus",
    "Take",
    "TakeQuerySet",
    "adapter_label",
]

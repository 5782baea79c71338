"""Rows of generation: jobs, the takes they made, and the engine hosts that carry them out."""

from generation.models.engine_host import EngineHost
from generation.models.job import TRANSITIONS, Job, JobQuerySet, JobStatus
from generation.models.take import Take, TakeQuerySet

__all__ = ["TRANSITIONS", "EngineHost", "Job", "JobQuerySet", "JobStatus", "Take", "TakeQuerySet"]

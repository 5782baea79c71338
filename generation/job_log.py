"""The lines that tell a job's life in the log, each with the id of the job and of the request that asked for it.

No prompt is logged: what people write is theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from gated_configs.log_context import logged_with
from generation.models import Job, JobStatus

logger = logging.getLogger(__name__)


def note_submission(job: Job) -> None:
    """Say that a job waits."""
    with logged_with(job_id=job.pk):
        logger.info("job %s was queued for %s", job.pk, job.model_id)


async def logged(job: Job, work: Awaitable[None]) -> None:
    """Do the work on a claimed job; every line logged meanwhile carries its ids."""
    with logged_with(job_id=job.pk, request_id=job.request_id):
        logger.info("job %s begins, attempt %s", job.pk, job.attempts)
        await work
        facts = {
            "outcome": job.status,
            "error_code": job.error_code,
            "seconds": round(job.elapsed_seconds(), 3),
        }
        verb = {JobStatus.QUEUED: "went back to the queue", JobStatus.RUNNING: "is in other hands"}
        logger.info("job %s %s", job.pk, verb.get(JobStatus(job.status), job.status), extra={"facts": facts})

"""Django app of jobs, takes and the engine."""

from typing import Any

from django.apps import AppConfig


def _tell_webhooks(*, job: Any, **_: Any) -> None:
    from generation.services.webhooks import write_job_end

    write_job_end(job)


class GenerationConfig(AppConfig):
    """Starts nothing by itself: the engine is started by `serve`, `runworker` or `generate`."""

    name = "generation"

    def ready(self) -> None:
        """Hear of jobs that end."""
        from generation.models.job import job_ended

        job_ended.connect(_tell_webhooks, dispatch_uid="webhooks")

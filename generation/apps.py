"""Django app of jobs, takes and the engine."""

from django.apps import AppConfig


class GenerationConfig(AppConfig):
    """Starts nothing by itself: the engine is started by `serve`, `runworker` or `generate`."""

    name = "generation"

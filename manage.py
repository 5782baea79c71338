#!/usr/bin/env python
"""Command line entry. Turns a wrong setting into one sentence instead of a traceback."""

import gc
import os
import sys

# What is imported stays: nothing is gained by looking for garbage among it every 700 objects.
gc.set_threshold(50_000)


def main() -> None:
    """Run one management command; a configuration error ends with a sentence and exit code 2."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "musicgen_site.settings")
    try:
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ImportError as error:
        sys.exit(
            f"Django cannot be imported ({error}). Run `make run` once, or activate the environment in .venv."
        )
    try:
        # Django itself postpones a broken settings module and then fails with a traceback: read it first.
        _ = settings.INSTALLED_APPS
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

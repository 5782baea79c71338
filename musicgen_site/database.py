"""The state of the database at start: an empty one is filled, an old one is named."""

from django.core.management import CommandError, call_command
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

from musicgen_site.studio_settings import StudioSettings, create_home


def prepare_database(studio: StudioSettings) -> None:
    """Migrate an empty database; leave a current one alone. Raises CommandError for one that needs `migrate`."""
    create_home(studio.home)
    connection = connections[DEFAULT_DB_ALIAS]
    try:
        tables = connection.introspection.table_names()
    except DatabaseError as problem:
        raise CommandError(
            f"The database cannot be reached: {str(problem).strip()}. Check DATABASE_URL and MUSICGEN_HOME."
        ) from problem
    if not tables:
        call_command("migrate", interactive=False, verbosity=0)
        return
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise CommandError(
            "The database is from an older release. Make a copy of it, run `manage.py migrate`, and start again."
        )


def require_database() -> None:
    """Raise CommandError with what to do when the tables are not there."""
    try:
        tables = connections[DEFAULT_DB_ALIAS].introspection.table_names()
    except DatabaseError:
        tables = []
    if "registry_modelconfig" not in tables:
        raise CommandError("There is no database yet. Run `manage.py migrate`, or start the studio once.")

"""Creates the home folder at the first connection, so that importing the settings writes nothing."""

from pathlib import Path
from typing import Any

from django.db.backends.sqlite3 import base

from musicgen_site.studio_settings import create_home


class DatabaseWrapper(base.DatabaseWrapper):
    """SQLite, with the folder of its file created on demand."""

    def get_new_connection(self, conn_params: Any) -> Any:
        """Open the file; raises ImproperlyConfigured when its folder cannot be created."""
        name = str(conn_params["database"])
        if name != ":memory:" and not name.startswith("file:"):
            create_home(Path(name).parent)
        return super().get_new_connection(conn_params)

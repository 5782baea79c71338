"""Seed the table from the catalogue. Later changes of the catalogue arrive after each `migrate`."""

from typing import Any

from django.db import migrations


def seed(apps: Any, schema_editor: Any) -> None:
    from registry.services import sync_catalog

    sync_catalog(using=schema_editor.connection.alias, table=apps.get_model("registry", "ModelConfig"))


class Migration(migrations.Migration):
    dependencies = [("registry", "0001_initial")]

    operations = [migrations.RunPython(seed, migrations.RunPython.noop, elidable=True)]

"""How long takes may get that are made in windows, and that for the models that the catalogue knows."""

from typing import Any

import django.core.validators
from django.db import migrations, models

FIELD = "max_extended_seconds"


def fill(apps: Any, schema_editor: Any) -> None:
    """Allow longer takes, but not where a curator chose how long they may be."""
    from registry.catalog import MODEL_CONFIGS

    rows = apps.get_model("registry", "ModelConfig")._default_manager.using(schema_editor.connection.alias)
    for entry in MODEL_CONFIGS.values():
        row = rows.filter(pk=entry["id"]).first()
        if row is None or row.catalog_values.get("max_duration_seconds") != row.max_duration_seconds:
            continue
        row.max_extended_seconds = entry[FIELD]
        # Else the catalogue would take it for an admin's edit, and a later release could not correct it.
        row.catalog_values = {**row.catalog_values, FIELD: entry[FIELD]}
        row.save(update_fields=[FIELD, "catalog_values"])


class Migration(migrations.Migration):
    dependencies = [("registry", "0005_described")]

    operations = [
        migrations.AddField(
            model_name="modelconfig",
            name=FIELD,
            field=models.FloatField(
                blank=True,
                help_text="Takes above the longest duration are made in overlapping windows of that length, up to this. "
                "Empty or 0: there are none.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(3600),
                ],
                verbose_name="longest duration in windows (s)",
            ),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=True),
    ]

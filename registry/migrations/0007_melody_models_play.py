"""Melody models play. The catalogue's rows learn it as they learn all else; those added from a config do here."""

from typing import Any

from django.db import migrations

#: What the releases before gave as the reason. Where an admin gave another, the model stays locked.
REASON = "Melody models need a reference clip and another decoder, which this release does not play yet."
EXTENDED, LONGEST = "max_extended_seconds", "max_duration_seconds"


def unlock(apps: Any, schema_editor: Any) -> None:
    """Let those be played that were locked for that reason alone, and keep a curator's limit the longest take."""
    rows = apps.get_model("registry", "ModelConfig")._default_manager.using(schema_editor.connection.alias)
    rows.filter(is_playable=False, unplayable_reason=REASON, catalog_values={}).update(
        is_playable=True, unplayable_reason=""
    )
    for row in rows.filter(family="musicgen_melody").exclude(catalog_values={}):
        if row.catalog_values.get(LONGEST) != getattr(row, LONGEST):
            # What differs from the catalogue is an admin's: no longer takes come with the next change of it.
            row.catalog_values = {**row.catalog_values, EXTENDED: 120}
            row.save(update_fields=["catalog_values"])


class Migration(migrations.Migration):
    dependencies = [("registry", "0006_extended_durations")]

    operations = [migrations.RunPython(unlock, migrations.RunPython.noop, elidable=True)]

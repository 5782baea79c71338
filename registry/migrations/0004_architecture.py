"""How each model is built, and those facts for the models that the catalogue knows."""

from typing import Any

from django.db import migrations, models

FIELDS = ("family", "hidden_size", "layers", "ffn_dim", "heads", "text_width")


def fill(apps: Any, schema_editor: Any) -> None:
    """Tell the new facts of published checkpoints, whatever id an admin lists one under."""
    from registry.catalog import MODEL_CONFIGS

    rows = apps.get_model("registry", "ModelConfig")._default_manager.using(schema_editor.connection.alias)
    for row in rows.filter(hf_model_id__in=list(MODEL_CONFIGS)):
        entry = MODEL_CONFIGS[row.hf_model_id]
        facts = {name: entry[name] for name in FIELDS if name in entry}
        for name, value in facts.items():
            setattr(row, name, value)
        if row.catalog_values:
            # Else the catalogue would take them for an admin's edits, and a later release could not correct them.
            row.catalog_values = {**row.catalog_values, **facts}
        row.save(update_fields=[*facts, "catalog_values"])


class Migration(migrations.Migration):
    dependencies = [("registry", "0003_switches")]

    operations = [
        migrations.AddField(
            model_name="modelconfig",
            name="family",
            field=models.CharField(blank=True, editable=False, max_length=40, null=True),
        ),
        migrations.AddField(
            model_name="modelconfig",
            name="ffn_dim",
            field=models.PositiveIntegerField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="modelconfig",
            name="heads",
            field=models.PositiveIntegerField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="modelconfig",
            name="hidden_size",
            field=models.PositiveIntegerField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="modelconfig",
            name="layers",
            field=models.PositiveIntegerField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="modelconfig",
            name="text_width",
            field=models.PositiveIntegerField(blank=True, editable=False, null=True),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=True),
    ]

"""What the memory calculator knows of each model, and that for the models that the catalogue knows."""

from typing import Any

from django.db import migrations, models


def fill(apps: Any, schema_editor: Any) -> None:
    """Tell it of published checkpoints, whatever id an admin lists one under."""
    from registry.described import seed_descriptions

    seed_descriptions(using=schema_editor.connection.alias, table=apps.get_model("registry", "ModelConfig"))


class Migration(migrations.Migration):
    dependencies = [("registry", "0004_architecture")]

    operations = [
        migrations.AddField(
            model_name="modelconfig",
            name="architecture",
            field=models.JSONField(blank=True, editable=False, null=True),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=True),
    ]

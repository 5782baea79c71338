from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("generation", "0008_host_process"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="live",
            field=models.JSONField(blank=True, editable=False, null=True),
        ),
    ]

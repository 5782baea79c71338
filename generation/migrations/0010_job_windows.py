from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("generation", "0009_job_live"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="stride_seconds",
            field=models.FloatField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="window_seconds",
            field=models.FloatField(blank=True, null=True),
        ),
    ]

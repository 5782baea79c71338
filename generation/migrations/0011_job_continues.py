from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("generation", "0010_job_windows"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="continued_from_seconds",
            field=models.FloatField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="continued_sha256",
            field=models.CharField(blank=True, db_default="", default="", editable=False, max_length=64),
        ),
        migrations.AddField(
            model_name="job",
            name="continued_take",
            field=models.PositiveBigIntegerField(blank=True, null=True),
        ),
    ]

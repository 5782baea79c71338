"""Dwarf models as rows, jobs of a tenth of a second, and waiting for switches to end."""

from pathlib import Path
from typing import Any

from django.contrib.auth.models import User

from generation.models import Job, JobStatus
from generation.services.submission import GenerationRequest, submit_job
from registry.models import ModelConfig, ModelSwitch, SwitchStage
from registry.services import activate_model, request_switch
from tests.conftest import wait_until

#: Long enough for a machine with other work to start a runner and load a dwarf.
PATIENCE = 240.0


def dwarf(name: str, folder: Path | str, **fields: Any) -> ModelConfig:
    """A model row that plays the checkpoint in a folder."""
    values: dict[str, Any] = {
        "display_name": name.title(),
        "hf_model_id": f"studio/{name}",
        "local_path": str(folder),
        "max_duration_seconds": 30,
        "recommended_duration_seconds": 1,
        "vram_requirement_gb": 0.1,
        "sample_rate": 800,
        **fields,
    }
    return ModelConfig.objects.create(pk=name, **values)


def active_id() -> str:
    """The one active model."""
    (active,) = ModelConfig.objects.filter(is_active=True)
    return active.pk


def submit(owner: User, *, seconds: float = 0.1, **fields: Any) -> Job:
    """Queue a short job."""
    request = GenerationRequest(prompt="slow piano", duration_seconds=seconds, seed=7, **fields)
    return submit_job(owner=owner, request=request)


def until_finished(job: Job) -> Job:
    """Wait until the job has made its take with the model that it names."""

    def over() -> bool:
        job.refresh_from_db()
        return not job.is_unfinished

    wait_until(over, seconds=PATIENCE, what=f"the end of job {job.pk}")
    assert job.status == JobStatus.FINISHED, (job.status, job.error_message, job.error_detail)
    assert {take.model_id for take in job.takes.all()} == {job.model_id}
    return job


def until_stage(switch: ModelSwitch, *stages: str) -> ModelSwitch:
    """Wait until the switch is in one of these stages, or has ended otherwise, which is a failure."""

    def there() -> bool:
        switch.refresh_from_db()
        return switch.stage in stages or not switch.is_open

    wait_until(there, seconds=PATIENCE, what=f"a switch becoming {' or '.join(stages)}")
    assert switch.stage in stages, (switch.stage, switch.message, switch.error_detail)
    return switch


def switch_to(model: ModelConfig, **options: Any) -> ModelSwitch:
    """Ask for that model."""
    answer = request_switch(model, **options)
    assert answer.switch is not None, answer.sentence
    return answer.switch


def begin_with(model: ModelConfig) -> None:
    """Make it the active model before anybody looks, as though it had been switched to earlier."""
    activate_model(model.pk)


def assert_stays(switch: ModelSwitch, previous: ModelConfig, owner: User, *, code: str) -> None:
    """The switch has failed with that code, its row says what stays, and what stays can generate."""
    until_stage(switch, SwitchStage.FAILED)
    assert switch.error_code == code, (switch.error_code, switch.message, switch.error_detail)
    assert switch.message.endswith(f"{previous.display_name} stays active."), switch.message
    assert not switch.is_open
    assert active_id() == previous.pk
    assert until_finished(submit(owner)).model_id == previous.pk

"""The documentation names every setting, command and route, and says of each what the code says."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from musicgen_site.studio_settings import BASE_DIR, StudioSettings, environment_name
from tests.conftest import ROOT
from tests.site.test_imports import APPS

README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
#: Read by the libraries themselves, so they are not fields of ours.
LIBRARY_VARIABLES = {"HF_ENDPOINT", "HF_TOKEN", "HF_HOME"}
OUR_COMMANDS = sorted(
    path.stem
    for app in APPS
    for path in (ROOT / app / "management" / "commands").glob("*.py")
    if not path.stem.startswith("_")
)


def settings_table() -> dict[str, tuple[str, str]]:
    """Default and meaning by variable, from the README."""
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.*?) \|$", README, flags=re.MULTILINE)
    return {name: (default, meaning) for name, default, meaning in rows}


def default_of(field_name: str) -> str:
    """A default as the README writes it."""
    value = StudioSettings.model_fields[field_name].get_default(call_default_factory=True)
    if isinstance(value, Path):
        return f"`{value.relative_to(BASE_DIR)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value else "—"


@pytest.mark.parametrize("field", sorted(StudioSettings.model_fields))
def test_the_readme_describes_every_setting(field: str) -> None:
    description = StudioSettings.model_fields[field].description
    assert description
    assert settings_table().get(environment_name(field)) == (default_of(field), description)


def test_the_readme_describes_no_setting_that_is_not_there() -> None:
    known = {environment_name(field) for field in StudioSettings.model_fields}
    assert set(settings_table()) == known | LIBRARY_VARIABLES


def test_there_are_commands() -> None:
    assert {"serve", "generate", "list_models"} <= set(OUR_COMMANDS)


@pytest.mark.parametrize("command", [*OUR_COMMANDS, "runworker generation"])
def test_the_readme_names_every_command(command: str) -> None:
    assert re.search(rf"^\| `manage\.py {command}\b", README, flags=re.MULTILINE)


def test_the_readme_names_no_command_that_is_not_there() -> None:
    named = set(re.findall(r"manage\.py ([a-z_]+)", README))
    of_django = {"runworker", "createsuperuser", "changepassword", "check", "migrate"}
    assert named <= set(OUR_COMMANDS) | of_django


def routes() -> list[str]:
    """Every `METHOD /path` of the API."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    from generation.api import api

    paths = api.get_openapi_schema()["paths"]
    return sorted(f"{method.upper()} {path}" for path, methods in paths.items() for method in methods)


def test_the_api_document_names_every_route_and_no_other() -> None:
    documented = re.findall(r"^#+ `((?:GET|HEAD|POST|PUT|PATCH|DELETE) /api/[^`]*)`", API, flags=re.MULTILINE)
    assert sorted(documented) == routes()


@pytest.mark.parametrize(
    "document", ["README.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_and_pictures_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    folder = (ROOT / document).parent
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith(("http://", "https://")):
            assert (folder / target).exists(), target


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_api_document_names_every_error_code() -> None:
    names = ["generation/api.py", "generation/proof_run.py", "generation/services/submission.py"]
    names += [
        "generation/services/job_adapters.py",
        "generation/services/parameters.py",
        "generation/services/adapters.py",
    ]
    names += ["adapters/services/proofs.py"]
    names += ["generation/services/continuing.py", "generation/services/clips.py", "generation/clip_api.py"]
    names += ["musicgen_site/access.py", "musicgen_site/security.py"]
    names += [
        "musicgen_site/token_access.py",
        "musicgen_site/request_limits.py",
        "generation/services/quotas.py",
        "generation/services/storage.py",
        "generation/services/webhooks.py",
    ]
    names += ["adapters/api.py", "adapters/services/editing.py", "musicgen_site/request_bounds.py"]
    names += [
        "adapters/format/inspection.py",
        "adapters/format/recognise.py",
        "adapters/format/safetensors_header.py",
    ]
    names += [f"adapters/importing/{path.name}" for path in (ROOT / "adapters" / "importing").glob("*.py")]
    names += ["gated_configs/hub/refusals.py"]
    sources = [(ROOT / name).read_text(encoding="utf-8") for name in names]
    codes = {code for source in sources for code in re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', source)}
    decoding = (ROOT / "generation" / "clips" / "decoding.py").read_text(encoding="utf-8")
    codes |= set(re.findall(r'"(CLIP_[A-Z_]+)"', decoding))
    assert "DURATION_TOO_LONG" in codes
    assert sorted(code for code in codes if f"`{code}`" not in API) == []


def test_the_release_has_one_version() -> None:
    from generation.version import VERSION

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION

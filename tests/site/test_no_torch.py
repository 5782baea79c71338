"""The web process and the quick commands never import torch: they start at once and stay small."""

import re
import subprocess
import sys
import urllib.request

import pytest

from tests.conftest import ROOT, running_studio

HEAVY = {"torch", "transformers", "peft", "tokenizers", "safetensors"}
#: For a bucket alone, which these studios do not have.
FOR_BUCKETS = {"boto3", "botocore", "storages"}


def imported_by(arguments: list[str], environment: dict[str, str]) -> set[str]:
    """Top-level names of every module that a Python process imported, from `-X importtime`."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return modules_in(ended.stderr)


def modules_in(report: str) -> set[str]:
    """Top-level names in what `-X importtime` wrote."""
    names = re.findall(r"^import time:.*\|\s*([\w.]+)$", report, flags=re.MULTILINE)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    "arguments",
    [
        ["manage.py", "check"],
        ["manage.py", "generate", "--help"],
        ["manage.py", "runworker", "--help"],
    ],
    ids=" ".join,
)
def test_a_command_does_not_import_torch(arguments: list[str], studio_environment: dict[str, str]) -> None:
    modules = imported_by(arguments, studio_environment)
    assert "django" in modules
    assert modules & (HEAVY | FOR_BUCKETS) == set()


def test_list_models_does_not_import_torch(prepared_environment: dict[str, str]) -> None:
    modules = imported_by(["manage.py", "list_models"], prepared_environment)
    assert "registry" in modules
    assert modules & (HEAVY | FOR_BUCKETS) == set()


@pytest.mark.parametrize("module", ["musicgen_site.asgi", "generation.engine", "generation.engine.protocol"])
def test_a_module_of_the_web_process_does_not_import_torch(
    module: str, studio_environment: dict[str, str]
) -> None:
    modules = imported_by(["-c", f"import {module}"], studio_environment)
    assert module.split(".")[0] in modules
    assert modules & (HEAVY | FOR_BUCKETS) == set()


def test_the_process_that_serves_does_not_import_torch(prepared_environment: dict[str, str]) -> None:
    with running_studio(prepared_environment, python_options=["-X", "importtime"]) as studio:
        for path in (
            "",
            "library/",
            "settings/",
            "settings/inside/",
            "api/models",
            "admin/",
            "readyz",
            "metrics",
        ):
            with urllib.request.urlopen(studio.url + path, timeout=30) as answer:
                assert answer.status == 200
    modules = modules_in("".join(studio.log))
    assert "daphne" in modules
    assert modules & (HEAVY | FOR_BUCKETS) == set()


def test_the_probe_would_see_what_is_heavy(studio_environment: dict[str, str]) -> None:
    # The quickest of them.
    assert imported_by(["-c", "import safetensors"], studio_environment) & HEAVY == {"safetensors"}

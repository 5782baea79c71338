"""The lock files: complete, within the ranges of pyproject.toml, and good for every platform."""

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT
from tests.site.test_imports import APPS, imported_names, modules_of

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> dict[str, str]:
    """Versions by canonical package name."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(package): version for package, version in pairs}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_line_is_a_name_and_a_version(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line), line
        assert not re.match(r"(nvidia-|triton|cuda-)", line), f"{line} is only for CUDA machines"


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_every_dependency_is_locked_within_its_range(requirement: str) -> None:
    wanted = Requirement(requirement)
    version = locked("requirements.lock").get(canonicalize_name(wanted.name))
    assert version, f"{wanted.name} is missing: run `make lock`"
    assert wanted.specifier.contains(Version(version)), f"{requirement} but {version}: run `make lock`"


@pytest.mark.parametrize(
    "requirement", [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
)
def test_every_extra_is_locked_for_development(requirement: str) -> None:
    wanted = Requirement(requirement)
    version = locked("requirements-dev.lock").get(canonicalize_name(wanted.name))
    assert version, f"{wanted.name} is missing: run `make lock`"
    assert wanted.specifier.contains(Version(version)), f"{requirement} but {version}: run `make lock`"


def undeclared_imports(paths: list[Path], requirements: list[str]) -> list[str]:
    """Imports of installed packages that no requirement names: they would go with whatever brought them."""
    declared = {canonicalize_name(Requirement(line).name) for line in requirements}
    distributions = packages_distributions()
    undeclared = set()
    for path in paths:
        for name in {imported.split(".")[0] for imported in imported_names(path)}:
            owners = {canonicalize_name(owner) for owner in distributions.get(name, [])}
            if owners and not owners & declared:
                undeclared.add(f"{name}, in {path.relative_to(ROOT)}")
    return sorted(undeclared)


def test_every_import_of_the_product_is_a_declared_dependency() -> None:
    paths = {path for app in APPS for path in modules_of(app)}
    with_s3 = {ROOT / "registry" / "media" / "bucket.py"}  # imported where a bucket is configured
    assert undeclared_imports(sorted(paths - with_s3), PROJECT["dependencies"]) == []
    extra = PROJECT["optional-dependencies"]["s3"]
    assert undeclared_imports(sorted(with_s3), [*PROJECT["dependencies"], *extra]) == []


def test_every_import_of_the_tests_is_a_declared_dependency() -> None:
    extras = [
        line for extra in ("postgres", "s3", "test") for line in PROJECT["optional-dependencies"][extra]
    ]
    paths = sorted((ROOT / "tests").rglob("*.py"))
    assert undeclared_imports(paths, [*PROJECT["dependencies"], *extras]) == []


def test_tests_run_on_the_versions_that_people_run() -> None:
    run, development = locked("requirements.lock"), locked("requirements-dev.lock")
    assert run.items() <= development.items()

"""Writes the two lock files: what a clean environment gets from the ranges in pyproject.toml.

Names and versions only, so that every platform takes its own build. Run by `make lock`.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Packages that only the CUDA build of torch brings; naming them would break every other platform.
CUDA_ONLY = re.compile(r"^(cuda-|triton|nvidia-)")


def freeze(requirements: list[str], constraints: list[str]) -> list[str]:
    """Install `requirements` into a new environment and return `name==version` lines, sorted by name."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        constraint_file = Path(folder) / "constraints.txt"
        constraint_file.write_text("\n".join(constraints), encoding="utf-8")
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "-c", str(constraint_file), *requirements], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    lines = [re.sub(r"\+[\w.]+$", "", line) for line in frozen.splitlines() if "==" in line]
    return sorted((line for line in lines if not CUDA_ONLY.match(line.lower())), key=str.lower)


def write(name: str, purpose: str, lines: list[str]) -> None:
    """Write one lock file with a heading."""
    heading = f"# {purpose} Written by `make lock` from pyproject.toml.\n"
    (ROOT / name).write_text(heading + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Lock everything first, then the smaller set at the same versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    run = project["dependencies"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    development = freeze([*run, *extras], [])
    write("requirements-dev.lock", "To develop and test the studio.", development)
    write("requirements.lock", "To run the studio.", freeze(run, development))


if __name__ == "__main__":
    sys.exit(main())

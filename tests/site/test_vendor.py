"""Static files and templates: VENDOR.toml tells the truth, and no page breaks the content policy."""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENDOR = ROOT / "static" / "vendor"
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
SCRIPTS = sorted((ROOT / "static" / "js").glob("*.js"))


def _libraries() -> list[dict[str, Any]]:
    listed = tomllib.loads((VENDOR / "VENDOR.toml").read_text(encoding="utf-8"))
    libraries: list[dict[str, Any]] = listed["library"]
    return libraries


def _listed_files() -> dict[str, str]:
    return {entry["name"]: entry["sha256"] for library in _libraries() for entry in library["file"]}


def test_every_vendored_file_is_listed_and_nothing_else_is() -> None:
    present = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()}
    assert present - {"VENDOR.toml"} == set(_listed_files())


@pytest.mark.parametrize(("name", "sha256"), sorted(_listed_files().items()))
def test_vendored_file_has_the_listed_hash(name: str, sha256: str) -> None:
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize("library", _libraries(), ids=lambda library: library["name"])
def test_vendored_library_says_where_it_is_from(library: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d+(\.\d+)+", library["version"])
    assert library["licence"]
    assert library["source"].startswith("npm: ")
    assert "://" not in library["source"]


def test_templates_load_only_files_that_exist() -> None:
    named = {
        (template.name, name)
        for template in TEMPLATES
        for name in re.findall(r"{% static '([^']+)' %}", template.read_text(encoding="utf-8"))
    }
    assert named
    assert [pair for pair in sorted(named) if not (ROOT / "static" / pair[1]).is_file()] == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_template_holds_nothing_that_the_content_policy_forbids(template: Path) -> None:
    source = template.read_text(encoding="utf-8")
    assert not re.search(r"\sstyle=", source), "style attributes are forbidden"
    assert not re.search(r"<style[\s>]", source), "inline styles are forbidden"
    assert not re.search(r"\son[a-z]+=|\shx-on", source), "inline handlers are forbidden"
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", source), "nothing comes from another host"
    for attributes, body in re.findall(r"<script([^>]*)>(.*?)</script>", source, flags=re.DOTALL):
        assert "src=" in attributes, "inline scripts are forbidden"
        assert not body.strip(), "a script with a source has no body"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_template_uses_only_icons_of_the_sprite(template: Path) -> None:
    icons = (ROOT / "templates" / "_icons.html").read_text(encoding="utf-8")
    sprite = set(re.findall(r'id="(i-[a-z]+)"', icons))
    used = set(re.findall(r'href="#(i-[a-z]+)"', template.read_text(encoding="utf-8")))
    assert used <= sprite


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_imports_only_modules_that_exist(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    assert not re.search(r"\beval\(|new Function\(", source)
    for name in re.findall(r'^import .*?"\./([^"]+)";$', source, flags=re.MULTILINE):
        assert (script.parent / name).is_file(), name

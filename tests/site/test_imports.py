"""The direction of imports, between apps and inside them, read from the source."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

#: Each app may import those before it.
APPS = ["gated_configs", "registry", "adapters", "generation", "musicgen_site"]
#: Inside an app, the first part of a module's name and its layer; a layer may import lower ones and its own.
LAYERS = {
    "models": 0,
    "migrations": 1,
    "services": 1,
    "api": 2,
    "admin": 2,
    "consumers": 2,
    "forms": 2,
    "management": 2,
    "views": 2,
    "urls": 3,
}
#: Packages that know nothing of Django, nor of the app around them; and what they may import of it all the same.
INDEPENDENT = {
    "generation/engine": ("adapters.format.", "registry.number_formats."),
    "generation/training": ("generation.engine.delay.",),
    "gated_configs/hub": ("gated_configs.wording.",),
    "gated_configs/memory": (),
    "adapters/format": (),
}
#: Modules of the memory calculator that build a model; they run in its child process alone.
IN_THE_CHILD = (
    "blueprint",
    "description",
    "equal_layers",
    "lean_imports",
    "parts",
    "recurrent",
    "shapes",
    "states",
    "stored",
)
#: What may import torch.
WITH_TORCH = (
    "generation/engine/",
    "generation/training/",
    "musicgen_site/benchmarks/engine.py",  # in its functions
    *(f"gated_configs/memory/{name}.py" for name in IN_THE_CHILD),
)


def modules_of(app: str) -> list[Path]:
    return sorted((ROOT / app).rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    """Dotted names of everything a module imports, anywhere in it; relative imports made absolute."""
    package = list(path.relative_to(ROOT).parent.parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("app", APPS)
def test_an_app_imports_only_apps_before_it(app: str) -> None:
    later = set(APPS[APPS.index(app) + 1 :])
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_of(app)
        for name in imported_names(path)
        if name.split(".")[0] in later | {"tests"}
    ]
    assert wrong == []


@pytest.mark.parametrize("app", APPS)
def test_layers_inside_an_app_import_downwards(app: str) -> None:
    wrong = []
    for path in modules_of(app):
        own = LAYERS.get(Path(path.relative_to(ROOT / app).parts[0]).stem)
        if own is None:
            continue
        for name in imported_names(path):
            parts = name.split(".")
            layer = LAYERS.get(parts[1]) if parts[0] == app and len(parts) > 1 else None
            if layer is not None and layer > own:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("package", INDEPENDENT)
def test_packages_that_stand_alone_know_neither_django_nor_the_apps(package: str) -> None:
    allowed = (package.replace("/", ".") + ".", *INDEPENDENT[package])
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in imported_names(path)
        if name.split(".")[0] in {"django", "channels", "ninja", "pydantic_settings"}
        or (name.split(".")[0] in APPS and not f"{name}.".startswith(allowed))
    ]
    assert wrong == []


def test_the_web_side_never_names_torch() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for app in APPS
        for path in modules_of(app)
        if not path.relative_to(ROOT).as_posix().startswith(WITH_TORCH)
        for name in imported_names(path)
        if name.split(".")[0] in {"torch", "transformers", "peft"}
    ]
    assert wrong == []


def loads_without_protection(source: str) -> list[int]:
    """Lines of `torch.load` that would carry out what a file says."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(
            word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords
        )
    ]


def test_no_file_of_weights_is_carried_out() -> None:
    paths = [path for app in APPS for path in sorted((ROOT / app).rglob("*.py"))]
    wrong = {str(path): loads_without_protection(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: lines for path, lines in wrong.items() if lines} == {}
    assert loads_without_protection("import torch\ntorch.load('a', weights_only=False)\n") == [2]
    assert loads_without_protection("torch.load('a', weights_only=True)") == []


def test_the_walk_sees_imports() -> None:
    names = imported_names(ROOT / "musicgen_site" / "access.py")
    assert "musicgen_site.security.SameOriginSockets" in names
    assert "django.conf.settings" in names

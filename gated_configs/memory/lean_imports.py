"""Importing torch and transformers in the child, as little of them as building on the meta device needs.

Distribution, compilation, quantisation kernels and web clients stay out: a placeholder stands for each. A build
that fails after touching one is told to try again with everything (`was_touched`).
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

#: Packages that nothing on the meta device calls. Importing them takes longer than everything else together.
_LEFT_OUT: Final = (
    "accelerate",
    "httpx",
    "httpx2",
    "jinja2",
    "torch.distributed._composable",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "transformers.generation.continuous_batching",
    "transformers.integrations.deepgemm",
    "transformers.integrations.sonicmoe",
    "transformers.processing_utils",
    "transformers.quantizers.auto",
)
#: Torch's compiler, which the library imports only to keep functions out of it. Later it is there if needed.
_WHILE_STARTING: Final = ["torch._dynamo"]
_touched = [False]


class _Placeholder:
    """Stands for a class or function of a package that was left out: nothing is one, and as a base it vanishes."""

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return ()

    def __instancecheck__(self, instance: Any) -> bool:
        return False

    def __subclasscheck__(self, subclass: type) -> bool:
        return False

    def __or__(self, other: Any) -> Any:
        return Any

    def __ror__(self, other: Any) -> Any:
        return Any

    def __getitem__(self, item: Any) -> Any:
        return Any

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _touched[0] = True
        return self

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        _touched[0] = True
        # A decorator hands back what it decorates.
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) and not options else self


class _Left(ModuleType):
    """A package that was left out."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages that are left out, before anyone finds the real ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if any(
            fullname == name or fullname.startswith(f"{name}.") for name in (*_LEFT_OUT, *_WHILE_STARTING)
        ):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Left(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None


def import_libraries(*, is_lean: bool) -> None:
    """Import what every build needs; with everything else or, when lean, without."""
    import torch

    torch.set_num_threads(1)
    if is_lean:
        _leave_out(torch)
    for name in ("modeling_utils", "initialization", "generation.utils", "models.auto.modeling_auto"):
        importlib.import_module(f"transformers.{name}")
    importlib.import_module("gated_configs.memory.description")
    if is_lean:
        # From here on whoever asks for the compiler gets the real one.
        _WHILE_STARTING.clear()
        for name in [name for name in sys.modules if name.startswith("torch._dynamo")]:
            del sys.modules[name]
        del torch._dynamo
    _touched[0] = False


def was_touched() -> bool:
    """Whether anything has used a placeholder since the last question."""
    touched, _touched[0] = _touched[0], False
    return touched


def import_family(config: dict[str, Any]) -> None:
    """Import the modules that one config's family needs, so that a build's time is its own."""
    from gated_configs.memory.blueprint import import_modules
    from gated_configs.memory.remote import REMOTE_FAMILIES

    import_modules(config)
    modeling_auto = sys.modules["transformers.models.auto.modeling_auto"]
    family = config.get("model_type")
    if family not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family not in REMOTE_FAMILIES:
        import_symbolic_shapes()


def import_symbolic_shapes() -> None:
    """Import what torch imports by itself at the first view of a tensor without storage; it takes a second."""
    importlib.import_module("torch.fx.experimental.symbolic_shapes")


def _leave_out(torch: Any) -> None:
    sys.meta_path.insert(0, _Finder())

    def keep(function: Any = None, recursive: bool = True, *, reason: Any = None) -> Any:
        return function if function is not None else (lambda inner: inner)

    # The real one imports the compiler in order to keep functions out of it.
    torch.compiler.disable = torch.compiler.allow_in_graph = keep
    torch._dynamo = _Placeholder()
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return
    # The package's own first act is to read every model's source to list its names; import by module instead.
    folder = Path(spec.origin).parent
    for name, path in (("transformers", folder), ("transformers.models", folder / "models")):
        package = _ByModule(name)
        package.__path__ = [str(path)]
        package.__spec__ = importlib.machinery.ModuleSpec(
            name, None, origin=str(path / "__init__.py"), is_package=True
        )
        package.__file__ = str(path / "__init__.py")
        sys.modules[name] = package
    library: Any = sys.modules["transformers"]
    library.__version__ = importlib.metadata.version("transformers")
    library.models = sys.modules["transformers.models"]


class _ByModule(ModuleType):
    """A package whose submodules are imported when they are first asked for, and which lists nothing else."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return importlib.import_module(f"{self.__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{self.__name__}.{name}":
                raise
        for home in _HOMES:
            module = importlib.import_module(f"transformers.{home}")
            if name in vars(module):
                return vars(module)[name]
        _touched[0] = True
        raise AttributeError(name)


#: Where the few names stand that the library imports from its own top level.
_HOMES: Final = (
    "configuration_utils",
    "modeling_utils",
    "models.auto.configuration_auto",
    "models.auto.modeling_auto",
    "cache_utils",
)

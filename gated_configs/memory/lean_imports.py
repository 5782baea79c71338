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
#: Torch's compiler, which the library imports only to keep functions out of it.
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
        _WHILE_STARTING.clear()
        for name in [name for name in sys.modules if name.startswith("torch._dynamo")]:
            del sys.modules[name]
        torch._dynamo = _stand_in("torch._dynamo", disable=_kept)
        _stand_in("sympy", Basic=_Nothing)
        _stand_in(
            "torch.fx.experimental.symbolic_shapes",
            GuardOnDataDependentSymNode=RuntimeError,
            guard_or_false=bool,
            guard_or_true=bool,
            guard_size_oblivious=bool,
            guarding_hint_or_throw=lambda value: value,
            has_guarding_hint=lambda value: True,
            expect_true=bool,
            statically_known_true=bool,
            is_nested_int=lambda value: False,
            sym_and=lambda *values: all(values),
            sym_eq=lambda one, other: one == other,
            sym_or=lambda *values: any(values),
        )
    _touched[0] = False


def was_touched() -> bool:
    """Whether anything has used a placeholder since the last question."""
    touched, _touched[0] = _touched[0], False
    return touched


class _Nothing:
    """A class that nothing is an instance of."""


class _StandIn(ModuleType):
    """The few names of a large module that shapes of plain numbers need; whoever asks for more gets all of them whole."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for other in [key for key, module in sys.modules.items() if isinstance(module, _StandIn)]:
            del sys.modules[other]
        return getattr(importlib.import_module(self.__name__), name)


def _stand_in(name: str, **given: Any) -> ModuleType:
    module = _StandIn(name)
    vars(module).update(given)
    sys.modules[name] = module
    return module


def _kept(function: Any = None, recursive: bool = True, **_: Any) -> Any:
    """A decorator of the compiler's that leaves what it is given as it is."""
    return function if function is not None else (lambda inner: inner)


def _leave_out(torch: Any) -> None:
    sys.meta_path.insert(0, _Finder())

    # The real one imports the compiler in order to keep functions out of it.
    torch.compiler.disable = torch.compiler.allow_in_graph = _kept
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

"""Imports torch and transformers for a runner, without what no take uses; everything takes twice as long.

That is torch's compiler with its algebra, its distribution, accelerate, and transformers' search through all its models.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any, Final

logger = logging.getLogger(__name__)

#: What the engine and a checkpoint's load import.
_MODULES: Final = (
    "torch._prims.rng_prims",  # without it there is no torch.Generator
    "transformers.dependency_versions_check",
    "transformers.models.musicgen.modeling_musicgen",
    "transformers.models.encodec.modeling_encodec",
    "transformers.models.t5.modeling_t5",
    "transformers.models.auto.tokenization_auto",
)

_FOR_THE_COMPILER: Final = "torch._meta_registrations"


def bound_waiting() -> None:
    """Let threads that wait for each other look around for some microseconds before they sleep. To be called before torch is
    imported, which reads it then; who set OMP_WAIT_POLICY knows better.

    They wait more than two hundred times in a step. Where each sleeps at once, a step takes half as long again; and where they
    look around for long, as is the default, they stall each other as soon as another program wants the processor
    (docs/decisions/0017).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def import_libraries() -> None:
    """Import both, for the whole life of the process: for a runner, which works alone and compiles nothing.

    Where versions come that this does not fit, the engine's modules import them whole.
    """
    # All that is imported stays. To look for garbage among it would take a fifth of the time.
    gc.disable()
    try:
        _import_less()
    except Exception:
        logger.warning("Importing everything, since importing less did not work.", exc_info=True)
        for name in [
            name for name in sys.modules if name.partition(".")[0] in {"transformers", "accelerate"}
        ]:
            del sys.modules[name]
        _open_for_the_compiler()
    finally:
        gc.freeze()
        gc.enable()


def _import_less() -> None:
    found = PathFinder.find_spec("torch")
    assert found is not None
    # What operators written in Python do with tensors that have no content: for the compiler, and it brings sympy. Those
    # that a model is made of when it is loaded are written in C++.
    _Unopened.of(_FOR_THE_COMPILER, found.submodule_search_locations)
    torch: Any = importlib.import_module("torch")
    # As in a torch that was built without it, which transformers and peft know how to do with.
    torch.distributed.is_available = lambda: False
    torch._dynamo = _Unopened.of("torch._dynamo", torch.__path__)
    library = _Unopened.of("transformers", None)
    library.__version__ = importlib.metadata.version("transformers")
    library.models = _Unopened.of("transformers.models", library.__path__)
    # It would open the library in order to hand it out.
    utilities: Any = importlib.import_module("transformers.utils")
    utilities.direct_transformers_import = lambda *_: library
    # Spreads a model over several devices, which none here needs, and imports what speaks to clouds. Peft imports it.
    for module in (utilities, utilities.import_utils):
        module.is_accelerate_available = lambda *_: False
    for name in _MODULES:
        importlib.import_module(name)
    # Looked for here, by the name that official checkpoints give their tokenizer.
    library.T5Tokenizer = importlib.import_module("transformers.models.t5.tokenization_t5").T5Tokenizer


class _Unopened(ModuleType):
    """A module whose own code has not run. It runs once somebody asks for more than one of its submodules."""

    _is_opened = False

    @classmethod
    def of(cls, name: str, path: Iterable[str] | None) -> Any:
        """The stand-in of a package, where imports find it from now on."""
        spec = PathFinder.find_spec(name, None if path is None else list(path))
        if spec is None:
            raise ModuleNotFoundError(name=name)
        package = importlib.util.module_from_spec(spec)
        package.__class__ = cls
        sys.modules[name] = package
        return package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._is_opened:
            # Transformers puts another module in its place.
            opened = sys.modules[self.__name__]
            if opened is self:
                raise AttributeError(name)
            return getattr(opened, name)
        if self.__name__ == "torch._dynamo":
            # Decorators that tell the compiler what to leave alone; as long as there is none, nothing needs telling.
            if name in {"disable", "allow_in_graph", "assume_constant_result"}:
                return _unchanged
        elif "__path__" in vars(self) and PathFinder.find_spec(
            f"{self.__name__}.{name}", list(self.__path__)
        ):
            return importlib.import_module(f"{self.__name__}.{name}")
        self._open()
        return getattr(self, name)

    def _open(self) -> None:
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self._is_opened = True
        self.__spec__.loader.exec_module(self)
        if self.__name__ == "torch._dynamo":
            _open_for_the_compiler()


def _open_for_the_compiler() -> None:
    module = sys.modules.get(_FOR_THE_COMPILER)
    if isinstance(module, _Unopened) and not module._is_opened:
        module._open()


def _unchanged(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    return _unchanged if function is None else function

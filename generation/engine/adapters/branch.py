"""A second network that shares every weight with the first, and differs from it in a few modules.

Adapters go into a branch; the base keeps its modules, parameters and hooks whatever happens to the branch.
Knows nothing of adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def branched(network: M, replacements: Mapping[str, nn.Module]) -> M:
    """A network like `network` with other modules at the given paths. Parameters are shared, not copied.

    Only the modules above a replacement are made anew. Raises AttributeError for a path that does not exist
    and ValueError where one path leads through another.
    """
    tree: dict[str, Any] = {}
    for path, module in replacements.items():
        *parents, last = path.split(".")
        branch = tree
        for name in parents:
            branch = branch.setdefault(name, {})
            if not isinstance(branch, dict):
                raise ValueError(f"{path} leads through another replacement")
        if branch.setdefault(last, module) is not module:
            raise ValueError(f"{path} leads to a module above another replacement")
    return _with_children(network, tree)


def twin_of(module: M) -> M:
    """A module with the same parameters, buffers and children, whose own entries can be set without the first's."""
    twin = type(module).__new__(type(module))
    # Every table of a module (parameters, children, hooks) is a dict of its own; what stands in it is shared.
    vars(twin).update(
        {name: value.copy() if isinstance(value, dict) else value for name, value in vars(module).items()}
    )
    return twin


def _with_children(module: M, tree: Mapping[str, Any]) -> M:
    twin = twin_of(module)
    for name, below in tree.items():
        child = module.get_submodule(name)
        setattr(twin, name, below if isinstance(below, nn.Module) else _with_children(child, below))
    return twin

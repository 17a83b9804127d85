"""Unit tests run without Ray: `ray.init` raises in them, whoever imports ray, and when."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest


def _refuse(*_args: Any, **_kwargs: Any) -> None:
    raise AssertionError("a unit test called ray.init: test the plain class, or move the test to tests/ray")


class _RayWithoutInit(MetaPathFinder, Loader):
    """Imports ray as it is, but for `ray.init`. Costs nothing where nobody imports it."""

    def __init__(self) -> None:
        self._loader: Any = None
        self._searching = False
        self._module: Any = sys.modules.get("ray")
        self._init: Any = None
        if self._module is not None:
            self._close()

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != "ray" or self._searching:
            return None
        self._searching = True
        spec = find_spec(fullname)
        self._searching = False
        if spec is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader  # type: ignore[union-attr]
        self._loader.exec_module(module)
        self._module = module
        self._close()

    def _close(self) -> None:
        self._init, self._module.init = self._module.init, _refuse

    def open(self) -> None:
        """As before, for other suites in the same process."""
        if self._module is not None:
            self._module.init = self._init


@pytest.fixture(autouse=True)
def _without_ray() -> Iterator[None]:
    finder = _RayWithoutInit()
    sys.meta_path.insert(0, finder)
    yield
    sys.meta_path.remove(finder)
    finder.open()

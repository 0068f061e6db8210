"""Let torchmetrics, which comes with Lightning, be imported without the libraries that only its texts and plots need.

Wherever they are installed it imports them, which is almost half of the time that importing Lightning takes. gptlab
uses no metric of torchmetrics.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.util import find_spec
from types import ModuleType

LIBRARY = "torchmetrics"
LEFT_OUT = ("matplotlib", "scipy", "transformers")


def import_lightly() -> None:
    """Leave them out when torchmetrics is imported from here on; only then: later they can be imported as ever."""
    if LIBRARY not in sys.modules and not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds torchmetrics alone, once."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != LIBRARY:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads a module as its own loader does, while some libraries are hidden."""

    def __init__(self, own: Loader) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.own
        with hidden(LEFT_OUT):
            self.own.exec_module(module)


class _Hider(MetaPathFinder):
    """Says of some libraries that they are not there."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def hidden(names: Sequence[str]) -> Iterator[None]:
    """Make libraries that were not imported yet look as if they were not installed."""
    found, hider = Distribution.__dict__["from_name"], _Hider(names)

    def from_name(name: str) -> Distribution:
        if name in names:
            raise PackageNotFoundError(name)
        return found.__get__(None, Distribution)(name)

    sys.meta_path.insert(0, hider)
    Distribution.from_name = staticmethod(from_name)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Distribution.from_name = found  # type: ignore[method-assign]
        sys.meta_path.remove(hider)

"""Hide from the commands that tests start what makes up almost half of a command's start, and no command needs.

torchmetrics, which comes with Lightning, imports these wherever they are installed. Python reads this file first, as its
folder is in PYTHONPATH (tests/conftest.py): such a command finds what is there without the extras.
"""

import importlib.metadata
import sys
from typing import NoReturn

HIDDEN = ("matplotlib", "scipy", "transformers")
installed = importlib.metadata.version


class Hider:
    """A finder of modules that says of some that they are not installed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in HIDDEN:
            missing(name)

    @staticmethod
    def invalidate_caches() -> None:
        """Forget nothing: there is nothing to remember."""


def missing(name: str) -> NoReturn:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def version(name: str) -> str:
    if name in HIDDEN:
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)


sys.meta_path.insert(0, Hider)
importlib.metadata.version = version

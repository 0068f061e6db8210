"""Write the reference of gptlab's modules, from their docstrings, as web pages.

pip install -e '.[docs]' && python docs/reference.py site      # site/index.html
"""

import argparse
import pkgutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import gptlab


def modules() -> list[str]:
    """Return gptlab and all that is directly in it, of which pdoc takes what `__all__` names alone."""
    below = [module.name for module in pkgutil.iter_modules(gptlab.__path__, "gptlab.")]
    return ["gptlab", *(name for name in below if name != "gptlab.__main__")]


def write(folder: Path, names: Sequence[str]) -> None:
    """Write a page for each of the modules and for all in them, an index and a search."""
    import pdoc
    import pdoc.render

    # names within aliases, dict[str, "Tensor"], are looked for where an alias is used; they are shown as written
    warnings.filterwarnings("ignore", "Error parsing type annotation")
    pdoc.render.configure(docformat="markdown", show_source=False, footer_text=f"gptlab {gptlab.__version__}")
    pdoc.pdoc(*names, output_directory=folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder, modules())

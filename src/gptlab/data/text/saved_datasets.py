"""Find the files of a data set that Hugging Face's `save_to_disk` wrote, as its own state.json lists them."""

import os
from pathlib import Path

from gptlab.errors import require
from gptlab.files import read_object

STATE, SPLITS = "state.json", "dataset_dict.json"
MOST = 1 << 24  # bytes of a list of files
AGAIN = "copy the folder again"


def is_saved(folder: Path) -> bool:
    """Tell whether a folder is what `save_to_disk` writes: of one data set, or of several splits."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def saved_files(folder: Path, key: str, split: str | None = None) -> list[Path]:
    """Return the Arrow files of a saved data set, in their order.

    Raises UserError where the folder holds several splits and none is chosen, or is not whole.
    """
    if (folder / SPLITS).is_file():
        names = read_object(key, folder / SPLITS, MOST, AGAIN).get("splits")
        known = isinstance(names, list) and all(isinstance(name, str) and _is_name(name) for name in names)
        require(known, key, folder / SPLITS, "does not list its splits", "save it again")
        assert isinstance(names, list)
        todo = f"give one of {', '.join(str(folder / name) for name in names)}"
        require(split is not None, key, folder, "holds several splits", todo)
        why = f"has no split {split!r} but {', '.join(names)}"
        require(split in names, key, folder, why, "choose one of them")
        return saved_files(folder / str(split), key)
    state = read_object(key, folder / STATE, MOST, AGAIN)
    listed = state.get("_data_files")
    names = [each.get("filename") if isinstance(each, dict) else None for each in listed or []]
    known = isinstance(listed, list) and all(isinstance(name, str) and _is_name(name) for name in names)
    require(known, key, folder / STATE, "does not list its files", "save it again")
    own = state.get("_split")
    why = f"is the split {own!r}, and {split!r} is asked for"
    require(split is None or own in (None, split), key, folder, why, f"give data.split={own}, if it is meant")
    paths = [folder / str(name) for name in names]
    for path in paths:
        require(path.is_file(), key, path, "is listed in state.json and is not there", AGAIN)
    return paths


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and os.path.basename(name) == name

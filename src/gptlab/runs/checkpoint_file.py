"""Read checkpoint files, wherever they come from, and tell by the list of checksums beside them if they are whole."""

import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from gptlab.checksums import LARGE, require_listed
from gptlab.errors import UserError, reason

_ALLOCATES = re.compile(r"\S+ (bytearray|Tensor|TypedStorage|UntypedStorage)")


def read_checkpoint(path: Path, map_location: str = "cpu") -> dict[str, Any]:
    """Return the tensors and plain values of a checkpoint; tensors are mapped into memory, not read.

    Raises UserError where it is anything else.
    """
    try:
        return read_plain(path, map_location)
    except Exception as error:  # whatever a damaged file makes of torch.load
        raise not_whole(path, error) from error


def read_plain(path: Path, map_location: str = "cpu") -> dict[str, Any]:
    """Return the dict of tensors and plain values that torch.save wrote; tensors are mapped into memory, not read.

    Raises ValueError, or what torch.load does, where it is anything else: torch's restricted unpickler runs nothing
    that a file names, and a file whose records are compressed, come twice or make it allocate memory is refused, so
    that it takes no more memory than its size.
    """
    _require_plain(path)
    saved = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    if not isinstance(saved, dict):
        raise ValueError(f"it holds a {type(saved).__name__}")
    return saved


def require_stored(weights: dict[str, Any]) -> None:
    """Raise an error unless all weights are tensors as large as they say."""
    for name, weight in weights.items():
        if weight.layout != torch.strided or weight.is_quantized:
            raise ValueError(f"{name} is no dense tensor")
        if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise ValueError(f"{name} has more numbers than are stored")


def verify(path: Path) -> str | None:
    """Check a checkpoint against the list of checksums; return what is to be said where the list does not tell.

    Such a checkpoint is checked by the checksums that its archive has of its tensors. Raises UserError where it is
    damaged.
    """
    if not path.is_file():
        raise not_whole(path, ValueError("it is not a regular file"))
    if path.stat().st_size >= LARGE and not zipfile.is_zipfile(path):  # before all of it is read
        raise not_whole(path, ValueError("it is no archive of torch.save"))
    try:
        note = require_listed("run", "take another one of this run", path, pattern="*.ckpt")
    except OSError as error:
        raise not_whole(path, error) from error
    if note is None:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:
        raise not_whole(path, error) from error
    if bad is not None:
        raise not_whole(path, ValueError(f"{bad} is damaged"))
    read_checkpoint(path, "meta")
    return note


def is_whole(path: Path) -> bool:
    """Tell whether a checkpoint is what was written, as far as that is known."""
    try:
        verify(path)
    except UserError:
        return False
    return True


def not_whole(path: Path, error: Exception) -> UserError:
    """Return the mistake of a checkpoint that cannot be read."""
    why = f"is not a whole gptlab checkpoint ({reason(error)})"
    return UserError("run", path, why, "take another one of this run")


def _require_plain(path: Path) -> None:
    """Raise ValueError for an archive that is not as torch.save writes it, or a pickle that allocates memory."""
    if not path.is_file():
        raise ValueError("it is not a regular file")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its records are compressed")
        if len(set(names)) < len(names) or len({name.partition("/")[0] for name in names}) != 1:
            raise ValueError("its records do not have names of their own in one folder")
        pickles = [name for name in names if name.endswith("/data.pkl")]
        for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])) if pickles else ():
            if opcode.name == "GLOBAL" and _ALLOCATES.fullmatch(str(argument)):
                raise ValueError(f"it makes a {str(argument).rpartition(' ')[2]}")

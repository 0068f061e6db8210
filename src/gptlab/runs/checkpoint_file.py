"""Read checkpoint files, wherever they come from, and tell by the list of checksums beside them whether they are whole.

The list is SHA256SUMS, as `sha256sum -c` reads it. Its last line is the checksum of the lines above it, so that a
damaged list condemns no checkpoint.
"""

import hashlib
import json
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from gptlab.errors import UserError, reason
from gptlab.files import cache_dir, read_bounded, short, write_atomically

SUMS = "SHA256SUMS"
LARGE = 1 << 28  # bytes of a file whose checksum is kept as long as its size and time stay
MOST_SUMS = 1 << 20  # bytes of a list
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_OWN = "# SHA-256 of the lines above: "  # sha256sum takes it for a comment
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
    mend = f"cd {path.parent} && sha256sum *.ckpt > {SUMS}"
    try:
        listed = checksums(path.parent)
        unknown = None if path.name in listed else f"is not in {SUMS}" if listed else f"there is no {SUMS} beside it"
    except ValueError as error:
        listed, unknown = {}, f"{SUMS} beside it is damaged ({reason(error)})"
    if unknown is None:
        try:
            found = digest(path)
        except OSError as error:
            raise not_whole(path, error) from error
        if found not in listed[path.name]:
            why, todo = f"is damaged: its SHA-256 is not that of {SUMS}", "take another one of this run"
            raise UserError("run", path, why, f"{todo}; if you have replaced it yourself: {mend}")
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:
        raise not_whole(path, error) from error
    if bad is not None:
        raise not_whole(path, ValueError(f"{bad} is damaged"))
    read_checkpoint(path, "meta")
    return f"{path}: {unknown}; it is read, and checked less well; to have it checked from now on: {mend}"


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


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; that of a large one is remembered as long as the file keeps its size and time."""
    stat = path.stat()
    key = repr((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    memo = cache_dir() / "checked" / f"{short(key)}.json"
    if stat.st_size >= LARGE and memo.exists():
        return str(json.loads(memo.read_text()))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size >= LARGE:
        write_atomically(memo, json.dumps(found).encode())
    return found


def checksums(folder: Path) -> dict[str, list[str]]:
    """Return the list of a folder: the digests of each name, two where a kill has come between list and file.

    Returns {} where there is no list; raises ValueError where it is damaged.
    """
    path = folder / SUMS
    try:
        lines = read_bounded(path, MOST_SUMS).decode().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(reason(error)) from error
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if line.startswith(_OWN):
            if line.removeprefix(_OWN).strip() != _own("".join(lines[: number - 1])):
                raise ValueError("its own checksum is another")
        elif not line.startswith("#"):
            match = _LINE.fullmatch(line.rstrip("\n"))
            if match is None:
                raise ValueError(f"line {number} is no checksum")
            found.setdefault(match[2], []).append(match[1])
    if not found:
        raise ValueError("it is empty")
    return found


def write_checksums(folder: Path, listed: dict[str, list[str]]) -> None:
    """Write the list of a folder, whole or not at all."""
    lines = "".join(f"{each}  {name}\n" for name, digests in listed.items() for each in digests)
    write_atomically(folder / SUMS, f"{lines}{_OWN}{_own(lines)}\n".encode())


def _own(lines: str) -> str:
    return hashlib.sha256(lines.encode()).hexdigest()


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

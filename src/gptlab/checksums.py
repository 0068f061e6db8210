"""Keep a list of the SHA-256 of the files of a folder, SHA256SUMS, as `sha256sum -c` reads it, and check files by it.

The last line of a list is the checksum of the lines above it, so that a damaged list condemns no file.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

from gptlab.errors import UserError, reason
from gptlab.files import cache_dir, read_bounded, short, write_atomically

SUMS = "SHA256SUMS"
LARGE = 1 << 28  # bytes of a file whose checksum is kept as long as its size and time stay
MOST_SUMS = 1 << 20  # bytes of a list
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_OWN = "# SHA-256 of the lines above: "  # sha256sum takes it for a comment


def require_listed(key: str, todo: str, *paths: Path, pattern: str = "*") -> str | None:
    """Compare files of one folder with its list; return what is to be said where the list does not tell.

    `todo` says what to do with a damaged one, `pattern` which files belong to the list. Raises UserError, for `key`,
    where a file is not as it is listed, and OSError where one cannot be read.
    """
    folder = paths[0].parent
    mend = f"cd {folder} && rm -f {SUMS} && sha256sum {pattern} > {SUMS}"
    try:
        listed = checksums(folder)
        unknown = [path for path in paths if path.name not in listed]
        why = f"is not in {SUMS}" if listed else f"there is no {SUMS} beside it"
    except ValueError as error:
        listed, unknown, why = {}, list(paths), f"{SUMS} beside it is damaged ({reason(error)})"
    for path in paths:
        if path.name in listed and digest(path) not in listed[path.name]:
            damaged = f"is damaged: its SHA-256 is not that of {SUMS}"
            raise UserError(key, path, damaged, f"{todo}; if you have replaced it yourself: {mend}")
    if not unknown:
        return None
    return f"{unknown[0]}: {why}; it is read, and checked less well; to have it checked from now on: {mend}"


def warn_unless_listed(key: str, *paths: Path) -> None:
    """Compare files of a run, all in one folder, with its list as `require_listed` does; print what is to be said."""
    if note := require_listed(key, "take it from another copy of the run", *paths):
        print(f"warning: {note}", file=sys.stderr)


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


def list_files(folder: Path) -> None:
    """Write the list of all files that a folder has now; it has none where there are no files."""
    if paths := visible_files(folder):
        write_checksums(folder, {path.name: [digest(path)] for path in paths})


def visible_files(folder: Path) -> list[Path]:
    """Return the files of a folder that a list holds, by their names: not the list, and none whose name begins with a
    dot."""
    names = (path for path in folder.glob("*") if path.name != SUMS and not path.name.startswith("."))
    return sorted(path for path in names if path.is_file())


def _own(lines: str) -> str:
    return hashlib.sha256(lines.encode()).hexdigest()

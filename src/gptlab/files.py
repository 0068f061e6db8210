"""Write files and folders completely or not at all, also when the process is killed; read untrusted files."""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gptlab.errors import UserError, reason, require

UNFINISHED = ".unfinished"  # suffix of temporary files
LATEST = "latest"  # a file that names a directory beside it


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content in one step; it is on disk when this returns.

    A kill leaves a temporary file beside it, which `remove_unfinished` finds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", suffix=UNFINISHED, delete=False) as file:
        try:
            file.write(content)
            sync(file)
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    sync_folder(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of killed writes from a folder; only the one process that writes there may do so."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def sync(file: IO[Any]) -> None:
    """Wait until everything written to an open file is on disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_files(*paths: Path) -> None:
    """Wait until files are on disk, and all files in folders; missing ones are passed over."""
    for path in paths:
        if path.is_dir():
            sync_files(*path.iterdir())
            sync_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `path` at the end, on disk; after an error nothing is left of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield work
        work.chmod(0o755)
        sync_files(work)
        work.rename(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which becomes `path` at the end, on disk; after an error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield work / path.name
        (work / path.name).chmod(0o644)
        sync_files(work)
        (work / path.name).rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def require_new(path: Path, key: str = "out", kind: str = "directory") -> None:
    """Refuse a new file or folder that is there already or cannot be made; raises UserError for `key`."""
    require(not os.path.lexists(path), key, path, "exists already", f"give a new {kind}")
    require_writable(key, path, path)


def require_file(key: str, path: Path) -> None:
    """Refuse a file that cannot be written; raises UserError for `key`."""
    require(not path.is_dir(), key, path, "is a folder", "give a file")
    require_writable(key, path, path.parent if path.is_file() else path)


def require_writable(key: str, value: Any, folder: Path) -> None:
    """Refuse a `key=value` that asks for something in a folder which cannot be made or written to; raises UserError."""
    todo = "give another place"
    for above in (folder.absolute(), *folder.absolute().parents):
        try:
            is_folder = stat.S_ISDIR(os.stat(above).st_mode)
        except FileNotFoundError:
            require(not above.is_symlink(), key, value, f"{above} is a link to nothing", todo)
        except NotADirectoryError:
            pass
        except OSError as error:  # such as a name that is too long
            raise UserError(key, value, error.strerror or reason(error), todo) from error
        else:
            require(is_folder, key, value, f"{above} is no folder", todo)
            require(os.access(above, os.W_OK | os.X_OK), key, value, f"{above} cannot be written to", todo)
            return


@functools.cache
def conf_dir() -> Path:
    """Return the config tree: inside the package in a wheel, at the root of a checkout."""
    package = Path(__file__).resolve().parent
    return next(p for p in (package / "conf", package.parents[1] / "conf") if p.is_dir())


def cache_dir() -> Path:
    """Return where text, tokens and results of checks are kept between runs: $GPTLAB_CACHE, else the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GPTLAB_CACHE") or Path(home) / "gptlab")


def short(key: str) -> str:
    """Return a text of any length as the name of a file."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def read_bounded(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises OSError if it is larger or not a regular file: a pipe or a device is never waited for.
    """
    if not path.is_file():
        os.stat(path)  # raises with the reason if the file is missing
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        large = os.fstat(file.fileno()).st_size > most
        content = b"" if large else file.read(most + 1)
    if large or len(content) > most:
        raise OSError(errno.EFBIG, f"is larger than {most:,} bytes", str(path))
    return content


def read_object(key: str, path: Path, most: int, todo: str) -> dict[str, Any]:
    """Read the object in a JSON file of at most `most` bytes; raises UserError, for `key`, where it is none.

    `todo` says what to do then.
    """
    try:
        found = read_json(path, most)
    except (OSError, ValueError) as error:
        raise UserError(key, path, f"cannot be read ({reason(error)})", todo) from error
    require(isinstance(found, dict), key, path, "does not hold keys with values", todo)
    return dict(found)


def read_json(path: Path, most: int) -> Any:
    """Read a JSON file of at most `most` bytes; raises OSError or ValueError."""
    try:
        return json.loads(read_bounded(path, most))
    except RecursionError as error:
        raise ValueError("is nested too deep") from error


def strict_json(content: Any, indent: int | None = None) -> str:
    """Return plain values as JSON; it has no number for infinity or NaN, which are null."""
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_without_infinite(content), indent=indent, allow_nan=False)


def _without_infinite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_infinite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_infinite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def followed(path: Path) -> Path:
    """Return a path in which a file named `latest`, such as outputs/latest, stands for the directory that it names.

    It is a file, not a link, because TensorBoard follows links and would show that run twice; older ones are links.
    """
    for part in (path, *path.parents):
        if part.name == LATEST and part.is_file():
            try:
                named = os.fsdecode(read_bounded(part, 1 << 16)).strip()
            except OSError:
                return path
            return part.parent / named / path.relative_to(part) if named and "\0" not in named else path
    return path

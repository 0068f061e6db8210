"""Open files, compressed or not, within bounded memory, and tell how many of their bytes have been read."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, cast

from gptlab.errors import UserError, reason

BLOCK = 1 << 20  # bytes read at once
HELD = 1 << 16  # bytes of a file that are held between reads
PACKED = 1 << 10  # bytes decompressed at once: a frame of zstd makes at most 128 KiB of 4 bytes
WINDOW = 1 << 31  # bytes of a zstd frame's window: what `zstd --ultra --long=31` needs, and the most there can be


@contextlib.contextmanager
def bytes_read(how: Callable[[int], None] | None) -> Iterator[None]:
    """Tell how many bytes of files go by in this context, as they are on disk; those of tables by whole files."""
    token = _tell.set(how or _nobody)
    try:
        yield
    finally:
        _tell.reset(token)


@contextlib.contextmanager
def whole_file(key: str, path: Path) -> Iterator[None]:
    """Raise UserError, as `key=path`, where reading a file fails in this context: damaged, or of a library's format."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:  # a damaged archive, a disk that fails
        raise UserError(key, path, f"cannot be read ({reason(error)})", "give a whole file") from error
    except ImportError as error:
        raise UserError(key, path, f"needs {error.name}", "pip install 'gptlab[files]'") from error


def _nobody(size: int) -> None:
    pass


_tell: ContextVar[Callable[[int], None]] = ContextVar("_tell", default=_nobody)


def tell(size: int) -> None:
    """Tell `bytes_read` that so many bytes have gone by."""
    _tell.get()(size)


class _Told(io.FileIO):
    """A file that tells how many bytes are read of it, also where it is compressed."""

    def readinto(self, buffer: Any) -> int | None:
        size = super().readinto(buffer)
        tell(size or 0)
        return size


@contextlib.contextmanager
def opened(path: Path, packing: str) -> Iterator[IO[bytes]]:
    """Open a file that is compressed as `.gz` or `.zst`, or not (an empty `packing`)."""
    with io.BufferedReader(_Told(path), HELD) as raw:
        if packing == ".gz":
            with gzip.GzipFile(mode="rb", fileobj=raw) as unpacked:
                yield cast(IO[bytes], unpacked)
        elif packing == ".zst":
            with io.BufferedReader(_Zstandard(raw), BLOCK) as file:
                yield file
        else:
            yield raw


class _Zstandard(io.RawIOBase):
    """A reader of all frames of a file, which fails on an archive that is cut short; `zstandard`'s own does not."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self.file, self.error = file, zstandard.ZstdError
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        self.frame: Any = None
        self.ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            begun = self.frame is not None and not self.frame.eof
            data = (b"" if begun or self.frame is None else self.frame.unused_data) or self.file.read(PACKED)
            if not data:
                if begun:
                    raise EOFError("it ends in the middle")
                return 0
            if not begun:
                self.frame = self.decompressor.decompressobj()
            try:
                self.ready = self.frame.decompress(data)
            except self.error as error:
                too_long = "too much memory" in str(error)
                raise OSError(f"its window is longer than {WINDOW:,} bytes" if too_long else str(error)) from error
        n = min(len(buffer), len(self.ready))
        buffer[:n], self.ready = self.ready[:n], self.ready[n:]
        return n

    def close(self) -> None:
        self.file.close()
        super().close()

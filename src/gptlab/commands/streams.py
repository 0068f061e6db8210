"""Keep standard output and standard error from breaking a command: by a reader that leaves, a full disk, or letters."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class Output:
    """Write to a stream; from the first write that fails on, what is written is dropped, and the command goes on.

    `failure` says why it cannot be written; None where nothing failed, or the reader has left (`| head -1`). It is no
    io.TextIOBase, which would close the stream with itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Let the stream end in nothing, also what is still in its buffer."""
        if not isinstance(error, BrokenPipeError):
            self.failure = self.failure or error.strerror
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())
        os.close(nothing)


@contextlib.contextmanager
def standard_streams() -> Iterator[Output]:
    """Let a command write to standard output and standard error whatever they are; yields the former.

    What their encoding does not have is written as Python does, \\xfc.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # it was closed: the next file would get its number
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        outputs = [Output(stack.enter_context(_lenient(stream))) for stream in before]
        sys.stdout, sys.stderr = (cast(TextIO, output) for output in outputs)
        try:
            yield outputs[0]
        finally:
            for output in outputs:
                output.flush()
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def _lenient(stream: TextIO | None) -> Iterator[TextIO]:
    """Yield a stream that takes any text, one that ends in nothing where there is none."""
    if stream is None:
        with open(os.devnull, "w") as nothing:
            yield nothing
    elif isinstance(stream, io.TextIOWrapper):
        errors = stream.errors
        stream.reconfigure(errors="backslashreplace")
        yield stream
        stream.reconfigure(errors=errors)
    else:
        yield stream

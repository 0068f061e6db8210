"""Text -> shards: chunks are encoded by several processes and written in sections, so that a killed run goes on."""

import contextlib
import errno
import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptlab.data.text.readers import Chunk
from gptlab.data.tokens.shards import dtype_for
from gptlab.errors import UserError
from gptlab.files import write_atomically
from gptlab.tokenizers import Tokenizer, load_tokenizer

JOB = 1 << 20  # characters that are encoded at once
SECTION = 1 << 28  # characters of a shard
ALONE = 1 << 23  # bytes that are not worth a second process

Starts = np.ndarray[Any, np.dtype[np.uint32]]
Progress = Callable[[int], None]  # is told how many more bytes of text are done


class Job(NamedTuple):
    """Pieces of documents of one part, and for each whether it begins one."""

    part: str
    texts: list[str]
    begins: list[bool]


class Done(NamedTuple):
    part: str
    ids: bytes  # of `dtype_for(n_vocab)`
    starts: Starts  # where in them documents begin
    bytes: int  # of text


def jobs(chunks: Iterable[tuple[str, Chunk]], tokenizer: Tokenizer) -> Iterator[Job]:
    """A long document is cut only where it makes no difference to its tokens."""
    waiting = {part: Job(part, [], []) for part in ("train", "val")}
    sizes = dict.fromkeys(waiting, 0)

    def add(part: str, text: str, begins: bool) -> Iterator[Job]:
        waiting[part].texts.append(text)
        waiting[part].begins.append(begins)
        sizes[part] += len(text)
        if sizes[part] >= JOB:
            yield waiting[part]
            waiting[part], sizes[part] = Job(part, [], []), 0

    of, rest, fresh = "train", "", True  # the end of the last document, and whether it is all of it
    enough = JOB  # characters in which a place to cut is looked for; twice as many where there was none
    for part, (text, begins) in chunks:
        if begins and rest:
            yield from add(of, rest, fresh)
            rest, enough = "", JOB
        fresh = fresh if rest else begins
        of = part
        rest += text
        if len(rest) >= enough:
            enough = 2 * len(rest)
            if cut := tokenizer.last_cut(rest):
                yield from add(of, rest[:cut], fresh)
                rest, fresh, enough = rest[cut:], False, JOB
    if rest:
        yield from add(of, rest, fresh)
    yield from (job for job in waiting.values() if job.texts)


def encode(job: Job, tokenizer: Tokenizer) -> Done:
    """Every document behind a separator, so that its first token is predicted too."""
    arrays, starts, at, size = [], [], 0, 0
    eot = np.array([tokenizer.eot], dtype_for(tokenizer.n_vocab))
    for text, begins in zip(job.texts, job.begins, strict=True):
        ids = tokenizer.encode_array(text).astype(eot.dtype)
        if begins:
            starts.append(at)
            arrays.append(eot)
        arrays.append(ids)
        at += len(ids) + begins
        size += len(text.encode())
    return Done(job.part, np.concatenate(arrays).tobytes(), np.array(starts, np.uint32), size)


def write_sections(
    work: Path,
    chunks: Iterable[tuple[str, Chunk]],
    tokenizer_folder: Path,
    processes: int,
    progress: Progress,
    section: int = SECTION,
) -> list[dict[str, Any]]:
    """Fill `work` with the shards of each section and what is in them; sections that are there already are kept."""
    tokenizer = load_tokenizer(tokenizer_folder)
    records: list[dict[str, Any]] = []
    with _encoder(tokenizer, tokenizer_folder, processes) as encoded:
        for number, group in enumerate(_sections(jobs(chunks, tokenizer), section)):
            path = work / f"section-{number:05d}.json"
            if not path.exists():
                try:
                    record = _write_section(work, number, encoded(group), dtype_for(tokenizer.n_vocab), progress)
                    write_atomically(path, json.dumps(record).encode())
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                        raise
                    todo = "make room and run it again: what is written so far is kept"
                    raise UserError("data", work, f"cannot be written ({error.strerror})", todo) from error
            else:
                for _ in group:
                    pass  # read past it
                progress(sum(part["bytes"] for part in json.loads(path.read_text()).values()))
            records.append(json.loads(path.read_text()))
    return records


def _sections(every: Iterator[Job], size: int) -> Iterator[Iterator[Job]]:
    """Consecutive jobs of about `size` characters; each group must be used up before the next."""

    def group(first: Job) -> Iterator[Job]:
        seen = 0
        for job in itertools.chain([first], every):
            yield job
            seen += sum(map(len, job.texts))
            if seen >= size:
                return

    for first in every:
        yield group(first)


def _write_section(
    work: Path, number: int, results: Iterator[Done], dtype: str, progress: Progress
) -> dict[str, dict[str, Any]]:
    """`PART-NUMBER.bin` and `.starts.npy` of each part that has text here; returns what is in them."""
    files: dict[str, Any] = {}
    record: dict[str, dict[str, Any]] = {}
    starts: dict[str, list[Starts]] = {}
    digests = {part: hashlib.sha256() for part in ("train", "val")}
    with contextlib.ExitStack() as stack:
        for done in results:
            part = done.part
            if part not in files:
                files[part] = stack.enter_context((work / f"{part}-{number:05d}.bin").open("wb"))
                record[part] = {"file": f"{part}-{number:05d}.bin", "documents": 0, "bytes": 0, "tokens": 0}
                starts[part] = []
            counts = record[part]
            starts[part].append(done.starts + np.uint32(counts["tokens"]))
            files[part].write(done.ids)
            digests[part].update(done.ids)
            counts["documents"] += len(done.starts)
            counts["bytes"] += done.bytes
            counts["tokens"] += len(done.ids) // np.dtype(dtype).itemsize
            progress(done.bytes)
        for part, file in files.items():
            file.flush()
            os.fsync(file.fileno())
            array = io.BytesIO()  # np.save into a file does not notice a full disk
            np.save(array, np.concatenate(starts[part]))
            (work / f"{part}-{number:05d}.starts.npy").write_bytes(array.getvalue())
            record[part]["sha256"] = digests[part].hexdigest()
    return record


@contextlib.contextmanager
def _encoder(tokenizer: Tokenizer, folder: Path, processes: int) -> Iterator[Callable[[Iterator[Job]], Iterator[Done]]]:
    """A function that encodes jobs in their order, here or in a pool, with few of them in memory at once."""
    if processes == 1:
        yield functools.partial(map, functools.partial(encode, tokenizer=tokenizer))
        return
    context = multiprocessing.get_context("spawn")  # threads of this process must not be forked
    pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(folder,))

    def encoded(every: Iterator[Job]) -> Iterator[Done]:
        pending: deque[Future[Done]] = deque()
        for job in every:
            pending.append(pool.submit(_work, job))
            if len(pending) > 2 * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield encoded
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_tokenizer: Tokenizer  # of a process of the pool


def _start(folder: Path) -> None:
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer = load_tokenizer(folder)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(job: Job) -> Done:
    return encode(job, _tokenizer)

"""Measure how the start, the batches and the memory of training's data grow with the tokens of a corpus.

    python benchmarks/corpus_size.py [--tokens 100000000 ... 50000000000] [--repeats 3] [--out results.json]

No corpus of that size is written: the shards are sparse files, as many as `gptlab tokenize` would make, which hold ids
only where they are looked at. What reads them is what training reads with: a folder of tokens, its data module, the
order of its windows and its loader. Each point is a fresh process that may open 1,024 files. `resume` starts the order
deep in the second epoch and reads again what a loader that came there by itself has read. (The time of a batch says
nothing for 9 to 128 shards: they are mapped, and some systems take milliseconds to map a hole.)
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from side_by_side import (
    Figure,
    described,
    fresh,
    interleaved,
    machine,
    megabytes,
    separate_pages,
    succeeded,
    table,
    write,
)

SHARD = 60_000_000  # tokens, which 2^28 characters of English are, about
VAL = 10_000_000  # held-out tokens
MOST_OPEN = 1024  # files of a process, as most systems have it
BLOCK_SIZE, BATCH_SIZE, MICRO, SEED = 1024, 512, 8, 1
TIMED = 50  # micro-batches
COLUMNS = {"start_s": "start s", "batch_ms": "ms a micro-batch", "resume_s": "resume s", "anon_mb": "MB more"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", nargs="+", type=int, default=[10**8, 10**10, 5 * 10**10])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("--point", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measured(options.point)))
        return
    results: dict[str, Any] = {"machine": machine(), "repeats": options.repeats, "rows": []}
    print(f"{described(results['machine'])}; {options.repeats} rounds of fresh processes")
    names = {f"{tokens:,} tokens": tokens for tokens in options.tokens}
    rounds, results["left_out"] = interleaved(list(names), options.repeats, lambda name: child(names[name]))
    for found in rounds.values():
        same = {key: found[0][key] for key in ("tokens", "shards", "windows", "deep_window")}
        figures = {key: Figure.of([each[key] for each in found]) for key in (*COLUMNS, "read_mb")}
        results["rows"].append({**same, **figures, "exact": all(each["exact"] for each in found)})
    heads = ("tokens", "shards", *COLUMNS.values(), "exact")
    table(heads, [[f"{row['tokens']:,}", f"{row['shards']:,}", *(f"{row[key].median:.2f}" for key in COLUMNS),
                   "yes" if row["exact"] else "no"] for row in results["rows"]])  # fmt: skip
    if options.out:
        write(options.out, results)


def child(tokens: int) -> dict[str, Any]:
    """Return the measurements of a size, made in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        done = succeeded(fresh([sys.executable, __file__, "--point", tokens], {"GPTLAB_CACHE": cache}))
    answer: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    return answer


def measured(tokens: int) -> dict[str, Any]:
    """In the child: return what a corpus of so many tokens takes."""
    from gptlab.data.batches.datamodule import TextDataModule
    from gptlab.data.text.sources import TokenFiles
    from gptlab.data.tokens.prepare import prepare
    from gptlab.tokenizers.byte import Byte

    separate_pages()
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    config = TokenFiles(folder="tokens", batch_size=BATCH_SIZE)

    def module(step: int) -> TextDataModule:
        found = TextDataModule(prepare(config, Byte()), config, BLOCK_SIZE, SEED)
        found.steps, found.micro_batch_size = 10**9, MICRO
        found.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=step, strategy=CPU)  # type: ignore[assignment]
        return found

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pretend(Path("small"), SHARD)
        prepare(TokenFiles(folder="small"), Byte())  # all is imported then
        pretend(Path("tokens"), tokens)
        before = {which: megabytes("self", which) for which in ("RssAnon", "VmRSS")}
        start = time.perf_counter()
        data = module(0)
        batches = iter(data.train_dataloader())
        next(batches)
        started = time.perf_counter() - start
        times = [timed(batches) for _ in range(TIMED)]
        deep = int(1.9 * len(data.train[0])) // BATCH_SIZE  # a step in the second epoch
        mark(data, deep)
        running = iter(module(deep - 1).train_dataloader())
        for _ in range(BATCH_SIZE // MICRO):
            next(running)
        start = time.perf_counter()
        resumed = iter(module(deep).train_dataloader())
        first = next(resumed)
        resume = time.perf_counter() - start
        micro_batches = [first, *(next(resumed) for _ in range(BATCH_SIZE // MICRO - 1))]
        exact = all(bool((batch.x == next(running).x).all()) for batch in micro_batches)
        windows = [window for _, window in data.windows_of(deep + 1)]
        exact &= windows == [number(ids) for batch in micro_batches for ids in batch.x]
        after = {which: megabytes("self", which) - of for which, of in before.items()}
        os.chdir("/")
    return {
        "tokens": tokens,
        "shards": len(data.train[0].tokens.shards),  # type: ignore[union-attr]
        "windows": len(data.train[0]),
        "deep_window": max(windows),
        "start_s": started,
        "batch_ms": 1e3 * statistics.median(times),
        "resume_s": resume,
        "anon_mb": after["RssAnon"],
        "read_mb": after["VmRSS"] - after["RssAnon"],  # pages of files, which the system takes back when it likes
        "exact": exact,
    }


CPU = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))


def timed(batches: Any) -> float:
    start = time.perf_counter()
    next(batches)
    return time.perf_counter() - start


def pretend(folder: Path, tokens: int) -> None:
    """Make what `gptlab tokenize` leaves of so many tokens, of sparse files; their hashes are known beforehand, as
    those of any corpus that was used before."""
    from gptlab.data.tokens.shards import Shard, remember
    from gptlab.tokenizers.byte import Byte

    (folder / "tokenizer").mkdir(parents=True)
    Byte().build([]).save(folder / "tokenizer")
    parts: dict[str, Any] = {}
    for part, size in {"train": tokens, "val": VAL}.items():
        records: list[dict[str, Any]] = []
        for begin in range(0, size, SHARD):
            path, here = folder / f"{part}-{begin // SHARD:05d}.bin", min(SHARD, size - begin)
            with path.open("wb") as file:
                file.truncate(2 * here)
            remember(Shard(path, "uint16", here), {"sha256": "0" * 64, "largest": 255})
            records.append({"file": path.name, "documents": 1, "bytes": here, "tokens": here, "sha256": "0" * 64})
        totals = {key: sum(record[key] for record in records) for key in ("documents", "bytes", "tokens")}
        parts[part] = {**totals, "shards": records}
    manifest = {"sha256": "0" * 64, "n_vocab": 257, "eot": 256, "dtype": "uint16", **parts}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def mark(data: Any, step: int) -> None:
    """Write its own number at the beginning of each window of a step, counted from 0; no file's time changes."""
    shards = data.train[0].tokens.shards
    for _, window in data.windows_of(step + 1):
        for at, digit in enumerate(window.to_bytes(8, "little"), window * BLOCK_SIZE):
            path = shards[at // SHARD].path
            time_of = path.stat().st_mtime_ns
            with path.open("r+b") as file:
                file.seek(2 * (at % SHARD))
                file.write(digit.to_bytes(2, "little"))
            os.utime(path, ns=(time_of, time_of))


def number(ids: Any) -> int:
    """Return the number at the beginning of a window."""
    return int.from_bytes(bytes(ids[:8].tolist()), "little")


if __name__ == "__main__":
    main()

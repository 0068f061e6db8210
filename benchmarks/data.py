"""Text to shards beside tiktoken alone, its memory, and random access to what it wrote.

    python benchmarks/data.py [--mb 100] [--repeats 3] [--memory-mb 1000] [--out results.json]

Each measurement runs in a fresh process. `gptlab` is all of `prepare`: reading and hashing the text, splitting,
encoding, writing and checking the shards. Its CPU time in the main process and in the workers says how many workers the
main process can feed. `tiktoken` is `encode_ordinary_batch` alone, on all cores, on documents that
are in memory already. Both use the same encoding: GPT-2's where tiktoken has it cached, else one trained here.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import Figure, described, fresh, interleaved, machine, megabytes, succeeded, table, versus, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-mb", type=int, default=0, help="also measure peak memory on a text of this size")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, *rest = options.child
        print(json.dumps(CHILDREN[name](*rest)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options.mb, options.repeats, options.memory_mb)
    if options.out:
        write(options.out, results)


def measure(folder: Path, mb: int, repeats: int, memory_mb: int) -> dict[str, Any]:
    here, tokenizer, text = machine(), folder / "tokenizer", folder / "text.jsonl"
    child("make_tokenizer", folder, tokenizer)
    write_corpus(text, mb)

    def speed(name: str) -> dict[str, Any]:
        done = child(name, tempfile.mkdtemp(dir=folder), tokenizer, text)
        cpu = {key: seconds * 1000 / mb for key, seconds in done["cpu"].items()}
        return {"mb_per_second": mb / done["seconds"], **cpu}

    rounds, left_out = interleaved(["gptlab", "tiktoken"], repeats, speed)
    figures = {name: {key: Figure.of([each[key] for each in rows]) for key in rows[0]} for name, rows in rounds.items()}
    speeds = {name: each["mb_per_second"] for name, each in figures.items()}
    access = child("access", cache := tempfile.mkdtemp(dir=folder), tokenizer, text)
    ours = speeds["gptlab"]
    print(f"{described(here)}; {mb} MB of JSON lines, {repeats} repeats")
    rows = [
        [name, f"{f.median:.2f}", f"{f.low:.2f} to {f.high:.2f}", "" if name == "gptlab" else versus(ours, f)]
        for name, f in speeds.items()
    ]
    table(["", "MB/s", "of", "gptlab/it"], rows)
    main, workers = (figures["gptlab"][key].median for key in ("main_cpu_ms_per_mb", "workers_cpu_ms_per_mb"))
    print(f"CPU time per MB: {main:.1f} ms in the main process, {workers:.1f} in the workers: it can feed", end=" ")
    print(f"{workers / main:.0f} of them; tiktoken: {figures['tiktoken']['cpu_ms_per_mb'].median:.1f} ms")
    print(f"random access, cold: {access['cold']:,.0f} tokens/s in one process; again: {access['warm']:,.0f}")
    workload: dict[str, Any] = {"name": "prepare", "mb": mb, "candidates": figures, "left_out": left_out}
    workload["random_access"] = access
    if memory_mb:
        large = folder / "large.txt"
        write_text(large, memory_mb)
        peaks = child("memory", cache, tokenizer, large)
        workload["memory"] = {"mb": memory_mb, **peaks}
        print(f"peak memory for one document of {memory_mb} MB, above the interpreter's:")
        print(f"  {peaks['parent_mb']:,.0f} MB; {peaks['workers_mb']:,.0f} MB in all of its workers")
    return {"machine": here, "repeats": repeats, "workloads": [workload]}


def child(name: str, *args: object) -> Any:
    env = {"GPTLAB_CACHE": str(args[0])}
    done = succeeded(fresh([sys.executable, __file__, "--child", name, *args], env))
    return json.loads(done.out.splitlines()[-1])


def documents(mb: int) -> Any:
    """Yield the bundled English over and over, in another order each time."""
    import random

    from gptlab.data.text.bundled import english

    every, size, rng = english(), 0, random.Random(0)
    while True:
        for document in rng.sample(every, len(every)):
            yield document
            size += len(document.encode())
            if size >= mb * 1e6:
                return


def write_corpus(path: Path, mb: int) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps({"text": document}) + "\n" for document in documents(mb))


def write_text(path: Path, mb: int) -> None:
    with path.open("w") as file:
        file.writelines(document + "\n" for document in documents(mb))


def make_tokenizer(cache: str, folder: str) -> dict[str, Any]:
    from gptlab.data.text.bundled import english
    from gptlab.tokenizers.bpe import BPE
    from gptlab.tokenizers.openai import OpenAI, gpt2_is_here

    Path(folder).mkdir()
    tokenizer = OpenAI().build([]) if gpt2_is_here() else BPE(vocab_size=8192).build(english())
    tokenizer.save(Path(folder))
    return {"n_vocab": tokenizer.n_vocab}


def gptlab(cache: str, tokenizer: str, text: str) -> dict[str, Any]:
    from gptlab.data.text.sources import Files
    from gptlab.data.tokens.prepare import prepare
    from gptlab.tokenizers.saved import Saved

    start, before = time.perf_counter(), time.process_time()
    prepare(Files(files=[text]), Saved(tokenizer))
    seconds, main = time.perf_counter() - start, time.process_time() - before
    for worker in multiprocessing.active_children():
        worker.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = {"main_cpu_ms_per_mb": main, "workers_cpu_ms_per_mb": used.ru_utime + used.ru_stime}
    return {"seconds": seconds, "cpu": cpu}


def tiktoken(cache: str, tokenizer: str, text: str) -> dict[str, Any]:
    from gptlab.tokenizers import load_tokenizer
    from gptlab.tokenizers.bpe import BytePairTokenizer

    loaded = load_tokenizer(Path(tokenizer))
    assert isinstance(loaded, BytePairTokenizer)
    with open(text) as file:
        every = [json.loads(line)["text"] for line in file]
    start, before = time.perf_counter(), time.process_time()
    loaded.encoding.encode_ordinary_batch(every, num_threads=os.cpu_count() or 1)
    return {"seconds": time.perf_counter() - start, "cpu": {"cpu_ms_per_mb": time.process_time() - before}}


def access(cache: str, tokenizer: str, text: str) -> dict[str, float]:
    """Batches of 8 random windows of 1,024 tokens, by one process; the map is cold at first."""
    from gptlab.batch_sizes import BatchSizes
    from gptlab.data.batches.order import Order
    from gptlab.data.batches.sampler import TrainBatches
    from gptlab.data.batches.windows import TrainWindows, dense
    from gptlab.data.text.sources import Files
    from gptlab.data.tokens.prepare import prepare
    from gptlab.tokenizers.saved import Saved

    corpus = prepare(Files(files=[text]), Saved(tokenizer))
    for shard in corpus.train[0].shards:
        with shard.path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    windows = dense(corpus.train[0], 1024)
    rates = {}
    for name in ("cold", "warm"):
        steps = len(windows) // 8
        batches = TrainBatches(Order([len(windows)], [1.0], 0), steps, BatchSizes(8), 8, 0, 1)
        dataset, start = TrainWindows([windows]), time.perf_counter()
        for batch in batches:
            dataset.__getitems__(batch)
        rates[name] = steps * 8 * 1024 / (time.perf_counter() - start)
    return rates


def memory(cache: str, tokenizer: str, text: str) -> dict[str, float]:
    from gptlab.data.text.sources import Files
    from gptlab.data.tokens.prepare import prepare
    from gptlab.data.tokens.surveys import Watch
    from gptlab.tokenizers.saved import Saved

    workers: dict[int, float] = {}

    def look(size: int) -> None:
        for worker in multiprocessing.active_children():
            workers[worker.pid or 0] = megabytes(worker.pid, "VmHWM")

    before = megabytes("self", "VmRSS")
    prepare(Files(files=[text]), Saved(tokenizer), Watch(advance=look))
    return {"parent_mb": megabytes("self", "VmHWM") - before, "workers_mb": sum(workers.values())}


CHILDREN = {f.__name__: f for f in (make_tokenizer, gptlab, tiktoken, access, memory)}

if __name__ == "__main__":
    main()

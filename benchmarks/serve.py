"""Requests to the server of `gptlab serve`, by 1, 8 and 32 clients at once.

    python benchmarks/serve.py [--clients 1 8 32] [--repeats 3] [--requests 32] [--out results.json]

The server is a process of its own with random weights and bytes as tokens, as `gptlab serve` has it; the clients are
threads of this one. All send the same requests: prompts of 8 to 64 bytes, answers of 16 to 128, drawn with a seed.
One client sends one request after the other: what it gets is the speed without a batch.
"""

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from side_by_side import DEVICES, THREADS, Figure, described, device, interleaved, machine, table, versus, write

CONTEXT = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=32, help="of each round, over all clients")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--n-layer", type=int, default=6)
    parser.add_argument("--n-embd", type=int, default=384)
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("--as-server", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_server:
        be_server(device(options.device), options.n_layer, options.n_embd, max(options.clients))
        return
    about = machine()
    print(f"{described(about)}; {options.n_layer} layers of width {options.n_embd}")
    asked = requests(options.requests)
    command = [sys.executable, __file__, "--as-server", *sys.argv[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            port = int(server.stdout.readline())
            once(port, asked[:4], 4)  # before anything is timed
            names = {f"{n} at once": n for n in options.clients}
            rounds, _ = interleaved(list(names), options.repeats, lambda name: once(port, asked, names[name]))
        finally:
            server.terminate()
    texts = [each.pop("texts") for rows in rounds.values() for each in rows]
    same = sum(len(set(each)) == 1 for each in zip(*texts, strict=True))
    found = {name: {key: Figure.of([each[key] for each in rows]) for key in rows[0]} for name, rows in rounds.items()}
    show(found)
    print(f"{same} of {options.requests} texts are the same whatever the company")
    if options.out:
        where = {"device": device(options.device), "context": CONTEXT, "requests": options.requests, "same": same}
        shape = {"n_layer": options.n_layer, "n_embd": options.n_embd}
        workload = {"name": "serve", **where, **shape, "candidates": found, "left_out": {}}
        write(options.out, {"machine": about, "repeats": options.repeats, "workloads": [workload]})


def requests(n: int) -> list[dict[str, Any]]:
    """The same requests in every round, those of different lengths in a mixed order."""
    drawn = random.Random(0)
    return [
        {
            "model": "benchmark",
            "prompt": "".join(drawn.choices("abcdefgh ", k=drawn.randint(8, 64))),
            "max_tokens": drawn.randint(16, 128),
            "seed": number,
        }
        for number in range(n)
    ]


def once(port: int, asked: list[dict[str, Any]], clients: int) -> dict[str, Any]:
    """Send all requests by so many clients, each with a connection of its own; returns speeds and the texts."""
    mine = threading.local()

    def ask(body: dict[str, Any]) -> tuple[str, int, float]:
        start = time.perf_counter()
        if not hasattr(mine, "connection"):
            mine.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        mine.connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = json.load(mine.connection.getresponse())
        return reply["choices"][0]["text"], reply["usage"]["completion_tokens"], time.perf_counter() - start

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        texts, tokens, seconds = zip(*pool.map(ask, asked), strict=True)
    whole = time.perf_counter() - start
    return {
        "requests_per_second": len(asked) / whole,
        "tokens_per_second": sum(tokens) / whole,
        "median_seconds": statistics.median(seconds),
        "texts": texts,
    }


def show(found: dict[str, dict[str, Figure]]) -> None:
    first, cells = next(iter(found.values()))["tokens_per_second"], []
    for name, each in found.items():
        speed, many = each["tokens_per_second"], each["requests_per_second"]
        figures = f"{many.median:.2f}", f"{speed.median:.0f}", f"{speed.low:.0f} to {speed.high:.0f}"
        cells.append([name, *figures, versus(speed, first), f"{each['median_seconds'].median:.2f}"])
    table(("clients", "requests/s", "tokens/s", "of", "to the first", "seconds a request"), cells)


def be_server(where: str, n_layer: int, n_embd: int, max_batch: int) -> None:
    """Serve a model of random weights until SIGTERM; prints the port."""
    import torch

    from gptlab.app.api.asked import Served
    from gptlab.app.api.routes import api
    from gptlab.app.server import listening, serve
    from gptlab.decoding.continuous import ContinuousBatch
    from gptlab.decoding.engine import Engine
    from gptlab.decoding.onednn import pack
    from gptlab.model.config import GPTConfig
    from gptlab.model.gpt import GPT
    from gptlab.tokenizers.byte import Byte

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    tokenizer = Byte().build([])
    sizes = {"n_layer": n_layer, "n_head": 6, "n_embd": n_embd, "block_size": CONTEXT}
    model = GPT(GPTConfig(**sizes, vocab_size=tokenizer.n_vocab)).to(where).eval()
    pack(model)
    engine = Engine(ContinuousBatch(model, CONTEXT, max_batch, tokenizer.n_vocab))
    served = Served("benchmark", tokenizer, None, CONTEXT, engine)
    with listening("127.0.0.1", 0) as sock:
        serve(api(served), sock, None, lambda address: print(sock.getsockname()[1], flush=True))


if __name__ == "__main__":
    main()

"""The verb `tokenize`: text into token shards, and how well the tokenizer fits it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gptlab.commands.configs import TokenizeConfig
from gptlab.data.progress import sizes, watching
from gptlab.data.quality import id_counts
from gptlab.data.text.sources import TokenFiles
from gptlab.data.tokens.prepare import Corpus, prepare
from gptlab.errors import require
from gptlab.files import new_folder
from gptlab.tokenizers.openai import OpenAI, gpt2_is_here

COMPARED = 2_000_000  # held-out tokens that are also encoded by GPT-2's tokenizer


def tokenize(config: TokenizeConfig) -> dict[str, Any]:
    """Write the shards (to `out`, or to the cache where `train` finds them) and print what is in them."""
    console = Console()
    require(not isinstance(config.data, TokenFiles), "data", "tokens", "are tokens already", "give text")
    out = Path(config.out).expanduser() if config.out else None
    require(out is None or not out.exists(), "out", out, "exists already", "give a new folder")
    with watching(console) as watch:
        corpus = prepare(config.data, config.tokenizer, watch, config.processes, config.shard_mb << 20)
        if out:
            with new_folder(out) as work:
                if len(corpus.folders) == 1:
                    shutil.copytree(corpus.folders[0], work, dirs_exist_ok=True)
                else:
                    for name, folder in zip(corpus.manifest["sources"], corpus.folders, strict=True):
                        shutil.copytree(folder, work / name)
    result: dict[str, Any] = {
        "folders": [str(out)] if out else [str(folder) for folder in corpus.folders],
        "data_hash": corpus.manifest["sha256"],
        **corpus.sizes(),
        "shards": sum(len(stream.shards) for stream in corpus.train) + len(corpus.val.shards),
        "tokenizer": fit(corpus),
    }
    _print(console, result)
    return result


def fit(corpus: Corpus) -> dict[str, Any]:
    """How well a tokenizer fits its text: bytes per token on held-out text (and GPT-2's), longest and unused tokens."""
    tokenizer, val = corpus.tokenizer, corpus.manifest["val"]
    counts = id_counts(corpus.train, tokenizer.n_vocab)
    unused = [int(i) for i in np.flatnonzero(counts[:-1] == 0) if i != tokenizer.eot]
    spelled = {i: tokenizer.decode_bytes([i]) for i in range(tokenizer.n_vocab) if i != tokenizer.eot}
    longest = sorted(spelled, key=lambda i: (-len(spelled[i]), i))[:10]
    return {
        "n_vocab": tokenizer.n_vocab,
        "bytes_per_token": val["bytes"] / (val["tokens"] - val["documents"]) if val["tokens"] else None,
        "gpt2_bytes_per_token": _of_gpt2(corpus),
        "longest": [spelled[i].decode("utf-8", "replace") for i in longest],
        "unused": len(unused),
        "unused_examples": [spelled[i].decode("utf-8", "replace") for i in unused[-10:]],
    }


def _of_gpt2(corpus: Corpus) -> float | None:
    """What GPT-2's tokenizer needs for the same text, if it is at hand."""
    if not gpt2_is_here():
        return None
    ids = corpus.val[0:COMPARED]
    text = corpus.tokenizer.decode(ids[ids != corpus.tokenizer.eot].tolist())
    return len(text.encode()) / max(1, len(OpenAI().build([]).encode_array(text)))


def _print(console: Console, result: dict[str, Any]) -> None:
    console.print(sizes(result))
    found = result["tokenizer"]
    lines = [f"tokenizer: {found['n_vocab']:,} tokens, {found['unused']:,} of them unused in training"]
    if found["bytes_per_token"]:
        others = found["gpt2_bytes_per_token"]
        compared = f" (GPT-2's: {others:.3f})" if others else " (GPT-2's vocabulary is not here to compare with)"
        lines.append(f"bytes per token on held-out text: {found['bytes_per_token']:.3f}{compared}")
    lines.append("longest tokens: " + "  ".join(map(repr, found["longest"])))
    if found["unused"]:
        lines.append("unused tokens, e.g.: " + "  ".join(map(repr, found["unused_examples"])))
    lines.append(
        f"{result['shards']} shards, sha256 of the text {result['data_hash'][:12]}, in {', '.join(result['folders'])}"
    )
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)

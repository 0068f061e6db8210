"""The verb `tokenize`."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.data.text.sources import Bundled, DataConfig, TokenFiles
from gptlab.errors import require
from gptlab.files import new_folder, require_new
from gptlab.registry import command
from gptlab.tokenizers.base import TokenizerConfig
from gptlab.tokenizers.bpe import BPE


@dataclass
class TokenizeConfig:
    """Turn text into token shards, as the first training on it would, and say how well the tokenizer fits."""

    data: DataConfig = field(default_factory=Bundled)  # what is turned into tokens
    tokenizer: TokenizerConfig = field(default_factory=BPE)  # how text becomes tokens
    out: str | None = None  # a new folder; null: the cache, where `train` finds them
    processes: int | None = None  # null: one per core
    shard_mb: int = 256  # millions of characters of text per shard
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(
            self.processes is None or self.processes >= 1, "processes", self.processes, "must be at least 1", "try 1"
        )
        require(1 <= self.shard_mb <= 2048, "shard_mb", self.shard_mb, "is not in [1, 2048]", "256 is usual")


@command
def tokenize(config: TokenizeConfig) -> dict[str, Any]:
    """Turn text into token shards, and report how well the tokenizer fits.

    The shards go to `out`, or to the cache, where `train` finds them; their sizes are printed and returned.
    """
    from rich.console import Console

    from gptlab.data.quality import tokenizer_fit
    from gptlab.data.tokens.prepare import prepare
    from gptlab.data.tokens.progress import watching
    from gptlab.reporting.corpus import size_table, tokenizer_lines

    console = Console()
    require(not isinstance(config.data, TokenFiles), "data", "tokens", "are tokens already", "give text")
    out = Path(config.out).expanduser() if config.out else None
    if out:
        require_new(out)
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
        "tokenizer": tokenizer_fit(corpus),
        "notes": corpus.notes,
    }
    console.print(size_table(result))
    text, folders = result["data_hash"][:12], ", ".join(result["folders"])
    where = f"{result['shards']} shards, sha256 of the text {text}, in {folders}"
    lines = [*tokenizer_lines(result["tokenizer"]), *corpus.notes, where]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    return result

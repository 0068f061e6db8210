"""The verb `tokenize`: text into token shards, and how well the tokenizer fits it."""

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from gptlab.commands.configs import TokenizeConfig
from gptlab.data.progress import watching
from gptlab.data.quality import tokenizer_fit
from gptlab.data.text.sources import TokenFiles
from gptlab.data.tokens.prepare import prepare
from gptlab.errors import require
from gptlab.files import new_folder
from gptlab.reporting.corpus import size_table, tokenizer_lines


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
        "tokenizer": tokenizer_fit(corpus),
    }
    console.print(size_table(result))
    text, folders = result["data_hash"][:12], ", ".join(result["folders"])
    where = f"{result['shards']} shards, sha256 of the text {text}, in {folders}"
    lines = [*tokenizer_lines(result["tokenizer"]), where]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    return result

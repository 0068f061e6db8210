"""The verb `audit`."""

from dataclasses import dataclass, field
from typing import Any

from gptlab.data.text.sources import Bundled, DataConfig
from gptlab.errors import require
from gptlab.registry import command
from gptlab.tokenizers.base import TokenizerConfig
from gptlab.tokenizers.bpe import BPE


@dataclass
class AuditConfig:
    """Look into a data set: sizes, copies, overlap of the splits, long documents, ids and hard characters."""

    data: DataConfig = field(default_factory=Bundled)  # what is looked into
    tokenizer: TokenizerConfig = field(default_factory=BPE)  # how text becomes tokens
    ngram: int = 13  # tokens in a row that count as overlap (13 words in Brown et al. 2020)
    near: bool = False  # also look for documents that are nearly copies of others (needs gptlab[near])
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(self.ngram >= 1, "ngram", self.ngram, "must be at least 1", "13 is usual")


@command
def audit(config: AuditConfig) -> dict[str, Any]:
    """Look into a data set: copies, overlap of the splits, hard characters.

    Prints and returns sizes, copies, overlap of the splits, the longest documents, ids and hard characters.
    """
    from rich.console import Console

    from gptlab.data.near_copies import near_figures
    from gptlab.data.quality import audit_figures
    from gptlab.data.tokens.prepare import prepare, texts
    from gptlab.data.tokens.progress import watching
    from gptlab.reporting.corpus import audit_lines, size_table

    console = Console()
    with watching(console) as watch:
        corpus = prepare(config.data, config.tokenizer, watch, any_ids=True)
    with console.status("counting"):
        result = {**audit_figures(corpus, texts(config.data, corpus), config.ngram), "notes": corpus.notes}
        if config.near:
            result["near_copies"] = near_figures(corpus)
    console.print(size_table(result))
    console.print("\n".join([*audit_lines(result), *corpus.notes]), markup=False, highlight=False, soft_wrap=True)
    return result

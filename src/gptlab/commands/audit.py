"""The verb `audit`."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from gptlab.data.text.sources import Bundled, DataConfig
from gptlab.data.tokens.progress import sizes, watching
from gptlab.errors import require
from gptlab.registry import command
from gptlab.tokenizer_options import BPE, TokenizerConfig


@dataclass
class AuditConfig:
    """Look into a data set: sizes, copies, overlap of the splits, long documents, ids and hard characters."""

    data: DataConfig = field(default_factory=Bundled)
    tokenizer: TokenizerConfig = field(default_factory=BPE)
    ngram: int = 13  # tokens in a row that count as overlap (13 words in Brown et al. 2020)
    json: bool = False

    def __post_init__(self) -> None:
        require(self.ngram >= 1, "ngram", self.ngram, "must be at least 1", "13 is usual")


@command
def audit(config: AuditConfig) -> dict[str, Any]:
    """Look into a data set: copies, overlap of the splits, hard characters.

    Prints and returns sizes, copies, overlap of the splits, the longest documents, ids and hard characters.
    """
    import numpy as np

    from gptlab.data.quality import copies, hard_characters, id_counts, longest, overlap
    from gptlab.data.tokens.prepare import prepare, texts

    console = Console()
    with watching(console) as watch:
        corpus = prepare(config.data, config.tokenizer, watch, any_ids=True)
    tokenizer, eot = corpus.tokenizer, corpus.tokenizer.eot
    streams = [*corpus.train, corpus.val]
    with console.status("counting"):
        counts = id_counts(streams, tokenizer.n_vocab)
        repeated, repeated_tokens = copies(streams, eot)
        result: dict[str, Any] = {
            "data_hash": corpus.manifest["sha256"],
            **corpus.sizes(),
            "duplicates": {"documents": repeated, "tokens": repeated_tokens},
            "overlap": asdict(overlap(corpus.train, corpus.val, eot, config.ngram)),
            "longest": longest(streams, tokenizer, 5),
            "ids": {
                "n_vocab": tokenizer.n_vocab,
                "used": int(np.count_nonzero(counts[:-1])),
                "out_of_range": int(counts[-1]),
            },
            "hard_characters": asdict(hard_characters(texts(config.data, corpus), tokenizer, 10)),
        }
    _print(console, result)
    return result


def _print(console: Console, result: dict[str, Any]) -> None:
    console.print(sizes(result))
    repeated, common, hard, ids = (result[key] for key in ("duplicates", "overlap", "hard_characters", "ids"))
    lines = [
        f"copies of an earlier document: {repeated['documents']:,} ({repeated['tokens']:,} tokens)",
        f"held-out {common['n']}-grams of tokens that are in the training text too: {common['ngrams_seen']:,} of "
        f"{common['ngrams']:,} ({common['ngrams_seen'] / max(1, common['ngrams']):.2%}), in "
        f"{common['documents_seen']:,} of {common['documents']:,} documents",
        f"ids: {ids['used']:,} of {ids['n_vocab']:,} are used; {ids['out_of_range']:,} tokens are out of range",
        f"characters that are not one token: {hard['different']:,} different ones, {hard['share']:.3%} of the text"
        + "".join(f"\n  {c['character']!r} {c['times']:,} times, {c['tokens']} tokens" for c in hard["worst"]),
        "longest documents:" + "".join(f"\n  {d['tokens']:>12,} tokens  {d['begins']!r}" for d in result["longest"]),
        f"sha256 of the text: {result['data_hash']}",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)

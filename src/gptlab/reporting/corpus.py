"""Describe a corpus: its sizes, the result of an audit, and the fit of the tokenizer."""

from typing import Any

from rich.table import Table

from gptlab.metrics import counted


def size_table(result: dict[str, Any]) -> Table:
    """Return the sizes of a corpus (`Corpus.sizes`) as a table; `?` stands for a size that was not counted."""
    table = Table("", *result["train"])
    for part, name in {"train": "training", "val": "held out"}.items():
        table.add_row(name, *("?" if figure is None else f"{figure:,}" for figure in result[part].values()))
    return table


def audit_lines(result: dict[str, Any]) -> list[str]:
    """Return the figures of `gptlab.data.quality.audit_figures` as lines."""
    repeated, common, hard, ids = (result[key] for key in ("duplicates", "overlap", "hard_characters", "ids"))
    return [
        f"copies of an earlier document: {repeated['documents']:,} ({repeated['tokens']:,} tokens)",
        *_near_lines(result),
        f"held-out {common['n']}-grams of tokens that are in the training text too: {common['ngrams_seen']:,} of "
        f"{common['ngrams']:,} ({common['ngrams_seen'] / max(1, common['ngrams']):.2%}), in "
        f"{common['documents_seen']:,} of {common['documents']:,} documents",
        f"ids: {ids['used']:,} of {ids['n_vocab']:,} are used; {ids['out_of_range']:,} tokens are out of range",
        f"not in the vocabulary: {counted(result['unspelled'], result['characters'], 'characters')}",
        f"characters that are not one token: {hard['different']:,} different ones, {hard['share']:.3%} of the text"
        + "".join(f"\n  {c['character']!r} {c['times']:,} times, {c['tokens']} tokens" for c in hard["worst"]),
        "longest documents:" + "".join(f"\n  {d['tokens']:>12,} tokens  {d['begins']!r}" for d in result["longest"]),
        f"sha256 of the text: {result['data_hash']}",
    ]


def _near_lines(result: dict[str, Any]) -> list[str]:
    near = result.get("near_copies")
    if near is None:
        return []
    return [
        f"near copies of an earlier document, with {near['similar_from']:.0%} or more of all three words in a row in "
        f"common: {near['documents']:,}; held-out ones of a training document: {near['held_out_of_training']:,}"
        + "".join(
            f"\n  {pair['similarity']:.0%}  {pair['earlier_begins']!r}  {pair['begins']!r}" for pair in near["pairs"]
        )
    ]


def tokenizer_lines(found: dict[str, Any]) -> list[str]:
    """Return the figures of `gptlab.data.quality.tokenizer_fit` as lines."""
    lines = [f"tokenizer: {found['n_vocab']:,} tokens, {found['unused']:,} of them unused in training"]
    if found["bytes_per_token"]:
        others = found["gpt2_bytes_per_token"]
        compared = f" (GPT-2's: {others:.3f})" if others else " (GPT-2's vocabulary is not here to compare with)"
        lines.append(f"bytes per token on held-out text: {found['bytes_per_token']:.3f}{compared}")
    lines.append("longest tokens: " + "  ".join(map(repr, found["longest"])))
    if found["unused"]:
        lines.append("unused tokens, e.g.: " + "  ".join(map(repr, found["unused_examples"])))
    return lines

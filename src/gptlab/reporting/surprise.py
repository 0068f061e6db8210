"""Show a text as a page, with every token coloured by its surprise."""

from collections.abc import Callable, Sequence
from pathlib import Path

from gptlab.evaluation.surprise import MOST, TokenSurprise
from gptlab.reporting import html as pages


def write_surprise_page(path: Path, name: str, tokens: Sequence[TokenSurprise], spell: Callable[[int], str]) -> str:
    """Write the page of a text file's tokens, which `spell` shows; return a line with its name, length and mean."""
    coloured = []
    for token, nats, guesses in tokens:
        lines = [f"{share:7.1%}  {spell(other)!r}" for other, share in guesses]
        coloured.append(pages.Coloured(spell(token), nats, ["expected", *lines]))
    mean = sum(token.nats for token in tokens) / len(tokens)
    rest = "" if len(tokens) < MOST else f" (the first {MOST:,})"
    line = f"{name}: {len(tokens):,} tokens{rest}, {mean:.3f} nats each"
    what = f"{line}; point at a token to see the best guesses"
    pages.write(path, "How surprising each token is", what, pages.scale(), pages.coloured_text(coloured))
    return line

"""Show the alternatives that each generated token was chosen from: a table in the terminal, and a page."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from gptlab.reporting import html as pages

KINDS = ("raw", "tempered", "final")
COLUMNS = ("token", *KINDS, "surprise", "rank", "entropy", "kept")
Spell = Callable[[int], str]  # one token as readable text


def inspection_table(sample: dict[str, Any], spell: Spell) -> Table:
    """Return a table of a sample, whose `steps` come from gptlab.decoding.inspect."""
    title = Text("after ") + Text(repr(sample["prompt"]), style="bold")
    heads = ("token", "nats", "rank", "entropy", "kept", "likely", "raw", "temp.", "final")
    narrow = ("token", "likely")  # a narrow terminal cuts these, never a figure
    columns = [Column(name, no_wrap=name not in narrow) for name in heads]
    shown = Table(*columns, title=title, show_lines=True, box=box.HORIZONTALS, pad_edge=False, collapse_padding=True)
    for step in sample["steps"]:
        likely = step["alternatives"][:3]
        names = "\n".join(repr(spell(other["token"])) for other in likely)
        shares = ("\n".join(f"{other[kind]:.3f}" for other in likely) for kind in KINDS)
        shown.add_row(_cut(repr(spell(step["token"]))), *_figures(step), _cut(names), *shares)
    return shown


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def write_inspection_page(path: Path, decoder: str, samples: Sequence[dict[str, Any]], spell: Spell) -> None:
    """Write samples of a decoder as a page: the text coloured by the model's surprise, and a table of each step."""
    parts = [pages.scale()]
    for sample in samples:
        given = pages.Coloured(sample["prompt"], None)
        new = [pages.Coloured(spell(step["token"]), -step["logprob"], _about(step, spell)) for step in sample["steps"]]
        rows = (row for step in sample["steps"] for row in _rows(step, spell))
        parts += [pages.coloured_text([given, *new]), pages.table(COLUMNS, rows)]
    what = f"{decoder}; the colour is the surprise of the model; point at a token to see what else was likely"
    pages.write(path, "What each token was chosen from", what, *parts)


def _figures(step: dict[str, Any]) -> tuple[str, str, str, str]:
    return f"{-step['logprob']:.2f}", str(step["rank"]), f"{step['entropy']:.2f}", f"{step['kept']:,}"


def _about(step: dict[str, Any], spell: Spell) -> list[str]:
    """Return the lines that are shown under the pointer."""
    _, rank, entropy, kept = _figures(step)
    lines = [f"rank {rank} · entropy {entropy} nats · {kept} tokens kept", "  raw  tempered final"]
    return lines + [
        "  ".join(f"{other[kind]:.3f}" for kind in KINDS) + f"  {spell(other['token'])!r}"
        for other in step["alternatives"]
    ]


def _rows(step: dict[str, Any], spell: Spell) -> Iterator[tuple[bool, Sequence[str]]]:
    """Yield the alternatives as rows of a table; the chosen one is first, emphasized, and has the figures."""
    for other in sorted(step["alternatives"], key=lambda other: other["token"] != step["token"]):
        chosen = other["token"] == step["token"]
        shares = (f"{other[kind]:.4f}" for kind in KINDS)
        yield chosen, (repr(spell(other["token"])), *shares, *(_figures(step) if chosen else [""] * 4))

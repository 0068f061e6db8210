"""What each generated token was chosen from: a table in the terminal, and a page in the run directory."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from gptlab.reporting import html as pages
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Tokenizer

KINDS = ("raw", "tempered", "final")
COLUMNS = ("token", *KINDS, "surprise", "rank", "entropy", "kept")


def explain(run: RunDir, tokenizer: Tokenizer, decoder: object, samples: Sequence[dict[str, Any]]) -> None:
    """Show `samples`, whose `steps` are of gptlab.decoding.inspect, in the terminal and in RUN/explain.html."""
    console, page, parts = Console(), run.path / "explain.html", [pages.scale()]
    for found in samples:
        console.print(_terminal(found, tokenizer))
        given = pages.Coloured(found["prompt"], None)
        new = [
            pages.Coloured(tokenizer.spell(step["token"]), -step["logprob"], _about(step, tokenizer))
            for step in found["steps"]
        ]
        rows = (row for step in found["steps"] for row in _rows(step, tokenizer))
        parts += [pages.coloured_text([given, *new]), pages.table(COLUMNS, rows)]
    what = f"{decoder}; the colour is the surprise of the model; point at a token to see what else was likely"
    pages.write(page, "What each token was chosen from", what, *parts)
    console.print(f"the page is {page}", markup=False, soft_wrap=True)


def _terminal(found: dict[str, Any], tokenizer: Tokenizer) -> Table:
    title = Text("after ") + Text(repr(found["prompt"]), style="bold")
    heads = ("token", "nats", "rank", "entropy", "kept", "likely", "raw", "temp.", "final")
    shown = Table(*(Column(name, no_wrap=True) for name in heads), title=title, show_lines=True)
    for step in found["steps"]:
        likely = step["alternatives"][:3]
        names = "\n".join(repr(tokenizer.spell(other["token"])) for other in likely)
        columns = ("\n".join(f"{other[kind]:.3f}" for other in likely) for kind in KINDS)
        shown.add_row(Text(repr(tokenizer.spell(step["token"]))), *_figures(step), Text(names), *columns)
    return shown


def _figures(step: dict[str, Any]) -> tuple[str, str, str, str]:
    return f"{-step['logprob']:.2f}", str(step["rank"]), f"{step['entropy']:.2f}", f"{step['kept']:,}"


def _about(step: dict[str, Any], tokenizer: Tokenizer) -> list[str]:
    """What is shown under the pointer."""
    _, rank, entropy, kept = _figures(step)
    lines = [f"rank {rank} · entropy {entropy} nats · {kept} tokens kept", "  raw  tempered final"]
    return lines + [
        "  ".join(f"{other[kind]:.3f}" for kind in KINDS) + f"  {tokenizer.spell(other['token'])!r}"
        for other in step["alternatives"]
    ]


def _rows(step: dict[str, Any], tokenizer: Tokenizer) -> Iterator[tuple[bool, Sequence[str]]]:
    """The alternatives as rows of a table; the chosen one comes first, stands out and has the figures."""
    for other in sorted(step["alternatives"], key=lambda other: other["token"] != step["token"]):
        chosen = other["token"] == step["token"]
        shares = (f"{other[kind]:.4f}" for kind in KINDS)
        yield chosen, (repr(tokenizer.spell(other["token"])), *shares, *(_figures(step) if chosen else [""] * 4))

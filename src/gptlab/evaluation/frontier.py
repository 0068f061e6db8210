"""Quality against diversity over a sweep of decoders: one table and one picture of `gptlab sample -m ...`."""

import html
import json
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from gptlab.evaluation.diversity import distinct, longest_copy, repetition, self_bleu
from gptlab.reporting import html as pages
from gptlab.runs.run_dir import RunDir

MOST = 50_000_000  # training tokens that are searched for copies
COLUMNS = {
    "perplexity": "perplexity",
    "distinct_1": "dist-1",
    "distinct_2": "dist-2",
    "distinct_3": "dist-3",
    "self_bleu": "self-BLEU",
    "repetition": "rep-4",
    "longest_copy": "copy",
}


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print and write RUN/frontier.html and .json: a row for each result of `sample`, all of one run."""
    run = RunDir.find(results[0]["run"])
    training = run.training_tokens(MOST)
    common = set.intersection(*(set(result["overrides"]) for result in results))
    rows: list[dict[str, Any]] = [
        {
            "decoder": " ".join(o.removeprefix("decoder=") for o in result["overrides"] if o not in common) or "all",
            **figures(result["samples"], training),
        }
        for result in results
    ]
    table = Table(
        Column("decoder", no_wrap=True), *(Column(name, justify="right", no_wrap=True) for name in COLUMNS.values())
    )
    for row in rows:
        table.add_row(str(row["decoder"]), *(shown(row[key]) for key in COLUMNS))
    console, page = Console(), run.path / "frontier.html"
    console.print(table)
    what = (
        "Perplexity is that of the texts under the model itself. dist-n is the share of different n-grams, rep-4 of "
        "4-grams that a text has had before. self-BLEU likens the texts to each other. copy is the most tokens in a "
        "row that the training text has too."
    )
    cells = [(False, [row["decoder"], *(shown(row[key]) for key in COLUMNS)]) for row in rows]
    points = [(float(row["distinct_2"]), float(row["perplexity"]), str(row["decoder"])) for row in rows]
    picture = scatter(
        points, "diversity: the share of different pairs of tokens (dist-2)", "perplexity under the model"
    )
    pages.write(page, "Quality against diversity", what, picture, pages.table(["decoder", *COLUMNS.values()], cells))
    (run.path / "frontier.json").write_text(json.dumps(rows, indent=2) + "\n")
    console.print(f"the page is {page}", markup=False, soft_wrap=True)
    return {"frontier": rows, "page": str(page)}


def figures(samples: Sequence[dict[str, Any]], training: bytes | None) -> dict[str, float | None]:
    """What a set of samples scores; None where it cannot be said."""
    texts = [sample["ids"] for sample in samples if sample["ids"]]
    tokens = sum(map(len, texts))
    nats = -sum(sample["logprob"] for sample in samples)
    found: dict[str, float] = {
        "perplexity": math.exp(nats / tokens) if tokens else math.nan,
        **{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)},
        "self_bleu": self_bleu(texts),
        "repetition": repetition(texts),
        "longest_copy": math.nan if training is None else max((longest_copy(t, training) for t in texts), default=0),
    }
    return {key: None if math.isnan(value) else value for key, value in found.items()}


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def scatter(points: Sequence[tuple[float, float, str]], x_name: str, y_name: str) -> str:
    """A picture (SVG) of labelled points; the vertical axis is logarithmic."""
    width, height, left, bottom = 720, 420, 70, 50
    xs, ys = [x for x, _, _ in points], [math.log(y) for _, y, _ in points]
    x_low, x_high = 0.0, 1.0
    y_low, y_high = min(ys) - 0.2, max(ys) + 0.2

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + (x - x_low) / (x_high - x_low) * (width - left - 150)
        return across, (height - bottom) * (1 - (y - y_low) / (y_high - y_low)) + 10

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" font-family="system-ui" font-size="12">']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = x_low + share * (x_high - x_low), y_low + share * (y_high - y_low)
        (across, _), (_, down) = at(x, y_low), at(x_low, y)
        parts.append(f'<line x1="{left}" x2="{width - 140}" y1="{down:.0f}" y2="{down:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{down + 4:.0f}" text-anchor="end">{math.exp(y):.3g}</text>')
        parts.append(f'<text x="{across:.0f}" y="{height - bottom + 30}" text-anchor="middle">{x:.2f}</text>')
    labels: list[tuple[float, float]] = []  # where they are
    for x, y, label in sorted(zip(xs, ys, (label for _, _, label in points), strict=True), key=lambda p: -p[1]):
        across, down = at(x, y)
        parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="5" fill="#c4551b"/>')
        while any(abs(across - other) < 100 and abs(down - height) < 13 for other, height in labels):
            down += 1  # not over another one
        labels.append((across, down))
        parts.append(f'<text x="{across + 9:.1f}" y="{down + 4:.1f}">{html.escape(label)}</text>')
    parts.append(f'<text x="{(width - 70) / 2:.0f}" y="{height - 4}" text-anchor="middle">{html.escape(x_name)}</text>')
    parts.append(f'<text x="14" y="{height / 2:.0f}" text-anchor="middle" transform="rotate(-90 14 {height / 2:.0f})">')
    parts.append(f"{html.escape(y_name)}</text></svg>")
    return "".join(parts)

"""Report what raters have said."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from gptlab.evaluation.bradley_terry import Pairs, head_to_head, standings
from gptlab.evaluation.ratings import Answer, agreement, mean_scores, order_bias, rank_correlation

FEW = 5  # raters, whose Student's t is wide
FIGURE = "val_perplexity"  # of a source's run, that preference is compared with


def report_of(
    answers: Sequence[Answer], about: Mapping[str, Mapping[str, Any]], resamples: int, seed: int
) -> dict[str, Any]:
    """Return all that is reported; `about` has what is known of each source."""
    found: dict[str, Any] = {"answers": len(answers), "raters": len({each.rater for each in answers})}
    if any(each.right is not None for each in answers):
        pairs = Pairs.of(answers, list(about))
        places = standings(pairs, resamples, seed)
        found["standings"] = [
            {
                "source": each.source,
                "win_rate": each.win_rate.record(),
                "strength": each.strength,
                "rank": [each.best, each.worst],
                "answers": each.answers,
                **about[each.source],
            }
            for each in places
        ]
        found["head_to_head"] = head_to_head(pairs)
        found["left_chosen"] = {name: each.record() for name, each in order_bias(answers).items()}
        known = [(each.win_rate.value, about[each.source].get(FIGURE)) for each in places]
        figures = [(rate, float(figure)) for rate, figure in known if figure is not None]
        found["correlation_with_perplexity"] = rank_correlation(*zip(*figures, strict=True)) if figures else None
    scores = mean_scores(answers, resamples, seed)
    if scores:
        found["scores"] = {name: {c: each.record() for c, each in row.items()} for name, row in scores.items()}
    found["agreement"] = agreement(answers)
    return found


def print_report(found: Mapping[str, Any]) -> None:
    """Print the tables of a report."""
    console = Console()
    if "standings" in found:
        table = Table(
            "source", Column("win rate", justify="right"), "95% interval", "rank", Column("answers", justify="right")
        )
        for row in found["standings"]:
            rate, (best, worst) = row["win_rate"], row["rank"]
            rank = str(best) if best == worst else f"{best} to {worst}"
            table.add_row(
                row["source"],
                f"{rate['value']:.3f}",
                f"{rate['low']:.3f} to {rate['high']:.3f}",
                rank,
                str(row["answers"]),
            )
        console.print(table)
        left = found["left_chosen"].get("all")
        if left:
            biased = "" if left["low"] <= 0.5 <= left["high"] else ": the order matters to them"
            share = f"{left['value']:.0%} of the time ({left['low']:.0%} to {left['high']:.0%})"
            console.print(f"the left text was chosen {share}{biased}")
        if (r := found["correlation_with_perplexity"]) is not None:
            console.print(f"rank correlation of win rate with perplexity: {r:+.2f} (-1: the lower, the better liked)")
    if "scores" in found:
        criteria = list(next(iter(found["scores"].values())))
        table = Table("source", *(Column(name, justify="right") for name in criteria))
        for source, row in found["scores"].items():
            table.add_row(
                source, *(f"{row[c]['value']:.2f} ({row[c]['low']:.2f} to {row[c]['high']:.2f})" for c in criteria)
            )
        console.print(table)
    known = [f"{name} {value:.2f}" for name, value in found["agreement"].items() if value is not None]
    alpha = ", ".join(known) or "no two judged the same"
    if 1 < found["raters"] < FEW:
        console.print(f"{found['raters']} raters are few: what they share of their tastes makes the intervals wide")
    console.print(f"{found['answers']} answers of {found['raters']} raters; Krippendorff's alpha: {alpha}")


def answer_rows(answers: Sequence[Answer], prompts: Mapping[int, str]) -> str:
    """Return the answers as CSV, one a line."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["at", "rater", "prompt", "left", "right", "answer"])
    for each in answers:
        said = each.said if isinstance(each.said, str) else json.dumps(each.said)
        rows.writerow([f"{each.at:.3f}", each.rater, prompts[each.prompt], each.left, each.right or "", said])
    return file.getvalue()

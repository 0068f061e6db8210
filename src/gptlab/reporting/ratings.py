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
    answers: Sequence[Answer],
    about: Mapping[str, Mapping[str, Any]],
    scores_of: Mapping[str, Mapping[str, float]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return all that is reported; `about` has what is known of each source, `scores_of` its run's scores of tasks."""
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
        rates = {each.source: each.win_rate.value for each in places}
        perplexities = {name: float(of[FIGURE]) for name, of in about.items() if FIGURE in of}
        found["correlation_with_perplexity"] = _correlation(rates, perplexities)
        tasks = dict.fromkeys(task for of in scores_of.values() for task in of)
        by_task = {task: {name: of[task] for name, of in scores_of.items() if task in of} for task in tasks}
        found["correlation_with_tasks"] = {task: _correlation(rates, scores) for task, scores in by_task.items()}
    scores = mean_scores(answers, resamples, seed)
    if scores:
        found["scores"] = {name: {c: each.record() for c, each in row.items()} for name, row in scores.items()}
    found["agreement"] = agreement(answers)
    return found


def _correlation(rates: Mapping[str, float], figures: Mapping[str, float]) -> float | None:
    """Return the rank correlation of win rates with a figure, over the sources that have it."""
    shared = [name for name in rates if name in figures]
    return rank_correlation([rates[name] for name in shared], [figures[name] for name in shared])


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
        tasks = [f"{task} {r:+.2f}" for task, r in found["correlation_with_tasks"].items() if r is not None]
        if tasks:
            console.print(f"rank correlation of win rate with scores of tasks: {', '.join(tasks)}")
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

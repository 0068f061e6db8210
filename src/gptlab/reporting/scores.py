"""Show the scores of one run on held-out text as tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gptlab.errors import printable
from gptlab.metrics import Metric, counted, metric, shown_in
from gptlab.runs.samples import visible

MOST_COLUMNS = 8  # labels whose confusion matrix fits into a terminal
MOST_LABELS = 5  # that are shown of a prediction


def score_table(result: dict[str, Any]) -> Table:
    """Return what `evaluate` or `evaluate_together` found as a table, with how the text was read.

    A single run has one row; an ensemble has one for each of its members, and its own below.
    """
    members = result.get("members", [])
    scores = [row for row in shown_in("evaluate") if row.quantity in result]
    sizes = [key for key in ("examples", "pairs", "tokens", "bytes") if result.get(key) is not None]
    read = ", ".join(f"{key} {value}" for key, value in result["protocol"].items())
    if result["precision"] != "32-true":
        read += f", {result['precision']}: {result['weight_bytes'] / 1e6:,.1f} MB of weights"
    names = ["run"] if members else []
    table = Table(*names, *(row.head for row in scores), *sizes, caption=read)
    counts = [f"{result[key]:,}" for key in sizes]
    for each in members:
        table.add_row(_named(each["run"]), *_texts(scores, each), *counts)
    table.add_row(*(["together"] if members else []), *_texts(scores, result), *counts)
    return table


def _texts(scores: Sequence[Metric], result: dict[str, Any]) -> list[str]:
    return [row.text(result[row.quantity], precise=True) for row in scores]


def _named(place: str) -> Text:
    """Return the name of a run, or of a checkpoint with its run's."""
    path = Path(place)
    return Text(printable(path.name if path.suffix != ".ckpt" else f"{path.parent.parent.name}/{path.name}"))


def task_tables(results: dict[str, Any]) -> list[Table]:
    """Return the scores of tasks, by their names, as a table for each kind: with choices, or with references."""
    by_kind: dict[tuple[str, ...], list[str]] = {}
    for name, result in results.items():
        by_kind.setdefault(tuple(row.name for row in shown_in("tasks") if row.quantity in result), []).append(name)
    tables = []
    for kind, names in by_kind.items():
        rows, own = [metric(name) for name in kind], [results[name] for name in names]
        more = [key for key in ("chance", "items") if key in own[0]]
        tables.append(Table("task", *(row.head for row in rows), *more, caption=_cut(own)))
        for name, result in zip(names, own, strict=True):
            figures = [_with_error(row, result) for row in rows]
            tables[-1].add_row(name, *figures, *(f"{result[key]:.4g}" for key in more))
    return tables


def lm_eval_tables(results: dict[str, Any]) -> list[Table]:
    """Return what lm-eval found of tasks and groups, by their names, as one table, or none: a row for each metric."""
    table = Table("task", "metric", "filter", "score", "items")
    for name, result in results.items():
        for metric_filter, value in result.items():
            title, _, kept = metric_filter.partition(",")
            if not kept or title.endswith("_stderr"):
                continue
            error = result.get(f"{title}_stderr,{kept}")
            more = f" ± {error:.4g}" if isinstance(error, int | float) else ""
            figure = f"{value:.4g}{more}" if isinstance(value, int | float) else str(value)
            table.add_row(Text(printable(name)), title, kept, figure, str(result.get("sample_len", "")))
    return [table] if results else []


def _with_error(row: Metric, result: dict[str, Any]) -> str:
    error = result.get(f"{row.quantity}_stderr")
    return row.text(result[row.quantity]) + ("" if error is None else f" ± {row.text(error)}")


def _cut(results: list[dict[str, Any]]) -> str | None:
    """Return how many texts were too long for the context; None where all fit."""
    number = sum(result.get("choices_cut", 0) + result.get("prompts_cut", 0) for result in results)
    return f"{number:,} texts were too long: their beginnings were dropped" if number else None


def unspelled_line(result: dict[str, Any]) -> str | None:
    """Return what is to be said of text that the tokens do not spell; None where they spell all of it."""
    if not result.get("unspelled"):
        return None
    lost = counted(result["unspelled"], result["characters"], "characters")
    return f"{lost} are not in the tokenizer's vocabulary: bits per byte is not defined"


def label_table(result: dict[str, Any]) -> Table | None:
    """Return the scores of each label of a classifier, with its confusion matrix where that is not too wide.

    None where the run's task has no labels.
    """
    if "confusion" not in result:
        return None
    names = [printable(each["label"]) for each in result["labels"]]
    shown = names if len(names) <= MOST_COLUMNS else []
    table = Table("label", "examples", "precision", "recall", "F1", *(escape(f"as {name}") for name in shown))
    for name, each, counts in zip(names, result["labels"], result["confusion"], strict=True):
        figures = ["-" if each[key] is None else f"{each[key]:.3f}" for key in ("precision", "recall", "f1")]
        table.add_row(Text(name), f"{each['examples']:,}", *figures, *(f"{n:,}" for n in counts[: len(shown)]))
    return table


def prediction_lines(found: dict[str, Any]) -> tuple[str, str]:
    """Return a text, and the probabilities of its likeliest labels, for a terminal."""
    likeliest = list(found["probabilities"].items())[:MOST_LABELS]
    told = ", ".join(f"{printable(label)} {share:.1%}" for label, share in likeliest)
    return visible(found["prompt"]), told

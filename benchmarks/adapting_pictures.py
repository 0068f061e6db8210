"""Draw the pictures of docs/adapting.md from the results of the benchmarks: which weights to train, and what it costs.

    python benchmarks/adapting_pictures.py [--results benchmarks/results] [--out docs]

It reads classify-*.json, adapters-*.json and preference-*.json, which `classify.py`, `adapters.py` and `preference.py`
write with --out, and measures nothing.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
OURS, THEIRS, GREY = "#1f77b4", "#ff7f0e", "#8a8a8a"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    work = {name: workload(options.results, name) for name in ("classify", "adapters")}
    preferences = [json.loads(path.read_text()) for path in sorted(options.results.glob("preference-*.json"))]
    draw_spam(options.out / "spam.png", work["classify"]["candidates"])
    draw_adapters(options.out / "adapters.png", work["adapters"]["candidates"])
    draw_preferences(options.out / "preferences.png", [each["workloads"][0] for each in preferences])
    for name in ("spam", "adapters", "preferences"):
        print(options.out / f"{name}.png")


def workload(results: Path, name: str) -> dict[str, Any]:
    """Return what a benchmark has measured; the first file by name, where there are several."""
    found = sorted(results.glob(f"{name}-*.json"))
    if not found:
        raise SystemExit(f"error: --results={results}: has no {name}-*.json; make it: benchmarks/{name}.py --out FILE")
    work: dict[str, Any] = json.loads(found[0].read_text())["workloads"][0]
    return work


def draw_spam(path: Path, found: dict[str, Any]) -> None:
    """Draw the loss of each rate on the messages that choose it, and the accuracy of each seed on the test messages."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for way, row in found.items():
        left.plot([float(rate) for rate in row["tuning"]], list(row["tuning"].values()), marker="o", label=way)
    left.set(xscale="log", yscale="log", xlabel="optimizer.lr", ylabel="loss (nats per message)", title="each rate")
    left.legend(frameon=False, fontsize=8)
    for at, row in enumerate(found.values()):
        accuracies = row["scores"]["accuracy"]
        right.plot([at] * len(accuracies), accuracies, "o", alpha=0.6)
        right.plot([at - 0.2, at + 0.2], [statistics.mean(accuracies)] * 2, color="#222")
    right.set_xticks(range(len(found)), list(found))
    right.set(ylabel="accuracy", title="other messages, each seed")
    save(figure, path, left, right)


def draw_adapters(path: Path, found: dict[str, Any]) -> None:
    """Draw the speed of a step and its peak of memory, each as a share of full tuning with our model."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(found)[::-1]
    colors = [THEIRS if name.split()[0] in ("peft", "transformers") else OURS for name in names]
    full = found["full"]
    for panel, key in ((left, "tokens_per_cpu_second"), (right, "peak_mb")):
        values = [figure_of(found[name][key]) / figure_of(full[key]) for name in names]
        bars = panel.barh(names, values, color=colors)
        panel.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=8)
        panel.axvline(1, color=GREY, lw=0.8)
        panel.set_xlim(0, 1.15 * max(values))
    left.set(xlabel="tokens per second of CPU time, full tuning = 1", title="speed (more is better)")
    right.set(xlabel="peak of memory, full tuning = 1", title="memory (less is better)")
    save(figure, path, left, right)


def figure_of(value: Any) -> float:
    return float(value["median"] if isinstance(value, dict) else value)


def draw_preferences(path: Path, works: list[dict[str, Any]]) -> None:
    """Draw how often tuned models win against their base by the rule of the raters, with 95% intervals."""
    rows = []
    for work in works:
        how = work["settings"]
        name = how["loss"].upper() + (f", {how['adapter']}" if how.get("adapter") else "")
        rows += [(f"{name}: {rule}", each) for rule, each in work["rules"].items()]
    figure = Figure(figsize=(9, 0.9 + 0.45 * len(rows)), layout="constrained")
    panel = figure.subplots()
    for at, (_, each) in enumerate(rows):
        low, high = each["win_rate"] - each["low"], each["high"] - each["win_rate"]
        panel.errorbar(each["win_rate"], at, xerr=[[low], [high]], fmt="o", color=OURS, capsize=3)
    panel.axvline(0.5, color=GREY, lw=0.8)
    panel.set_yticks(range(len(rows)), [name for name, _ in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set(xlim=(0.4, 1), xlabel="win rate against the base, 95% interval (0.5: no preference)")
    save(figure, path, panel)


def save(figure: Figure, path: Path, *panels: Any) -> None:
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e6e6e6", axis="both")
        panel.set_axisbelow(True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
